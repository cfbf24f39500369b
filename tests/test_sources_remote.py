"""Shards behind URLs: the same pictures as on disk, few and small reads, and every way a server can fail."""

import functools
import http.server
import itertools
import os
import re
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
import torch
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from test_shards import picture, sample, write

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.decoding import Unreadable
from densessl.data.loader import Loader
from densessl.data.pictures import open_pictures
from densessl.data.sources import index_file, open_source, remote
from densessl.data.sources.shards import Shards, shard_files
from densessl.data.workers import by_workers
from densessl.errors import UserError

VIEWS = ViewsConfig(large=CropsConfig(count=2, size=16, scale=(0.5, 1)))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DENSESSL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for s in range(3):
        write(folder / f"train-{s:03d}.tar", sample(range(8 * s, 8 * s + 8)))
    return folder


@pytest.fixture
def memory(data):
    """The same files in memory://data, which forked processes see as they were when they were forked."""
    MemoryFileSystem.store.clear()
    for file in data.iterdir():
        fsspec.filesystem("memory").pipe_file(f"/data/{file.name}", file.read_bytes())
    yield "memory://data"
    MemoryFileSystem.store.clear()


@pytest.fixture
def failing(data, monkeypatch):
    """test://data/..., whose reads in this process fail as often as `fails` says; index and listing do not."""

    class Failing(MemoryFileSystem):
        protocol = "test"
        cachable = False
        store: ClassVar = {}
        pseudo_dirs: ClassVar = [""]
        fails: ClassVar = []
        reads: ClassVar = []

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("test://"))

        def cat_file(self, path, start=None, end=None, **options):
            self.reads.append((path, start, end))
            if self.fails:
                raise self.fails.pop(0)
            return super().cat_file(path, start, end, **options)

    fsspec.register_implementation("test", Failing, clobber=True)
    for file in data.iterdir():
        Failing().pipe_file(f"/data/{file.name}", file.read_bytes())
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01, 0.01))
    return Failing


class Stored(torch.utils.data.Dataset):
    def __init__(self, source) -> None:
        self.source = source

    def __getitem__(self, i: int) -> bytes:
        return self.source.stored(i)


@pytest.mark.parametrize("name", ["train-{000..002}.tar", "train-*.tar", "train-00[0-2].tar", "", "/"])
def test_pictures_are_those_on_disk(memory, data, name):
    source = open_source(f"{memory}/{name}".removesuffix("/") if name != "/" else f"{memory}/")
    local = Shards(shard_files(str(data)))
    assert source.files == [f"memory:///data/train-{s:03d}.tar" for s in range(3)]
    assert source.index.tolist() == local.index.tolist()
    assert source.labels().tolist() == local.labels().tolist()
    assert [source.path(i) for i in range(24)] == [
        local.path(i).replace(str(data), "memory:///data") for i in range(24)
    ]
    assert [source.stored(i) for i in range(24)] == [local.stored(i) for i in range(24)]
    assert list(by_workers(Stored(source), range(24), 2)) == [local.stored(i) for i in range(24)]


def test_workers_see_what_one_process_sees(memory):
    images = open_pictures(f"{memory}/train-*.tar")

    def run(workers):
        loader = Loader(images, VIEWS, PhotometricConfig(), batch=6, seed=0, workers=workers)
        return [views for _, views in loader.from_step(0, 8)]

    for alone, many in zip(run(0), run(3), strict=True):
        for a, b in zip(alone.large, many.large, strict=True):
            assert torch.equal(a.image, b.image)


def test_index_is_kept_until_a_shard_changes(memory, data, tmp_path, monkeypatch):
    monkeypatch.setattr(index_file, "SMALL", 1)
    first = open_source(f"{memory}/train-*.tar")
    files = list((tmp_path / "cache").iterdir())
    assert [file.suffix for file in files] == [".index"]
    monkeypatch.setattr(Shards, "_index", lambda *_: pytest.fail("the index was made again"))
    assert open_source(f"{memory}/train-*.tar").index.tolist() == first.index.tolist()
    monkeypatch.undo()
    monkeypatch.setenv("DENSESSL_CACHE", str(tmp_path / "cache"))
    other = write(tmp_path / "other.tar", {"x.jpg": b"1"})
    fsspec.filesystem("memory").pipe_file("/data/train-001.tar", Path(other).read_bytes())
    assert len(open_source(f"{memory}/train-*.tar")) == 17


