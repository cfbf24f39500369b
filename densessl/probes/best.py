"""The best backbone of a run so far, by one probe: RUN/backbone_best.safetensors, which says how good it is itself."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from densessl.backbone_file import save_backbone
from densessl.backbones import Backbone

FILE_NAME = "backbone_best.safetensors"


class Best:
    """``probe`` says what its score is a score of; a file with another probe's score is no best.

    That the file is asked lets a resumed run go on from it, whichever state it goes on from.
    """

    def __init__(self, run: Path, probe: str) -> None:
        self._file, self._probe = run / FILE_NAME, probe
        self._score: float | None = None

    def better(self, score: float) -> bool:
        if self._score is None:
            self._score = self._read()
        return score > self._score

    def keep(self, backbone: Backbone, score: float, **facts: Any) -> None:
        """``facts`` are save_backbone's. Raises UserError where the file can't be written; the old one stays then."""
        save_backbone(self._file, backbone, **facts, extra={"probe": self._probe, "score": repr(score)})
        self._score = score

    def _read(self) -> float:
        with suppress(OSError, SafetensorError, KeyError, ValueError), safe_open(self._file, framework="pt") as file:
            metadata = file.metadata()
            if metadata["probe"] == self._probe and math.isfinite(score := float(metadata["score"])):
                return score
        return -math.inf
