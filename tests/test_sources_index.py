"""The index that is kept in the cache: when it is made, when believed, and what a bad cache costs."""

import multiprocessing
import os
import resource
import signal
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from test_shards import sample, write

from densessl.data.sources import files, index_file, open_source, shards
from densessl.data.sources.files import Files
from densessl.data.sources.index_file import UNUSED, digest, kept, settled

LONG_AGO = 1_500_000_000
NAMES = [f"{f}/{n:03d}.jpg" for f in ("a", "a/b", "c") for n in range(70)]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where every index counts as large."""
    monkeypatch.setenv("DENSESSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_file, "SMALL", 1)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in NAMES:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    age(tmp_path / "pictures")
    return tmp_path / "pictures"


def age(folder: Path, times: int = LONG_AGO) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (times, times))


def found(path) -> list[str]:
    source = open_source(str(path))
    return [source.path(i) for i in range(len(source))]


def left(cache: Path) -> list[str]:
    return sorted(file.suffix for file in cache.iterdir()) if cache.exists() else []


def forbid(monkeypatch, module, name):
    def fail(*_):
        raise AssertionError("the index was made again")

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("kind", ["folder", "list", "shards"])
def test_index_is_made_once(cache, folder, tmp_path, monkeypatch, kind):
    if kind == "list":
        path = tmp_path / "list.txt"
        path.write_text("".join(f"pictures/{name}\n" for name in NAMES))
        os.utime(path, (LONG_AGO, LONG_AGO))
    elif kind == "shards":
        path = tmp_path / "shards"
        path.mkdir()
        for n in range(3):
            write(path / f"{n}.tar", sample(range(5 * n, 5 * n + 5)))
        age(path)
    else:
        path = folder
    monkeypatch.setenv("DENSESSL_CACHE", "off")
    plain = found(path)
    monkeypatch.setenv("DENSESSL_CACHE", str(cache))
    assert found(path) == plain
    assert left(cache) == [".index"]
    for module, name in [(files, "_of_folder"), (files, "_of_list"), (shards, "_part")]:
        forbid(monkeypatch, module, name)
    assert found(path) == plain
    monkeypatch.chdir(tmp_path)
    assert [os.path.abspath(name) for name in found(path.relative_to(tmp_path))] == plain  # another name of it
    source = open_source(str(path))
    array = source._paths if isinstance(source, Files) else source.index
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not array.flags.writeable


def test_small_quick_index_leaves_no_file(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSESSL_CACHE", str(tmp_path / "cache"))
    assert len(found(folder)) == 210
    assert left(tmp_path / "cache") == []
    monkeypatch.setattr(index_file, "QUICK", -1.0)  # what takes longer is kept
    assert len(found(folder)) == 210
    assert left(tmp_path / "cache") == [".index"]
    forbid(monkeypatch, files, "_of_folder")
    assert len(found(folder)) == 210


def test_where_the_cache_is(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_file, "SMALL", 1)
    monkeypatch.delenv("DENSESSL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found(folder)
    monkeypatch.delenv("XDG_CACHE_HOME")
    found(folder)
    assert left(tmp_path / "xdg/densessl") == left(tmp_path / "home/.cache/densessl") == [".index"]


@pytest.mark.parametrize(
    ("change", "gone", "come"),
    [
        (lambda f: (f / "a/b/new.png").touch(), set(), {"a/b/new.png"}),
        (lambda f: (f / "c/003.jpg").unlink(), {"c/003.jpg"}, set()),
        (lambda f: (f / "a/007.jpg").rename(f / "a/7.jpg"), {"a/007.jpg"}, {"a/7.jpg"}),
        (lambda f: ((f / "d").mkdir(), (f / "d/x.jpg").touch()), set(), {"d/x.jpg"}),
        (
            lambda f: (f / "a/b").rename(f / "c/b"),
            {n for n in NAMES if "/b/" in n},
            {f"c/b/{i:03d}.jpg" for i in range(70)},
        ),
        (lambda f: (f / "linked").symlink_to(f.parent / "elsewhere"), set(), {"linked/1.jpg"}),
    ],
)
def test_a_change_of_a_folder_is_seen(cache, folder, tmp_path, change, gone, come):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.jpg").touch()
    found(folder)
    change(folder)
    now = {os.path.relpath(path, folder) for path in found(folder)}
    assert now == set(NAMES) - gone | come


def test_a_change_behind_a_link_is_seen(cache, folder, tmp_path):
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.jpg").touch()
    age(folder)
    age(tmp_path / "elsewhere")
    assert len(found(folder)) == 211
    (tmp_path / "elsewhere/2.jpg").touch()
    assert len(found(folder)) == 212


def test_new_contents_of_a_picture_change_no_index(cache, folder, monkeypatch):
    found(folder)
    forbid(monkeypatch, files, "_of_folder")
    (folder / "a/003.jpg").write_bytes(b"x")
    assert len(found(folder)) == 210


def test_a_list_is_believed_by_size_and_time(cache, tmp_path):
    path = tmp_path / "list.txt"
    (tmp_path / "a.jpg").touch()
    for text, modified, wanted in [
        ("a.jpg\nb.jpg\n", LONG_AGO, ["a.jpg", "b.jpg"]),
        ("a.jpg\nc.jpg\n", LONG_AGO, ["a.jpg", "b.jpg"]),  # nothing tells
        ("a.jpg\nc.jpg\n", LONG_AGO + 1, ["a.jpg", "c.jpg"]),
        ("a.jpg\ncc.jpg\n", LONG_AGO + 1, ["a.jpg", "cc.jpg"]),
    ]:
        path.write_text(text)
        os.utime(path, (modified, modified))
        assert [os.path.basename(name) for name in found(path)] == wanted
    assert left(cache) == [".index"] * 3


def test_shards_are_believed_by_size_and_time(cache, tmp_path):
    for n in range(2):
        write(tmp_path / f"{n}.tar", sample([n]))
    age(tmp_path)
    assert len(found(tmp_path / "*.tar")) == 2
    write(tmp_path / "1.tar", sample(range(30)))  # another size: tars grow by 10 kB
    age(tmp_path)
    assert len(found(tmp_path / "*.tar")) == 31
    write(tmp_path / "1.tar", sample([1], "jpg") | sample([2], "npy"))
    os.utime(tmp_path / "1.tar", (LONG_AGO + 1, LONG_AGO + 1))
    assert [name[-9:] for name in found(tmp_path / "*.tar")] == ["00000.png", "00001.jpg", "00002.npy"]
    write(tmp_path / "2.tar", sample([4]))
    age(tmp_path)
    assert len(found(tmp_path / "*.tar")) == 4  # others
    assert len(found(tmp_path / "{1,0}.tar")) == 3
    assert found(tmp_path / "{1,0}.tar")[0].endswith("1.tar/00001.jpg")  # another order is another index


def test_what_changed_just_now_is_not_believed(cache, folder):
    """A later change could bear the same time."""
    (folder / "c/new.jpg").touch()
    for _ in range(2):
        assert len(found(folder)) == 211
        assert left(cache) == []
    age(folder, 0)  # and some mounts know no time
    assert len(found(folder)) == 211
    assert left(cache) == []
    now = time.time()
    assert settled([int(now * 1e9) - 3_000_000_000], now)
    assert not settled([LONG_AGO * 10**9, int(now * 1e9) - 1_000_000_000], now)


def test_a_folder_left_out_is_looked_for_again(cache, folder, monkeypatch, caplog):
    scandir = os.scandir

    def refusing(path):
        if os.fsencode(path).endswith(b"c/"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        assert len(found(folder)) == 140
    assert "folder left out" in caplog.text
    assert left(cache) == []
    assert len(found(folder)) == 210


def test_a_broken_file_is_made_anew(cache, folder, caplog):
    wanted = found(folder)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for broken in [b"", b"x", whole[:-1], whole[: len(whole) // 2], b"\0" * len(whole), whole + b"x", os.urandom(5000)]:
        file.write_bytes(broken)
        caplog.clear()
        assert found(folder) == wanted
        assert [r.getMessage().partition(":")[0] for r in caplog.records].count("index made anew") == 1
        assert file.read_bytes() == whole
        assert left(cache) == [".index"]


def test_a_cache_that_is_none(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(index_file, "SMALL", 1)
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        monkeypatch.setenv("DENSESSL_CACHE", str(tmp_path / name))
        caplog.clear()
        assert len(found(folder)) == 210
        assert "stays in memory" in caplog.text
    assert (tmp_path / "file").read_bytes() == b""
    monkeypatch.setenv("DENSESSL_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    assert len(found(folder)) == 210
    assert not (tmp_path / "off").exists()


def test_a_full_disk_costs_only_the_cache(cache, tmp_path, monkeypatch, caplog):
    """Files of this process may have 10,000 bytes: a write ends in the middle of an index of 30,000."""
    path = tmp_path / "list.txt"
    names = [f"{n:025d}.jpg" for n in range(1000)]
    path.write_text("\n".join(names))
    (tmp_path / names[0]).touch()
    os.utime(path, (LONG_AGO, LONG_AGO))
    monkeypatch.setattr(index_file, "SMALL", 3_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    before_signal = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        assert [os.path.basename(name) for name in found(path)] == names
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, before_signal)
    assert "stays in memory: [Errno 27]" in caplog.text
    assert left(cache) == []
    assert [os.path.basename(name) for name in found(path)] == names
    assert left(cache) == [".index"]


def test_nothing_is_left_of_a_user_error(cache, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.jpg\n" * 2000 + b"b\0.jpg\n")
    with pytest.raises(files.UserError, match="line 2001 holds a zero byte"):
        open_source(str(tmp_path / "list.txt"))
    assert left(cache) == []


def test_index_is_written_while_it_is_made(cache, monkeypatch):
    monkeypatch.setattr(index_file, "SMALL", 100_000)

    def make(write):
        for _ in range(3000):
            write(bytes(10_000))
        return {"facts": "x"}

    tracemalloc.start()
    index = kept("thirty megabytes", make, lambda _: True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.data.nbytes == 30_000_000
    assert peak < 1_000_000


def make_slowly(folder: Path):
    """An index of which it is written down who made it."""

    def make(write):
        write(b"x" * 10)
        time.sleep(1)
        write(b"y" * 10)
        (folder / f"made-{os.getpid()}").touch()
        return {"facts": digest(["same"])}

    return make


def build(folder: Path, results) -> None:
    index = kept("something", make_slowly(folder), lambda index: index.notes["facts"] == digest(["same"]))
    results.put(bytes(index.data))


def test_processes_make_it_once_together(cache, tmp_path):
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    processes = [fork.Process(target=build, args=(tmp_path, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [b"x" * 10 + b"y" * 10] * 4
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert left(cache) == [".index"]
    (file,) = cache.iterdir()
    os.utime(file, (LONG_AGO, LONG_AGO))
    build(tmp_path, results)
    assert len(list(tmp_path.glob("made-*"))) == 1
    assert file.stat().st_mtime > LONG_AGO  # it is known to be used


def test_a_killed_process_holds_nobody_up(cache, tmp_path):
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    first = fork.Process(target=build, args=(tmp_path, results))
    first.start()
    while not list(cache.glob("*.part")):
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.join(60)
    build(tmp_path, results)
    assert results.get(timeout=60) == b"x" * 10 + b"y" * 10
    assert left(cache) == [".index", ".part"]
    for file in cache.iterdir():  # what nobody has used for long goes with the next index
        os.utime(file, (time.time() - UNUSED - 60,) * 2)
    kept("something else", make_slowly(tmp_path), lambda _: True)
    assert left(cache) == [".index"]


def test_without_locks_a_file_that_others_use_stays(cache, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(index_file.fcntl, "flock", broken)
    first = kept("something", make_slowly(tmp_path), lambda _: True)
    (file,) = cache.iterdir()
    inode = file.stat().st_ino
    looks = [None, None]  # another process has made it since this one began
    found = index_file._found
    monkeypatch.setattr(index_file, "_found", lambda *args: looks.pop() if looks else found(*args))
    second = kept("something", make_slowly(tmp_path), lambda _: True)
    assert not looks
    assert bytes(second.data) == bytes(first.data)
    assert file.stat().st_ino == inode
    assert left(cache) == [".index"]
