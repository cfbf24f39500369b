"""Several processes share the validation pictures and count what one would have counted."""

import contextlib
import io
import json
import os

import numpy as np
import pytest
import torch
from spawned import spawn
from test_segmentation_linear import QUICK, Blocks

from densessl.commands.eval_seg import main
from densessl.segmentation.metrics import areas
from densessl.segmentation.protocols import PROTOCOLS
from densessl.segmentation.samples import InferenceSamples
from densessl.segmentation.scoring import Processes, score
from densessl.training.distributed import world_size
from densessl.training.launch import alone


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_shared_out_counts_add_up(world_size):
    """Also where there are more processes than pictures."""
    samples = InferenceSamples(Blocks("val", count=7), PROTOCOLS["linear_small"], (0,) * 3, (1,) * 3)
    device = torch.device("cpu")

    def predict(image: torch.Tensor, size: torch.Size) -> torch.Tensor:
        assert image.shape[1:] == size
        return (image.argmax(0) + (image[0] > 0.5).cumsum(1) // 30) % 3

    whole, shown = score(predict, samples, device=device)
    assert sorted(shown) == [0, 2, 4, 6]
    assert whole.confusion.sum() == 7 * 64 * 48
    assert torch.equal(whole.areas.sum(0), areas(whole.confusion))
    parts = [
        score(predict, samples, device=device, processes=Processes(rank, world_size)) for rank in range(world_size)
    ]
    for together, *apart in zip(whole, *(counts for counts, _ in parts), strict=True):
        assert torch.equal(torch.stack(apart).sum(0), together)
    assert all(index % world_size == 0 for index in parts[0][1])
    assert not any(shown for _, shown in parts[1:])
    for index, labels in parts[0][1].items():
        image, mask = samples[index]
        assert torch.equal(torch.from_numpy(labels).long(), predict(image, mask.shape))


def scored_by_two(rank, folder):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu"
    )
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        main([*(folder / "words").read_text().split("\n"), "--out", str(folder / "two")])
    return {"said": out.getvalue() + err.getvalue(), "connected": world_size()}


def test_two_processes_score_as_one(tmp_path, capsys):
    """Pictures of 7 are shared out 4 to 3; only the first process speaks and writes."""
    data = Blocks("train", count=7).write(tmp_path / "blocks")
    words = ["test_resnet", "--data", str(data), *QUICK, "--workers", "0", "--device", "cpu"]
    (tmp_path / "words").write_text("\n".join(words))
    (tmp_path / "port").write_text(alone()["MASTER_PORT"])
    first, second = spawn(scored_by_two, tmp_path)
    assert "mIoU" in first["said"]
    assert "validate 4/4" in first["said"]
    assert second["said"] == ""
    assert first["connected"] == second["connected"] == 1  # no longer

    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    for results in (one, two):
        del results["date"], results["seeds"][0]["seconds"], results["seeds"][0]["memory_gib"]
    assert np.sum(one["seeds"][0]["confusion"]) == 7 * 64 * 48
    assert one == two
