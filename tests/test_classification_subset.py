"""Which training pictures count: exactly those of a list, or equally many of each class; and their random crops."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_classification import Colours, labelled, write_folders, write_shards

from densessl.classification.crops import Batches, RandomCrops, crop_loader
from densessl.classification.labelled import Labelled, open_labelled
from densessl.classification.protocols.semi import SEMI_1
from densessl.classification.subset import balanced, list_title, listed
from densessl.errors import UserError


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("make", [write_folders, write_shards])
def test_a_list_is_taken_exactly(tmp_path, make):
    train = open_labelled(make(tmp_path / "data", {"train": 30}), "train")
    names = [Path(train.pictures.path(i)).name for i in range(30)]
    chosen = [names[i] for i in (17, 3, 29, 8)]
    rows = listed(train, write(tmp_path / "list.txt", *chosen, ""))
    assert rows.tolist() == [3, 8, 17, 29]
    assert {names[i] for i in rows} == set(chosen)
    title = list_title(tmp_path / "list.txt")
    assert title.startswith("list.txt [")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*chosen, ""]).encode())
    assert listed(train, tmp_path / "list.txt").tolist() == [3, 8, 17, 29]
    assert list_title(write(tmp_path / "list.txt", *chosen[1:])) != title


def test_wrong_lists_are_refused_with_their_lines(tmp_path):
    root, file = write_folders(tmp_path / "data", {"train": 20}), tmp_path / "list.txt"
    train = open_labelled(root, "train")
    name = Path(train.pictures.path(4)).name
    wrong = [f"n0_{i}.JPEG" for i in range(5)]
    with pytest.raises(
        UserError, match=r"5 of 6 names are no .*: n0_0\.JPEG \(line 2\), n0_1.*, n0_2\.JPEG \(line 4\), "
    ):
        listed(train, write(file, name, *wrong))
    with pytest.raises(UserError, match=r"1 of 2 names .*: x \(line 3\); the first training picture is .*png"):
        listed(train, write(file, name, "", "x"))
    with pytest.raises(UserError, match=rf"{name} stands on lines 1 and 3"):
        listed(train, write(file, name, "x", name))
    with pytest.raises(UserError, match="list is empty"):
        listed(train, write(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"list\.txt, line 1: the byte 0xff is no UTF-8"):
        listed(train, file)
    with pytest.raises(UserError, match="can't be read: No such file"):
        listed(train, tmp_path / "none.txt")
    for folder in ("red", "blue"):
        (root / "train" / folder / "same.png").write_bytes(b"")
    train = open_labelled(root, "train")
    with pytest.raises(UserError, match=r"line 2: same\.png may be .*blue/same\.png or .*red/same\.png"):
        listed(train, write(file, name, "same.png"))
    (row,) = listed(train, write(file, "red/same.png"))
    assert train.pictures.path(row).endswith("train/red/same.png")


def test_a_share_holds_equally_many_of_each_class():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2, 3, 7], [500, 300, 100, 90, 10]))
    rows = balanced(labels, 0.1, 0)
    assert len(set(rows)) == 100
    assert np.all(np.diff(rows) > 0)
    counts = np.bincount(labels[rows]).tolist()
    assert sorted(counts[:4]) == [22, 22, 23, 23]
    assert counts[4:] == [0, 0, 0, 10]
    assert np.bincount(labels[balanced(labels, 0.001, 0)], minlength=8).tolist() == [1, 1, 1, 1, 0, 0, 0, 1]
    assert np.array_equal(rows, balanced(labels, 0.1, 0))
    assert not np.array_equal(rows, balanced(labels, 0.1, 1))
    assert np.array_equal(balanced(labels, 1.0, 0), np.arange(1000))
    # Each picture of a class is as likely as another: 4 standard deviations of 300 draws of 3 of 30.
    alike = np.repeat([0, 1], [30, 30])
    counts = sum(np.bincount(balanced(alike, 0.1, seed), minlength=60) for seed in range(300))
    assert abs(counts - 30).max() < 4 * (300 * 0.1 * 0.9) ** 0.5


def test_each_epoch_sees_each_picture_once_in_batches_of_nearly_equal_size():
    rows = np.arange(100, 123)
    batches = Batches(rows, 5, 3, seed=0)
    found = list(batches)
    assert len(found) == len(batches) == 15
    orders = []
    for epoch in range(3):
        part = found[5 * epoch : 5 * epoch + 5]
        assert {e for batch in part for e, _ in batch} == {epoch}
        assert sorted(map(len, part)) == [4, 4, 5, 5, 5]
        orders.append([row for batch in part for _, row in batch])
        assert sorted(orders[-1]) == rows.tolist()
    assert orders[0] != orders[1] != orders[2]
    assert found == list(Batches(rows, 5, 3, seed=0)) != list(Batches(rows, 5, 3, seed=1))


def test_whole_crops_are_the_pictures_and_their_mirrors():
    train = labelled(12)
    for flip in (0.0, 1.0):
        protocol = dataclasses.replace(SEMI_1, scale=(1.0, 1.0), flip=flip)
        crops = RandomCrops(train, 32, protocol, seed=3)
        same = 0
        for row in range(12):
            crop, label = crops[0, row]
            assert label == train.labels[row]
            picture = train.pictures.read(row)
            same += np.array_equal(crop.numpy().transpose(1, 2, 0), picture[:, ::-1] if flip else picture)
        assert same == 12


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_crops_follow_from_the_seed_whatever_the_workers():
    train, protocol = labelled(10), dataclasses.replace(SEMI_1, batch=4, epochs=2)
    options = {"side": 24, "pin_memory": False}
    runs = [
        list(crop_loader(train, np.arange(3, 10), protocol, seed=s, workers=w, **options))
        for s, w in ((0, 0), (0, 1), (1, 0))
    ]
    for (one, labels), (same, _), (other, _) in zip(*runs, strict=True):
        assert one.shape in ((4, 3, 24, 24), (3, 3, 24, 24))
        assert labels.shape == one.shape[:1]
        assert one.equal(same)
        assert not one.equal(other)
    assert not runs[0][0][0].equal(runs[0][2][0])  # other crops in the next epoch
    bad = Colours(10, bad=(5,))
    broken = Labelled(bad, bad.labels, bad.names)
    found = list(crop_loader(broken, np.arange(10), protocol, seed=0, workers=0, **options))
    assert [str(item).split(";")[0] for item in found if isinstance(item, UserError)] == ["5.png: cut short"] * 2
