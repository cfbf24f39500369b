"""Where pictures come from: a file here a kind of source."""

from __future__ import annotations

from typing import Protocol

from densessl.data.sources.files import find_files
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
    return Shards(files) if (files := shard_files(path)) else find_files(path)