def test_index_is_read_in_windows_and_a_picture_at_once(failing, data):
    store = remote.Remote("test://data")
    file = "test:///data/train-000.tar"
    size = os.path.getsize(data / "train-000.tar")
    with store.opened(file, size) as read:
        whole = b"".join(read(at, 512) for at in range(0, size, 512))
        assert read(size, 1024) == b""
    assert whole == (data / "train-000.tar").read_bytes()
    assert failing.reads == [("/data/train-000.tar", 0, size)]  # smaller than a window

    window, asked, large = remote.WINDOW, [], os.urandom(20 * remote.WINDOW)

    def read_at(at, size):
        asked.append((at, at + size))
        return large[at : at + size]

    ahead = remote._ahead(read_at, len(large))
    for at in [0, 512, window - 100, 5 * window, 5 * window + 512, 20 * window - 10]:
        assert ahead(at, 512) == large[at : at + 512]
    assert ahead(window, 2 * window) == large[window : 3 * window]  # a long name, say
    assert asked == [
        (0, window),
        (window - 100, 2 * window - 100),
        (5 * window, 6 * window),
        (20 * window - 10, 20 * window),
        (window, 3 * window),
    ]

    source = open_source("test://data/train-000.tar")
    failing.reads.clear()
    source.stored(3)
    place = source.index[3]
    assert failing.reads == [("/data/train-000.tar", place["offset"] - 512, place["offset"] + place["size"])]
    assert source.path(3).endswith("train-000.tar/00003.png")  # known from the reading
    assert len(failing.reads) == 1


def test_what_reads_first_opens_connections(failing):
    """Not the process that forks workers: what a server has for it would be shared by them."""
    source = open_source("test://data")
    assert source.store._systems == {}
    assert failing.reads == []
    (systems,) = by_workers(Look(source), [3], 1)
    assert systems != [os.getpid()]
    assert source.store._systems == {}
    source.stored(3)
    assert list(source.store._systems) == [os.getpid()]
    (systems,) = by_workers(Look(source), [3], 1)
    assert len(systems) == 2  # one of its own beside the one that it leaves alone


class Look(Stored):
    def __getitem__(self, i: int) -> list[int]:
        self.source.stored(i)
        return list(self.source.store._systems)


def test_a_dropped_connection_costs_nothing(failing):
    source = open_source("test://data")
    errors = [ConnectionResetError("by peer"), TimeoutError(), RuntimeError("of the file system")]
    for count in range(1, 4):
        failing.fails[:] = errors[:count]
        assert source.stored(count) == picture(count)
    assert failing.fails == []


def test_a_shard_that_can_not_be_read_is_passed_over(failing):
    source = open_source("test://data")
    failing.fails[:] = [ConnectionResetError("by peer")] * 4
    with pytest.raises(Unreadable, match=r"train-000\.tar at byte \d+: ConnectionResetError: by peer"):
        source.stored(0)
    failing.reads.clear()
    for i in range(8):  # each is named, and none is waited for
        with pytest.raises(Unreadable, match="by peer") as caught:
            source.stored(i)
        assert caught.value.path == f"test:///data/train-000.tar at byte {source.index[i]['offset']}"
    assert failing.reads == []
    assert source.stored(8) == picture(8)  # the others go on
    source.store._away = {file: (0.0, reason) for file, (_, reason) in source.store._away.items()}
    assert source.stored(0) == picture(0)  # five minutes later


def test_what_is_missing_is_not_waited_for(failing, monkeypatch):
    source = open_source("test://data")
    monkeypatch.setattr(remote, "WAITS", (60, 60, 60))
    failing().rm("/data/train-001.tar")
    with pytest.raises(Unreadable, match=r"train-001\.tar at byte \d+: no such file"):
        source.stored(9)
    failing.fails[:] = [PermissionError("not yours")]
    with pytest.raises(Unreadable, match="PermissionError: not yours"):
        source.stored(20)


def test_a_server_that_sends_whole_files_is_refused(failing, monkeypatch):
    source = open_source("test://data")
    monkeypatch.setattr(failing, "cat_file", lambda self, path, **_: bytes(100_000))
    with pytest.raises(Unreadable, match="the server sends the whole file instead of the part"):
        source.stored(0)
    with pytest.raises(UserError, match=r"train-000\.tar: can't be read \(the server sends the whole file"):
        open_source("test://data")


class Sent(AsyncFileSystem):
    """By a thread of its own, as fsspec asks HTTP servers and object stores."""

    protocol = "sent"
    whole = b""

    async def _info(self, path, **_):
        return {"name": path, "size": len(self.whole), "type": "file"}

    async def _cat_file(self, path, start=None, end=None, **_):
        return self.whole[start:end]


def test_threads_do_not_cross_a_fork(data, monkeypatch):
    fsspec.register_implementation("sent", Sent, clobber=True)
    monkeypatch.setattr(Sent, "whole", (data / "train-000.tar").read_bytes())
    monkeypatch.setattr(remote, "PATIENCE", 5)
    before = set(threading.enumerate())
    source = open_source("sent://x.tar")
    assert "fsspecIO" not in {thread.name for thread in set(threading.enumerate()) - before}
    for _ in range(2):
        assert list(by_workers(Stored(source), range(8), 2)) == [picture(n) for n in range(8)]
        assert [source.stored(n) for n in range(8)] == [picture(n) for n in range(8)]


