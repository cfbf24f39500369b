"""Data sets in Hugging Face's form: every way they lie on a disk, and what is in a row."""

import multiprocessing
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_shards import picture

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.decoding import Unreadable
from densessl.data.loader import Loader
from densessl.data.pictures import open_pictures
from densessl.data.sources import open_source
from densessl.errors import UserError

PICTURES = [picture(n) for n in range(12)]


@pytest.fixture
def hf(tmp_path, monkeypatch):
    """The library, with a cache of its own."""
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's library: pip install 'densessl[hf]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    return datasets


@pytest.fixture
def rows(hf):
    features = hf.Features({"label": hf.Value("int64"), "picture": hf.Image()})
    cells = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(PICTURES)]
    return hf.Dataset.from_dict({"label": list(range(12)), "picture": cells}, features=features)


def stored(path) -> list[bytes]:
    source = open_source(f"hf:{path}")
    return [source.stored(i) for i in range(len(source))]


def test_every_form(hf, rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved", num_shards=3)
    hf.DatasetDict({"train": rows.select(range(9)), "test": rows.select(range(9, 12))}).save_to_disk(
        tmp_path / "splits"
    )
    hub = tmp_path / "clone:of/data"  # as it is fetched from the Hub
    hub.mkdir(parents=True)
    rows.select(range(5)).to_parquet(hub / "train-00000-of-00002.parquet")
    rows.select(range(5, 9)).to_parquet(hub / "train-00001-of-00002.parquet")
    rows.select(range(9, 12)).to_parquet(hub / "test-00000-of-00001.parquet")
    (hub.parent / "README.md").write_text("# pictures\n")
    for path, wanted in {
        "saved": PICTURES,
        "saved:train": PICTURES,
        "saved/data-*.arrow": PICTURES,
        "saved/data-00001-of-00003.arrow": PICTURES[4:8],
        "splits": PICTURES[:9],
        "splits/test": PICTURES[9:],
        "splits:test": PICTURES[9:],
        "splits:test:picture": PICTURES[9:],
        "splits::picture": PICTURES[:9],
        "clone:of": PICTURES[:9],
        "clone:of:test:picture": PICTURES[9:],
        "clone:of/data/train-*.parquet": PICTURES[:9],
        "clone:of/data/test-00000-of-00001.parquet": PICTURES[9:],
    }.items():
        assert stored(tmp_path / path) == wanted, path


def test_rows_are_pictures_for_training(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    images = open_pictures(f"hf:{tmp_path}/saved")
    assert images.path(3) == f"{tmp_path}/saved:train row 3 (3.png)"
    assert (images.read(3) == np.array([3, 6, 7], np.uint8)).all()
    views = ViewsConfig(large=CropsConfig(count=2, size=16, scale=(0.5, 1)))

    def run(workers):
        loader = Loader(images, views, PhotometricConfig(), batch=4, seed=0, workers=workers)
        return [views for _, views in loader.from_step(0, 7)]

    for alone, many in zip(run(0), run(2), strict=True):
        for a, b in zip(alone.large, many.large, strict=True):
            assert torch.equal(a.image, b.image)


@pytest.mark.parametrize("kind", ["bytes", "paths", "image of paths", "unnamed"])
def test_what_a_cell_may_hold(hf, tmp_path, kind):
    files = [str(tmp_path / f"{n}.png") for n in range(12)]
    for file, data in zip(files, PICTURES, strict=True):
        Path(file).write_bytes(data)
    if kind == "bytes":
        rows = hf.Dataset.from_dict({"a": PICTURES}, features=hf.Features({"a": hf.Value("binary")}))
    elif kind == "unnamed":  # as of tables that others wrote
        rows = hf.Dataset.from_dict({"a": [{"path": None, "bytes": data} for data in PICTURES]})
    else:
        rows = hf.Dataset.from_dict({"a": files})
        rows = rows.cast_column("a", hf.Image()) if kind == "image of paths" else rows
    rows.save_to_disk(tmp_path / "saved")
    if kind != "image of paths":
        with pytest.raises(UserError, match=r"has 0 columns of pictures; hf:.*saved:train:COLUMN names one of a"):
            open_source(f"hf:{tmp_path}/saved")
    assert stored(tmp_path / "saved::a") == PICTURES
    if kind == "paths":  # the library embeds those of images
        Path(files[5]).unlink()
        with pytest.raises(Unreadable, match=r"saved:train row 5 \(.*5\.png\): No such file"):
            stored(tmp_path / "saved::a")


def test_empty_cells_are_named(hf, tmp_path):
    features = hf.Features({"image": hf.Image()})
    cells = [{"bytes": PICTURES[0], "path": None}, None, {"bytes": b"", "path": "b.png"}]
    hf.Dataset.from_dict({"image": cells}, features=features).save_to_disk(tmp_path / "saved")
    images = open_pictures(f"hf:{tmp_path}/saved")
    assert images.read(0).shape == (16, 20, 3)
    with pytest.raises(Unreadable, match=r"saved:train row 1: the row is empty"):
        images.read(1)
    with pytest.raises(Unreadable, match=r"saved:train row 2 \(b\.png\): empty file"):
        images.read(2)


def test_messages(hf, rows, tmp_path):
    from pyarrow import parquet

    rows.save_to_disk(tmp_path / "saved")
    hf.DatasetDict({"val": rows, "test": rows}).save_to_disk(tmp_path / "splits")
    rows.add_column("other", PICTURES).cast_column("other", hf.Image()).save_to_disk(tmp_path / "two")
    parquet.ParquetWriter(tmp_path / "empty.parquet", rows.data.schema).close()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.jpg").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.arrow").write_bytes(b"x" * 100)
    (tmp_path / "broken/a.parquet").write_bytes(b"x" * 100)
    for path, message in {
        "none": "no folder or file .*none; a data set of the Hub is fetched first, by hf download",
        "splits": "has no split train, but val, test: hf:.*splits:SPLIT names one",
        "saved:val": "has no split val, but train",
        "saved:train:image": "has no column image; hf:.*saved:train:COLUMN names one of label, picture",
        "saved::label": "column label holds int64, not pictures",
        "two": "has 2 columns of pictures; .* names one of label, picture, other",
        "empty.parquet": "no data",
        "folder": r"neither written by save_to_disk nor with \.parquet or \.arrow files",
        "folder/*.jpg": r"\.jpg instead of \.parquet or \.arrow",
        "broken/a.arrow": "data.path=hf:.*a.arrow: ArrowInvalid",
        "broken/*.parquet": "data.path=hf:.*parquet: ",
    }.items():
        with pytest.raises(UserError, match=message):
            open_source(f"hf:{tmp_path}/{path}")


def test_rows_have_one_hash_wherever_they_lie(hf, rows, tmp_path):
    def hashed(rows, name: str) -> str:
        rows.save_to_disk(tmp_path / name)
        return open_source(f"hf:{tmp_path / name}").list_hash()

    same = {hashed(rows, "here"), hashed(rows.flatten_indices(), "there"), hashed(rows.select(range(12)), "selected")}
    rows.to_parquet(tmp_path / "parquet" / "a.parquet")
    same.add(open_source(f"hf:{tmp_path / 'parquet'}").list_hash())
    assert len(same) == 1
    others = {hashed(rows.select([1, 0, *range(2, 12)]), "turned"), hashed(rows.select(range(11)), "fewer")}
    larger = [{"bytes": data + b"x" * (n == 5), "path": f"{n}.png"} for n, data in enumerate(PICTURES)]
    renamed = [{"bytes": data, "path": f"{n + n // 11}.png"} for n, data in enumerate(PICTURES)]
    for name, cells in (("larger", larger), ("renamed", renamed)):
        others.add(
            hashed(hf.Dataset.from_dict({"picture": cells}, features=hf.Features({"picture": hf.Image()})), name)
        )
    paths = hf.Dataset.from_dict({"picture": ["a.png", "b.png"]}, features=hf.Features({"picture": hf.Value("string")}))
    paths.save_to_disk(tmp_path / "paths")
    others.add(open_source(f"hf:{tmp_path / 'paths'}:train:picture").list_hash())
    assert len(others - same) == 5


def test_the_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"data\.path=hf:.*: pip install 'densessl\[hf\]'"):
        open_source(f"hf:{tmp_path}")


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    found = re.search(r"^Anonymous: *(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return 1024 * int(found[1])


def used(source, answers) -> None:
    before = anonymous()
    for i in range(len(source)):
        source.stored(i)
    answers.put(anonymous() - before)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is told apart on Linux only")
def test_forked_processes_share_the_table(hf, tmp_path):
    """Of 100 MB of rows, which are mapped and not read."""
    features = hf.Features({"a": hf.Image()})
    rows = hf.Dataset.from_dict({"a": [{"bytes": bytes([n]) * 1_000_000, "path": None} for n in range(100)]}, features)
    rows.save_to_disk(tmp_path / "saved")
    before = anonymous()
    source = open_source(f"hf:{tmp_path}/saved")
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    process = fork.Process(target=used, args=(source, answers))
    process.start()
    assert answers.get(timeout=60) < 30e6
    process.join()
    used(source, answers)
    assert answers.get(timeout=60) < 30e6
    assert anonymous() - before < 30e6
