"""Which pictures each step sees, whatever the processes."""

import itertools
import logging
import multiprocessing
import os

import numpy as np
import pytest
import torch

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.decoding import Unreadable
from densessl.data.loader import Loader
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.data.scenes import Scenes
from densessl.data.sources.files import Files
from densessl.errors import UserError
from densessl.signals import SIGNALS

VIEWS = ViewsConfig(
    large=CropsConfig(count=2, size=24, scale=(0.3, 1)), small=CropsConfig(count=2, size=16, scale=(0.05, 0.3))
)
UNCHANGED = PhotometricConfig(jitter_p=0, grey_p=0, blur_p=(0, 0), solarize_p=(0, 0))


class Noise:
    """Pictures in memory; those in `bad` cannot be read."""

    pixels = Pixels()

    def __init__(self, count: int, bad: tuple[int, ...] = (), flat: bool = False) -> None:
        self.bad = bad
        rng = np.random.default_rng(0)
        self.pictures = rng.integers(0, 256, (count, 120, 150, 3), dtype=np.uint8)
        if flat:
            self.pictures[:] = np.arange(count)[:, None, None, None]

    def __len__(self) -> int:
        return len(self.pictures)

    def path(self, i: int) -> str:
        return f"{i}.jpg"

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        if i in self.bad:
            raise Unreadable(self.path(i), "broken")
        return self.pictures[i]


def loader(images, photometric=UNCHANGED, **options) -> Loader:
    return Loader(images, VIEWS, photometric, **{"batch": 4, "seed": 0, "workers": 0} | options)


def tensors(views):
    return [tensor for view in views.large + views.small for tensor in view]


def collect(loader, step, steps):
    """{step: all tensors of its views}"""
    return {number: tensors(views) for number, views in loader.from_step(step, steps)}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_shapes():
    [(step, views)] = loader(Noise(4)).from_step(0, 1)
    assert step == 0
    assert [tuple(view.image.shape) for view in views.large] == [(4, 3, 24, 24)] * 2
    assert [tuple(view.image.shape) for view in views.small] == [(4, 3, 16, 16)] * 2
    for view in views.large + views.small:
        assert view.image.dtype == torch.uint8
        assert view.affine.shape == (4, 2, 3)
        assert view.affine.dtype == torch.float32


def test_no_two_crops_of_a_picture_are_equal_with_4_workers_over_2_epochs():
    images = Noise(12)
    steps = 2 * loader(images).steps_per_epoch
    found = collect(loader(images, PhotometricConfig(), workers=4), 0, steps)
    for parts in (slice(0, 4), slice(4, 8)):  # images and affines of the large views, then of the small
        rows = [tensor.numpy() for step in found.values() for tensor in step[parts][::2]]
        crops = [row.tobytes() for tensor in rows for row in tensor]
        assert len(crops) == 12 * 2 * 2
        assert len(set(crops)) == len(crops)


def test_workers_change_nothing():
    images = Noise(10)
    steps = 2 * loader(images).steps_per_epoch + 1
    alone = collect(loader(images, PhotometricConfig()), 0, steps)
    for workers in (1, 4):
        others = collect(loader(images, PhotometricConfig(), workers=workers), 0, steps)
        assert list(others) == list(range(steps))
        assert all(same(alone[step], others[step]) for step in range(steps))
    another = collect(loader(images, PhotometricConfig(), seed=1), 0, 1)
    assert not same(alone[0], another[0])


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_see_what_one_would(world_size):
    images = Noise(11, bad=(3,))
    alone = collect(loader(images), 0, 5)
    ranks = [collect(loader(images, rank=rank, world_size=world_size), 0, 5) for rank in range(world_size)]
    for step in alone:
        together = [torch.cat(parts) for parts in zip(*(rank[step] for rank in ranks), strict=True)]
        assert same(alone[step], together)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_at_any_step_sees_the_rest(workers):
    images = Noise(10)
    whole = collect(loader(images, workers=workers), 0, 7)
    for step in (1, 2, 5):
        rest = collect(loader(images, workers=workers), step, 7)
        assert list(rest) == list(range(step, 7))
        assert all(same(whole[number], rest[number]) for number in rest)
    assert collect(loader(images), 7, 7) == {}