class Silent(AsyncFileSystem):
    """Knows of a file, and never sends it."""

    protocol = "silent"
    cachable = False

    async def _info(self, path, **_):
        return {"name": path, "size": 10_240, "type": "file"}

    async def _cat_file(self, path, **_):
        import asyncio

        await asyncio.sleep(1000)


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch):
    fsspec.register_implementation("silent", Silent, clobber=True)
    monkeypatch.setattr(remote, "WAITS", (0.01,))
    monkeypatch.setattr(remote, "PATIENCE", 0.3)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"silent://x\.tar: can't be read \(FSTimeoutError"):
        open_source("silent://x.tar")
    assert time.monotonic() - began < 20
    store = remote.Remote("silent://x.tar")
    with store.opened("silent://x.tar") as read, pytest.raises(OSError, match="FSTimeoutError"):
        read(0, 100)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_goes_during_training(data, workers):
    images = open_pictures(f"file://{data}/train-*.tar")
    loader = Loader(images, VIEWS, PhotometricConfig(), batch=4, seed=0, workers=workers, unreadable=0.5)
    for step, _ in loader.from_step(0, 18):
        if step == 1:
            (data / "train-001.tar").unlink()
    assert step == 17
    assert len(loader.failed) == 8
    assert all(re.search(r"train-001\.tar at byte \d+$", name) for name in loader.failed)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{0}/none-*.tar", r"data\.path=memory://data/none-\*\.tar matches no file; .*train-\{000\.\.099\}\.tar"),
        ("{0}/train-{{000..003}}.tar", r"data\.path: memory:///data/train-003\.tar: no such file"),
        ("{0}/none", r"memory://data/none matches no file"),
        ("{0}/n*", r"matches memory:///data/notes\.txt; globs and braces name tar shards"),
        ("{0}/a.tar.gz", r"a\.tar\.gz is compressed, .* unpack it"),
        ("{0}/cut.tar", r"memory:///data/cut\.tar: cut short: 00000\.png ends at byte"),
        ("{0}/empty.tar", r"memory:///data/empty\.tar: no pictures \(found 1 \.txt\)"),
        ("nosuch://data/a.tar", r"data\.path=nosuch://data/a\.tar: ValueError: Protocol not known: nosuch"),
    ],
)
def test_messages(memory, data, tmp_path, url, message):
    files = fsspec.filesystem("memory")
    whole = (data / "train-000.tar").read_bytes()
    files.pipe_file("/data/notes.txt", b"x")
    files.pipe_file("/data/a.tar.gz", b"x")
    files.pipe_file("/data/cut.tar", whole[:1600])
    files.pipe_file("/data/empty.tar", Path(write(tmp_path / "e.tar", {"a.txt": b""})).read_bytes())
    with pytest.raises(UserError, match=message) as caught:
        open_source(url.format(memory))
    assert "\n" not in str(caught.value)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"data\.path=s3://b/a\.tar: .*s3fs.*pip install 'densessl\[remote\]'"):
        open_source("s3://b/a.tar")


class Server(http.server.SimpleHTTPRequestHandler):
    """Sends parts of files, as any server of data does; every fifth answer breaks off in the middle."""

    protocol_version = "HTTP/1.1"
    answers = itertools.count(1)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not file.is_file() or not asked:
            return super().do_GET()
        whole = file.read_bytes()
        first, last = int(asked[1]), min(int(asked[2]), len(whole) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        part = whole[first : last + 1]
        if next(self.answers) % 5 == 0:
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        else:
            self.wfile.write(part)


@pytest.fixture
def server(data):
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp: pip install 'densessl[remote]'")
    # Not HTTPServer, which asks for its own name where there may be nobody to answer.
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(data)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_http(server, data, monkeypatch):
    """With connections that break, and in processes forked while this one has connections open."""
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01, 0.01))
    local = Shards(shard_files(str(data)))
    wanted = [local.stored(i) for i in range(24)]
    for name in ("train-{000..002}.tar", "train-*.tar", ""):
        source = open_source(f"{server}/{name}")
        assert source.index.tolist() == local.index.tolist()
    for _ in range(2):
        assert list(by_workers(Stored(source), range(24), 2)) == wanted
        assert [source.stored(i) for i in range(24)] == wanted
    (data / "train-001.tar").unlink()
    with pytest.raises(Unreadable, match=rf"{server}/train-001\.tar at byte \d+: no such file"):
        source.stored(9)
    with pytest.raises(UserError, match=rf"{server}/train-001\.tar: no such file"):
        open_source(f"{server}/train-{{000..002}}.tar")
    with pytest.raises(UserError, match="Cannot connect to host"):
        open_source("http://127.0.0.1:1/a.tar")
