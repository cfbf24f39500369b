"""Where pictures come from: a file here a kind of source."""

from __future__ import annotations

import os
from typing import Protocol

from densessl.data.sources.files import check_lines, find_files
from densessl.data.sources.shards import Shards, shard_files


class Source(Protocol):
    """Files of pictures, numbered from 0 in an order that stays. Forked workers share it."""

    def __len__(self) -> int: ...

    def path(self, i: int) -> str:
        """What the file is called in messages, which may have to be read. Raises Unreadable."""
        ...

    def stored(self, i: int) -> bytes:
        """The file as it lies there. Raises Unreadable."""
        ...

    def list_hash(self) -> str:
        """Of the list of images: the same wherever they lie, as long as these are the same ones in the same order.

        It is of names or sizes that an index has at hand, not of what is in the files: a second for ten million.
        """
        ...


def require(path: str) -> None:
    """Raises UserError where ``path`` plainly names nothing. Cheap: nothing is listed, and torch is not imported."""
    if path.startswith("hf:"):
        from densessl.data.sources.hugging_face import named

        named(path)
    elif "://" not in path and not os.path.exists(path) and not shard_files(path):
        find_files(path)


def open_source(path: str) -> Source:
    """What ``data.path`` names: a Hugging Face data set (hf:), tar shards, here or behind a URL, a folder or a list.

    Raises UserError.
    """
    if "://" in path:
        from densessl.data.sources.remote import open_remote

        return open_remote(path)
    if path.startswith("hf:"):
        from densessl.data.sources.hugging_face import open_hugging_face  # whose library imports pandas

        return open_hugging_face(path)
    if files := shard_files(path):
        return Shards(files)
    found = find_files(path)
    if os.path.isfile(path):
        check_lines(path, found)
    return found