def test_epochs_are_permutations_that_differ():
    images = Noise(22, flat=True)  # the grey of a picture is its number
    one = loader(images)
    assert one.steps_per_epoch == 5
    found = collect(one, 0, 15)
    epochs = [
        torch.cat([found[step][0][:, 0, 0, 0] for step in range(first, first + 5)]).tolist() for first in (0, 5, 10)
    ]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert not any(a == b for a, b in itertools.combinations(epochs, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_are_replaced_counted_and_named_once(caplog, workers):
    images = Noise(20, bad=(4, 5, 19), flat=True)
    one = loader(images, workers=workers)
    with caplog.at_level(logging.WARNING, "densessl"):
        found = collect(one, 0, 10)
    assert sorted(one.failed) == ["19.jpg", "4.jpg", "5.jpg"]
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"unreadable picture skipped: {name}: broken" for name in ("19.jpg", "4.jpg", "5.jpg")
    ]
    for first in (0, 5):  # the next readable one stands in
        seen = sorted(torch.cat([found[step][0][:, 0, 0, 0] for step in range(first, first + 5)]).tolist())
        assert seen == sorted([*range(4), 6, 6, 6, *range(7, 19), 0])
    # A stand-in has crops of its own.
    affines = torch.cat([found[step][1][found[step][0][:, 0, 0, 0] == 6] for step in range(5)])
    assert len(affines.unique(dim=0)) == 3


def test_too_many_unreadable_pictures_stop_the_run(caplog):
    images = Noise(40, bad=tuple(range(0, 40, 4)))
    assert len(collect(loader(images, unreadable=0.25), 0, 10)) == 10
    with pytest.raises(UserError, match=r"\d of 40 pictures are unreadable, data.unreadable allows 4") as caught:
        collect(loader(images, unreadable=0.1), 0, 20)
    assert str(caught.value).count(".jpg: broken") == 5
    assert len(collect(loader(Noise(8, bad=(0, 1, 2)), unreadable=0.0), 0, 2)) == 2  # a few are always allowed


@pytest.mark.parametrize("workers", [0, 1])
def test_folder_with_only_corrupt_files(tmp_path, workers):
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(i * 10))
    with pytest.raises(UserError, match=r"6 of 6 pictures are unreadable(?s:.)*0\.jpg") as caught:
        collect(loader(open_pictures(str(tmp_path)), workers=workers), 0, 2)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {"world_size": 8, "batch": 8}, "8 processes but 3 pictures"),
        (7, {"batch": 8}, "batch=8 but there are 7 pictures"),
        (9, {"batch": 8, "world_size": 3}, "batch=8 cannot be shared equally by 3 processes"),
    ],
)
def test_errors(count, options, message):
    with pytest.raises(UserError, match=message):
        loader(Noise(count), **options)


def test_open_pictures(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert isinstance(open_pictures("scenes"), Scenes)
    assert isinstance(open_pictures(str(tmp_path)).source, Files)
    with pytest.raises(UserError, match=r"data\.path=.*no such folder"):
        open_pictures(str(tmp_path / "scenes"))
    with pytest.raises(UserError, match="RGB"):
        open_pictures("scenes", Pixels(1))


def test_workers_survive_a_signal_to_their_group_and_end_with_the_run():
    steps = loader(Noise(8), workers=2).from_step(0, 20)
    next(steps), next(steps)  # one from each worker: both have started
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in SIGNALS:
            os.kill(worker.pid, number)
    assert len(list(steps)) == 18
    assert not any(worker.is_alive() for worker in workers)
