"""Tar shards: the index against the standard library's, labels, and every way a shard can be broken."""

import gc
import gzip
import io
import multiprocessing
import os
import pickle
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.decoding import Unreadable
from densessl.data.loader import Loader
from densessl.data.pictures import StoredPictures, open_pictures
from densessl.data.pixels import Pixels
from densessl.data.sources import shards as module
from densessl.data.sources.braces import expanded
from densessl.data.sources.files import Files
from densessl.data.sources.shards import Shards, shard_files
from densessl.errors import UserError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def picture(number: int, form: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20 + number, 16), (number, 2 * number, 7)).save(buffer, form)
    return buffer.getvalue()


def read(shards: Shards, i: int) -> np.ndarray:
    return StoredPictures(shards, Pixels()).read(i)


def write(path: Path, files: dict[str, bytes], form: str = "pax") -> str:
    with tarfile.open(path, "w", format=FORMATS[form]) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1.5  # a pax header of its own: ustar has whole seconds
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            tar.addfile(entry, io.BytesIO(data))
    return str(path)


def sample(numbers, ending: str = "png", form: str = "png") -> dict[str, bytes]:
    files = {}
    for n in numbers:
        files |= {f"{n:05d}.{ending}": picture(n, form), f"{n:05d}.cls": str(n % 4).encode()}
    return files


@pytest.mark.parametrize("form", FORMATS)
def test_index_is_that_of_tarfile(tmp_path, form):
    deep = "/".join(["folder" * 5] * 6)  # longer than 100 bytes
    endings = ["png", "JPG", "jpeg", "webp"]
    files = {"./": b"", "a/": b"", "notes.txt": b"x" * 700, "a/.hidden.png": b"x"}
    for n in range(12):
        key = f"{deep if n % 3 == 0 else 'a'}/{n:03d}" + ("é" if n == 5 and form != "ustar" else "")
        files |= {f"{key}.json": b"{}", f"{key}.{endings[n % 4]}": picture(n), f"{key}.seg.png": b"x"}
    if form != "ustar":  # which has no room for it
        files["b" * 300 + ".jpg"] = picture(12)
    shards = Shards([write(tmp_path / "a.tar", files, form)])
    with tarfile.open(tmp_path / "a.tar") as tar:
        wanted = [m for m in tar if m.name in files and m.name.count(".") == 1 and not m.name.endswith(("json", "txt"))]
    assert [(int(p["offset"]), int(p["size"])) for p in shards.index] == [(m.offset_data, m.size) for m in wanted]
    assert len(shards) == 12 + (form != "ustar")
    for i, member in enumerate(wanted):
        assert np.array_equal(read(shards, i), np.asarray(Image.open(io.BytesIO(files[member.name]))))
    assert shards.path(1) == f"{tmp_path}/a.tar/a/001.JPG"


