"""Backbones handed to other libraries, verified there before anything is written."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path

from densessl import __version__
from densessl.backbone_file import FILE_NAME, find_backbone
from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.export import timm, torchvision
from densessl.export.exporter import Exporter
from densessl.export.verify import TOLERANCE, differences
from densessl.files import aside
from densessl.key_report import key_report

EXPORTERS: dict[str, Exporter] = {"timm": timm, "torchvision": torchvision}


def export(spec: str | Path, target: str, out: str | Path | None = None) -> Path:
    """Write the backbone that ``spec`` means (see ``find_backbone``) for ``target``, with a JSON manifest beside it.

    By default NAME.TARGET.SUFFIX beside the backbone file. It is written only after the destination's own architecture
    loaded those very bytes strictly and its stage maps equalled ours; UserError otherwise, and nothing is left behind.
    Returns the path of the weights; ``manifest_path`` of it is the manifest's.
    """
    if target not in EXPORTERS:
        near = difflib.get_close_matches(target, EXPORTERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no export target {target!r}, only {', '.join(EXPORTERS)}{hint}")
    exporter = EXPORTERS[target]
    backbone = find_backbone(spec)
    out = _destination(Path(spec), backbone, target, exporter.SUFFIX, out)
    net = exporter.architecture(backbone).eval()
    wanted = net.state_dict()
    tensors = exporter.tensors(backbone, wanted)
    if report := key_report(wanted, tensors):
        raise UserError(f"not exported: {target}'s {backbone.name} would not load it: {report}")
    try:
        with aside(out) as part, aside(manifest_path(out)) as manifest_part:
            exporter.write({key: tensor.contiguous() for key, tensor in tensors.items()}, part)
            try:
                exporter.load(net, part)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"not exported: {target}'s {backbone.name} did not load it: {reason}") from None
            found = differences(backbone.stages, lambda image: exporter.stages(net, image), backbone.in_chans)
            if not all(difference <= TOLERANCE for difference in found):
                sizes = ", ".join(f"{difference:.1e}" for difference in found)
                raise UserError(
                    f"not exported: {target}'s {backbone.name} loaded it, but its four stage maps differ by {sizes} of "
                    f"their size; {TOLERANCE:.0e} is allowed"
                )
            facts = _manifest(backbone, target, out.name, part, found)
            facts["snippet"] = exporter.snippet(backbone, net, out)
            manifest_part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: can't be written there ({error})") from None
    return out


def manifest_path(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _destination(spec: Path, backbone: Backbone, target: str, suffix: str, out: str | Path | None) -> Path:
    folder = spec if spec.is_dir() else spec.parent
    path = Path(out) if out is not None else folder
    if path.is_dir():
        path /= f"{backbone.name}.{target}{suffix}"
    if path.suffix != suffix:
        raise UserError(f"--out {path}: {target} wants a file that ends with {suffix}")
    if path.exists() and any(path.samefile(source) for source in (spec, spec / FILE_NAME) if source.exists()):
        raise UserError(f"--out {path}: is the backbone file itself")
    return path


def _manifest(backbone: Backbone, target: str, name: str, file: Path, found: list[float]) -> dict[str, object]:
    metadata = backbone.metadata
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {
        "target": target,
        "file": name,
        "sha256": digest,
        "architecture": backbone.name,
        "input_size": [backbone.in_chans, 224, 224],
        "fixed_input_size": False,
        "colour_order": "RGB" if backbone.in_chans == 3 else f"{backbone.in_chans} channels as in pretraining",
        "mean": metadata["mean"],
        "std": metadata["std"],
        "channels": backbone.channels,
        "strides": backbone.strides,
        "method": metadata["method"],
        "step": metadata["step"],
        "licence": metadata.get("licence", "not stated; see that of the pictures and of the weights it started from"),
        "densessl": metadata.get("densessl", __version__),
        "verified": {"stage_differences": found, "relative_to": "the largest value of the stage", "allowed": TOLERANCE},
    }
