"""linear_fast: sampled features, many learning rates at once, and the head that comes of them."""

import numpy as np
import pytest
import torch
from test_segmentation_linear import Blocks, Colors
from torch.nn import functional as F

from densessl.backbone_file import load_backbone
from densessl.errors import UserError
from densessl.segmentation import fast
from densessl.segmentation.evaluation import evaluate
from densessl.segmentation.protocols import find_protocol

SMALL = ["crops=12", "places=40", "iterations=60", "rows=64", "batch=4", "scale=null", "ratio=[1, 1]", "crop=[32, 32]"]
CPU = torch.device("cpu")


def small(*changes: str):
    return find_protocol("linear_fast", [*SMALL, "inference=whole", "photometric=false", "lrs=[1e-7, 3e-2]", *changes])


def test_features_at_pixels_are_the_maps_enlarged() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(3, 8, 12), torch.randn(2, 4, 6)]
    where = torch.arange(32 * 48)
    expected = torch.cat([F.interpolate(m[None], (32, 48), mode="bilinear")[0].flatten(1) for m in maps]).T
    torch.testing.assert_close(fast.at(maps, where, 48, (32, 48)), expected, rtol=1e-5, atol=1e-5)


def test_moments_in_parts_are_those_of_all_rows() -> None:
    rows = (torch.randn(1000, 5) * torch.tensor([1.0, 2, 3, 4, 5]) + 100).half()
    mean, variance = fast.moments(rows, chunk=64)
    torch.testing.assert_close(mean, rows.double().mean(0).float())
    torch.testing.assert_close(variance, rows.double().var(0, correction=0).float())


def test_it_learns_what_can_be_learnt_and_takes_the_rate_that_does() -> None:
    result = evaluate(Colors(), Blocks("train"), Blocks("val", count=2), small())
    assert result.miou > 0.95
    assert result.fitted["lr 0.03"] > 0.95 > result.fitted["lr 1e-07"]


def test_the_head_says_what_the_best_layer_says() -> None:
    """Logits at the sampled places, from the standardised features and from the head on the maps."""
    torch.manual_seed(0)
    backbone, data = load_backbone("test_convnext"), Blocks("train", size=(64, 64))
    protocol = small("crop=[64, 64]", "lrs=[1e-2]")
    head, _ = fast.fit(backbone, data, protocol, 0, CPU, 0)
    maps = backbone.stages(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        logits = head.eval()(maps)
        where = torch.arange(16 * 16)  # the finest map has 16 x 16 cells
        features = fast.at([m[0] for m in maps], where, 16, (16, 16))
        scale = (head.norm.running_var + head.norm.eps).rsqrt()
        expected = ((features - head.norm.running_mean) * scale) @ head.classify.weight[:, :, 0, 0].T + head.bias
    torch.testing.assert_close(logits[0].flatten(1).T, expected, rtol=1e-4, atol=1e-4)


def test_features_on_disk_give_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("test_convnext")
    heads = []
    for limit in (fast.IN_MEMORY, 0):
        monkeypatch.setattr(fast, "IN_MEMORY", limit)
        heads.append(fast.fit(backbone, Blocks("train"), small(), 0, CPU, 0)[0].state_dict())
    for key, value in heads[0].items():
        assert torch.equal(value, heads[1][key]), key


def test_each_layer_trains_as_it_would_alone() -> None:
    backbone, data = load_backbone("test_convnext"), Blocks("train")
    together = fast.fit(backbone, data, small("lrs=[1e-9, 1e-2]"), 0, CPU, 0)[0]
    alone = fast.fit(backbone, data, small("lrs=[1e-2]"), 0, CPU, 0)[0]
    torch.testing.assert_close(together.classify.weight, alone.classify.weight, rtol=1e-4, atol=1e-5)


def test_crops_with_few_labelled_pixels_give_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sparse(Blocks):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return image, np.where(np.indices(mask.shape).sum(0) % 16 == 0, mask, 255).astype(np.uint8)

    monkeypatch.setattr(fast, "ROWS", 7)
    found = fast.sample(Colors(), Sparse("train"), small("places=500"), 6, 0, CPU, 0, "")
    # One diagonal in 16 of 12 crops of 32 x 32.
    assert len(found.classes) == len(found.features) == len(found.pictures) == 12 * 64
    assert found.pictures.bincount().tolist() == [64 * n for n in found.pictures.bincount().div(64).int().tolist()]
    for label in (0, 1, 2):  # a row still has the features of its own class
        rows = found.features[found.classes == label].float()
        assert rows.var(0).max() < 0.3 * found.features.float().var(0).max()


def test_one_picture_cannot_both_train_and_choose() -> None:
    with pytest.raises(UserError, match=r"held_out=0.1 of 1 pictures leaves none to train on"):
        fast.fit(Colors(), Blocks("train", count=1), small(), 0, CPU, 0)


def test_the_rate_is_chosen_on_pictures_that_were_sampled() -> None:
    """With a part of the training pictures, the held-out ones are of that part."""
    result = evaluate(Colors(), Blocks("train", count=40), Blocks("val", count=2), small("fraction=0.1"))
    assert result.fitted["lr 0.03"] > 0.8


def test_crops_of_any_size_are_read_where_their_pixels_are() -> None:
    """40 is no multiple of the coarsest stride: crops are padded as pictures are when they are scored."""
    result = evaluate(Colors(), Blocks("train", size=(48, 48)), Blocks("val", count=2), small("crop=[40, 40]"))
    assert result.miou > 0.95


def test_features_beyond_float16_are_refused() -> None:
    class Loud(Colors):
        def stages(self, x):
            return [m * 1e6 for m in super().stages(x)]

    with pytest.raises(UserError, match="cached as float16"):
        fast.fit(Loud(), Blocks("train"), small(), 0, CPU, 0)