def test_links_and_folders_are_no_pictures_and_shift_nothing(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in [("d.png", tarfile.DIRTYPE), ("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE)]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, "1.png", 0
            tar.addfile(entry)
        entry = tarfile.TarInfo("1.png")
        entry.size = len(picture(1))
        tar.addfile(entry, io.BytesIO(picture(1)))
    shards = Shards([str(tmp_path / "a.tar")])
    assert [shards.path(i) for i in range(len(shards))] == [f"{tmp_path}/a.tar/1.png"]
    assert read(shards, 0).shape == (16, 21, 3)


def test_order_is_by_shard_then_as_stored(tmp_path):
    for name, numbers in {"t-1.tar": [9, 3], "t-0.tar": [7, 8, 1], "t-2.tar": []}.items():
        write(tmp_path / name, sample(numbers))
    shards = Shards(shard_files(str(tmp_path)))
    assert [read(shards, i)[0, 0, 0] for i in range(len(shards))] == [7, 8, 1, 9, 3]
    assert shards.labels().tolist() == [3, 0, 1, 1, 3]
    assert shards.labels().dtype == np.int64


def test_labels_need_not_stand_beside_their_pictures(tmp_path):
    files = {"b.cls": b" 12\n", "a.png": picture(1), "x/b.png": picture(2), "b.png": picture(3)}
    files |= {"x/b.cls": b"5", "a.cls": b"0", "c.cls": b"7"}
    assert Shards([write(tmp_path / "a.tar", files)]).labels().tolist() == [0, 5, 12]


@pytest.mark.parametrize("label", [None, b"", b"dog", b"-1", b"1.0", b"9" * 30])
def test_pictures_without_a_class_number_are_counted_and_named(tmp_path, label):
    files = sample(range(3)) | {"no.png": picture(3)} | ({"no.cls": label} if label is not None else {})
    shards = Shards([write(tmp_path / "a.tar", files)])
    assert read(shards, 3).shape == (16, 23, 3)  # pretraining asks for none
    with pytest.raises(UserError, match=r"1 of 4 pictures have no KEY\.cls .*a\.tar/no\.png"):
        shards.labels()


def test_every_cut_is_found(tmp_path):
    whole = Path(write(tmp_path / "whole.tar", sample(range(2)), "ustar")).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        last = tar.getmembers()[-1]
        end = last.offset_data + 512  # where the first block of zeros begins
    cut = tmp_path / "cut.tar"
    for length in [*range(0, end, 128), end - 1, end, end + 511]:
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.tar: cut short"):
            Shards([str(cut)])
    cut.write_bytes(whole[: end + 512])
    assert len(Shards([str(cut)])) == 2
    cut.write_bytes(whole[:540])
    with pytest.raises(UserError, match=r"cut short: 00000\.png ends at byte \d+, the file at 540"):
        Shards([str(cut)])


def test_what_is_no_tar_is_named(tmp_path):
    whole = Path(write(tmp_path / "a.tar", sample(range(3)))).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        header = next(m for m in tar if m.name == "00001.png").offset_data - 512
    broken = bytearray(whole)
    broken[header + 3] ^= 1
    for data, message in [
        (bytes(broken), f"no tar header at byte {header}"),
        (gzip.compress(whole, 0), "no tar header at byte 0: broken, or compressed"),
        (whole.replace(b" mtime=1.5", b"!mtime=1.5"), "no tar header at byte 0"),
        (b"", "cut short: it ends at byte 0"),
    ]:
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            Shards([str(tmp_path / "a.tar"), str(tmp_path / "bad.tar")])
        assert str(error.value).startswith(str(tmp_path / "bad.tar"))
    with pytest.raises(UserError, match=r"none\.tar: can't be read \(No such file"):
        Shards([str(tmp_path / "none.tar")])
    with pytest.raises(UserError, match=r"empty\.tar: no pictures \(found 2 \.txt, 1 \.mp4\)"):
        Shards([write(tmp_path / "empty.tar", {"a.txt": b"", "b.txt": b"", "b.mp4": b"", "a.cls": b"1"})])


def test_names_with_dots_and_unknown_endings_are_pictures_too(tmp_path):
    """A class is found by the whole name and by the part before the first dot."""
    jpeg = picture(5, "jpeg")
    files = {
        **{
            "track 1.0 v1.2.jpg": jpeg,
            "track 1.0 v1.2.cls": b"1",
            "track 2.0 v1.2.jpg": jpeg,
            "track 2.0 v1.2.cls": b"2",
        },
        **{"3.left.png": picture(3), "3.right.png": picture(4), "3.cls": b"3"},
        **{"d.e/4.jfif": jpeg, "d.e/4.cls": b"4", "d.e/5": picture(5, "gif"), "d.e/5.cls": b"5"},
    }
    shards = Shards([write(tmp_path / "a.tar", files)])
    assert shards.labels().tolist() == [1, 2, 3, 3, 4, 5]
    assert [read(shards, i).shape[1] for i in range(6)] == [25, 25, 23, 24, 25, 25]
    assert str(shards.contents) == "2 .jpg, 2 .png, 1 .jfif, 1 without an ending"


def test_what_says_something_of_a_picture_is_none_and_is_counted(tmp_path):
    """As WebDataset has masks."""
    files = {
        "1.seg.png": picture(9),
        "1.jpg": picture(1, "jpeg"),
        "1.json": b"{}",
        "._1.jpg": b"x",
        "2.seg.png": picture(2),
    }
    file = write(tmp_path / "a.tar", files)
    with tarfile.open(file, "a") as tar:
        for kind, name in ((tarfile.LNKTYPE, "3.jpg"), (tarfile.SYMTYPE, "4.jpg"), (tarfile.FIFOTYPE, "5.jpg")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "1.jpg"
            tar.addfile(entry)
    shards = Shards([file])
    assert [read(shards, i).shape[1] for i in range(len(shards))] == [21, 22]
    wanted = "left out: 2 links, 1 .json, 1 .seg.png, 1 hidden, 1 of special kinds"
    assert str(shards.contents) == f"1 .jpg, 1 .png; {wanted}"


@pytest.mark.parametrize("zeros", [0, 512, 512 * 300])
def test_tars_that_were_joined_are_read_to_the_end(tmp_path, zeros):
    """As GNU tar does with --ignore-zeros."""
    parts = [Path(write(tmp_path / f"{n}.tar", sample(range(3 * n, 3 * n + 3)))).read_bytes() for n in range(3)]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(bytes(zeros).join(parts))
    shards = Shards([str(joined)])
    listed = subprocess.run(["tar", "-itf", joined], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [shards.path(i) for i in range(len(shards))] == [f"{joined}/{name}" for name in listed if "png" in name]
    assert shards.labels().tolist() == [n % 4 for n in range(9)]
    joined.write_bytes(b"".join(parts) + b"no tar" + bytes(zeros) + b"x")
    assert str(Shards([str(joined)]).contents) == "9 .png; left out: 1 behind the end of a tar"
    joined.write_bytes(parts[0] + parts[1][:1500])
    with pytest.raises(UserError, match=r"joined\.tar: cut short"):
        Shards([str(joined)])


def test_a_tar_of_tars_is_said_to_be_one(tmp_path):
    inner = Path(write(tmp_path / "n01.tar", sample(range(2)))).read_bytes()
    with pytest.raises(
        UserError, match=r"found 1 \.tar\); a tar of tars is unpacked once, .*data\.path='FOLDER/\*\.tar'"
    ):
        Shards([write(tmp_path / "outer.tar", {"n01.tar": inner})])


def test_broken_pictures_are_named_by_shard_and_key(tmp_path):
    file = write(tmp_path / "a.tar", {"x/1.jpg": picture(1, "jpeg")[:-2], "2.png": b"", "3.png": picture(3)})
    shards = Shards([file])
    with pytest.raises(Unreadable, match=r"a\.tar/x/1\.jpg: cut short"):
        read(shards, 0)
    with pytest.raises(Unreadable, match=r"a\.tar/2\.png: empty file"):
        read(shards, 1)
    os.unlink(file)
    with pytest.raises(Unreadable, match=r"a\.tar at byte \d+: No such file"):
        read(shards, 2)


@pytest.mark.parametrize("field", [b"-0000001000\0", b"\x80" + b"\xff" * 11])
def test_a_size_that_leads_backwards_ends(tmp_path, field):
    whole = bytearray(Path(write(tmp_path / "a.tar", sample(range(3)), "ustar")).read_bytes())
    whole[124:136] = field
    whole[148:156] = b"        "
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(UserError, match=r"no tar header at byte 0|cut short"):
        Shards([str(tmp_path / "a.tar")])


def test_two_members_of_one_name_are_two_pictures(tmp_path):
    """WebDataset refuses them; tar itself would unpack the later one. Their bytes are told apart by where they lie."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in [
            ("1.png", picture(1)),
            ("1.cls", b"3"),
            ("2.png", picture(2)),
            ("1.png", picture(3)),
            ("1.jpg", picture(4, "jpeg")),
            ("2.cls", b"0"),
            ("1.cls", b"3"),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    shards = Shards([str(tmp_path / "a.tar")])
    assert [read(shards, i).shape[1] for i in range(4)] == [21, 22, 23, 24]
    assert shards.labels().tolist() == [3, 0, 3, 3]
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        entry = tarfile.TarInfo("2.cls")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"1"))
    with pytest.raises(UserError, match=r"1 of 4 pictures have no KEY\.cls in their shard, one and no other"):
        Shards([str(tmp_path / "a.tar")]).labels()


def test_a_shard_that_shrinks(tmp_path):
    file = write(tmp_path / "a.tar", sample(range(6)), "ustar")
    whole = Path(file).read_bytes()
    shards = Shards([file])
    for length in [0, 100, 512, 2000, 2048, 2049, 5000, len(whole) - 10_000]:
        Path(file).write_bytes(whole[:length])
        for i, place in enumerate(shards.index):
            path = f"{file}/{i:05d}.png" if place["offset"] <= length else f"{file} at byte {place['offset']}"
            if place["offset"] + place["size"] <= length:
                assert shards.stored(i) == picture(i)
            else:
                with pytest.raises(Unreadable, match="become smaller since it was indexed") as caught:
                    shards.stored(i)
                assert caught.value.path == path
    Path(file).write_bytes(whole)
    assert [shards.stored(i) for i in range(6)] == [picture(i) for i in range(6)]


def test_a_shard_that_is_replaced_gives_no_wrong_pictures(tmp_path):
    file = write(tmp_path / "a.tar", sample(range(6)), "ustar")
    shards = Shards([file])
    shards.stored(0)
    write(tmp_path / "a.tar", {"first.txt": b"x" * 600} | sample(range(10, 16)), "ustar")
    for i in range(6):
        with pytest.raises(Unreadable, match="the shard has changed since it was indexed") as caught:
            shards.stored(i)
        assert caught.value.path == f"{file} at byte {shards.index[i]['offset']}"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", [os.unlink, lambda file: os.truncate(file, 0)])
def test_a_shard_that_goes_during_training(tmp_path, workers, how, caplog):
    for s in range(8):
        write(tmp_path / f"train-{s}.tar", sample(range(10 * s, 10 * s + 10)))
    views = ViewsConfig(large=CropsConfig(count=2, size=16, scale=(0.5, 1)))

    def run(unreadable, steps):
        for s in (2, 3):
            write(tmp_path / f"train-{s}.tar", sample(range(10 * s, 10 * s + 10)))
        images = open_pictures(str(tmp_path / "train-*.tar"))
        loader = Loader(images, views, PhotometricConfig(), batch=8, seed=0, workers=workers, unreadable=unreadable)
        for step, _ in loader.from_step(0, steps):
            if step == 1:
                how(tmp_path / "train-2.tar")
                how(tmp_path / "train-3.tar")
        assert step == steps - 1
        return loader.failed

    failed = run(0.3, 30)  # three epochs
    assert len(failed) == 20
    assert {name.partition(" at byte ")[0] for name in failed} == {f"{tmp_path}/train-{s}.tar" for s in (2, 3)}
    assert len([record for record in caplog.records if "unreadable picture skipped" in record.message]) == 20
    with pytest.raises(
        UserError, match=r"of 80 pictures are unreadable, data.unreadable allows 8.*\n.*train-[23]\.tar"
    ):
        run(0.1, 30)


@pytest.mark.parametrize(
    "name",
    ["a", "{0..3}.tar", "{08..11}", "{8..11}", "{3..1}", "t-{000000..000012}-{a,b}.tar", "{x,}y", "a{b}c", "{1..}"],
)
def test_braces_are_those_of_a_shell(name):
    said = subprocess.run(["bash", "-c", f"printf '%s\n' {name}"], capture_output=True, text=True, check=True).stdout
    assert expanded(name) == said.splitlines()


def test_large_shards_are_indexed_by_processes(tmp_path, monkeypatch, capfd):
    files = [write(tmp_path / f"{s}.tar", sample(range(5 * s, 5 * s + 5))) for s in range(11)]
    wanted = Shards(files).index
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(module, "MANY", 0)
    assert Shards(files).index.tolist() == wanted.tolist()
    assert "shards indexed 11/11" in capfd.readouterr().err
    os.truncate(files[7], 1000)
    with pytest.raises(UserError, match=r"7\.tar: cut short"):
        Shards(files)
    assert not multiprocessing.active_children()


def test_index_is_small_and_needs_no_open_files(tmp_path):
    files = [write(tmp_path / f"{s:03d}.tar", sample(range(20))) for s in range(40)]
    gc.collect()  # other tests' files
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    shards = Shards(files)
    assert [read(shards, i).shape[1] for i in range(0, 800, 19)] == [20 + i % 20 for i in range(0, 800, 19)]
    assert shards.index.nbytes == 24 * 800
    copy = pickle.loads(pickle.dumps(shards))
    assert np.array_equal(read(copy, 799), read(shards, 799))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_workers_see_what_one_process_sees(tmp_path):
    for s in range(3):
        write(tmp_path / f"train-{s}.tar", sample(range(8 * s, 8 * s + 8), "jpg", "jpeg"))
    images = open_pictures(str(tmp_path / "train-*.tar"))
    views = ViewsConfig(large=CropsConfig(count=2, size=16, scale=(0.5, 1)))

    def run(workers):
        loader = Loader(images, views, PhotometricConfig(), batch=6, seed=0, workers=workers)
        return [views for _, views in loader.from_step(0, 8)]

    for alone, many in zip(run(0), run(3), strict=True):
        for a, b in zip(alone.large, many.large, strict=True):
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.affine, b.affine)


def test_open_pictures_finds_shards(tmp_path):
    def found(path):
        return open_pictures(str(path))

    (tmp_path / "odd[1]").mkdir()
    (tmp_path / "odd[1]" / "a.png").write_bytes(picture(1))
    data = tmp_path / "shards"
    data.mkdir()
    for name in ("train-0.tar", "train-1.tar", "test-0.tar"):
        write(data / name, sample(range(2)))
    (data / "classes.txt").write_text("a\nb\nc\nd\n")
    counts = {data: 6, data / "train-1.tar": 2, data / "train-*.tar": 4, data / "t*-[0].tar": 4}
    assert {path: len(found(path)) for path in counts} == counts
    assert isinstance(found(data).source, Shards)
    assert isinstance(found(tmp_path / "odd[1]").source, Files)  # a name that only looks like a glob

    with pytest.raises(UserError, match=r"data\.path=.*val-\*\.tar matches no file; .*DIR/train-\*\.tar"):
        found(data / "val-*.tar")
    with pytest.raises(UserError, match=r"matches .*classes\.txt; globs and braces name tar shards"):
        found(data / "*")
    assert found(data / "t{rain-1,rain-0,est-0}.tar").source.files == [
        str(data / name) for name in ("train-1.tar", "train-0.tar", "test-0.tar")
    ]
    with pytest.raises(UserError, match="braces can't stand within braces"):
        found(data / "t{rain-{1..0},est-0}.tar")
    with pytest.raises(UserError, match=r"train-\{0\.\.2\}\.tar: .*train-2\.tar matches no file"):
        found(data / "train-{0..2}.tar")
    for name in ("a.tar.gz", "b.tgz"):
        packed = data / name.partition(".")[0] / name
        packed.parent.mkdir()
        packed.write_bytes(gzip.compress((data / "train-0.tar").read_bytes()))
        for path in (packed, packed.parent, packed.parent / "*"):
            with pytest.raises(UserError, match=rf"{name} is compressed, .*; unpack it"):
                found(path)
        shutil.rmtree(packed.parent)
    (data / "more").mkdir()
    with pytest.raises(UserError, match=r"holds \.tar \(.*\.tar\) and other data \(more\).*shards/\*\.tar") as error:
        found(data)
    assert "\n" not in str(error.value)
    assert len(found(data / "*.tar")) == 6


def test_shards_have_one_hash_wherever_they_lie(tmp_path):
    files = {f"{n}.png": picture(n) for n in range(4)}
    names = [write(tmp_path / f"{i}.tar", part) for i, part in enumerate((files, {"4.png": picture(4), "4.cls": b"1"}))]
    copies = [str(shutil.copy(name, tmp_path / f"copy{i}.tar")) for i, name in enumerate(names)]
    hashed = Shards(names).list_hash()
    assert Shards(copies).list_hash() == hashed
    assert Shards(copies[::-1]).list_hash() != hashed
    write(tmp_path / "copy0.tar", files | {"2.png": picture(2) + b"x"})
    assert len(Shards(copies)) == 5
    assert Shards(copies).list_hash() != hashed
