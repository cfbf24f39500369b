"""Pictures of a data set in Hugging Face's form: rows of Arrow tables."""

from __future__ import annotations

import glob
import hashlib
import os
from typing import TYPE_CHECKING, Any

from densessl.data.decoding import Unreadable
from densessl.data.sources.files import whole_file
from densessl.errors import UserError
from densessl.files import printable

if TYPE_CHECKING:
    from datasets import Dataset


class HuggingFace:
    """A column of pictures, which Arrow maps from its files: forked workers share it.

    A row holds the bytes of a picture's file, or its path; none is decoded by the library.
    """

    def __init__(self, name: str, rows: Dataset, column: str) -> None:
        self.name = name
        self._rows = rows.select_columns([column]).with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def path(self, i: int) -> str:
        """The row, and what the data set says of the file that it came from."""
        value = self._value(i)
        stored = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
        return printable(f"{self.name} row {i}" + (f" ({stored})" if stored else ""))

    def stored(self, i: int) -> bytes:
        """Raises Unreadable."""
        value = self._value(i)
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes):
            return value
        if value is None:
            raise Unreadable(self.path(i), "the row is empty")
        try:
            return whole_file(value)
        except OSError as error:
            raise Unreadable(self.path(i), error.strerror or str(error)) from None

    def list_hash(self) -> str:
        """Of the size of each row's picture, and of what the data set calls its file."""
        import pyarrow.compute as compute

        column, rows = self._rows.data.column(0), self._rows._indices  # None where all rows are taken in their order
        fields = (
            [compute.struct_field(column, [i]) for i in range(len(column.type))] if _fields(column.type) else [column]
        )
        whole = hashlib.sha256()
        for field in fields:
            facts = compute.binary_length(field) if "binary" in str(field.type) else field  # without reading pictures
            for chunk in (facts.take(rows.column(0)) if rows else facts).chunks:
                whole.update("\0".join(map(str, chunk.to_pylist())).encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    def _value(self, i: int) -> Any:
        """bytes, a path, or both in a dict."""
        return self._rows[i].column(0)[0].as_py()


def open_hugging_face(path: str) -> HuggingFace:
    """What ``hf:PATH``, ``hf:PATH:SPLIT`` or ``hf:PATH:SPLIT:COLUMN`` names.

    PATH is a folder written by save_to_disk, one with .parquet or .arrow files, as a clone from the Hub has them, or
    such files (with * or ?). SPLIT is train unless there is but one, COLUMN the only one of pictures. Arrow files are
    mapped as they are; of Parquet the library writes a copy of that kind to its own cache. Raises UserError.
    """
    where, split, column = named(path)
    try:
        import datasets
    except ImportError:
        raise UserError(f"data.path={path} is read with Hugging Face's library: pip install 'densessl[hf]'") from None
    try:
        splits = _splits(where)
    except UserError:
        raise
    except Exception as error:  # what broken files raise depends on their form
        raise UserError(f"data.path={path}: {type(error).__name__}: {error}") from error
    split = split or ("train" if len(splits) > 1 else next(iter(splits)))
    if split not in splits:
        raise UserError(f"data.path={path} has no split {split}, but {', '.join(splits)}: hf:{where}:SPLIT names one")
    rows = splits[split]
    pictures = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    column = column or (pictures[0] if len(pictures) == 1 else "")
    if column not in rows.features:
        those = f"{len(pictures)} columns of pictures" if not column else f"no column {column}"
        raise UserError(
            f"data.path={path} has {those}; hf:{where}:{split}:COLUMN names one of {', '.join(rows.features)}"
        )
    kind = rows.features.arrow_schema.field(column).type
    binary = [str(field.type) for field in kind if field.name == "bytes"] if _fields(kind) else [str(kind)]
    if not binary or binary[0] not in ("binary", "large_binary", "string", "large_string"):
        raise UserError(f"data.path={path}: column {column} holds {kind}, not pictures as files have them, or paths")
    return HuggingFace(f"{where}:{split}", rows, column)


def _fields(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_struct(kind)


def named(path: str) -> tuple[str, str, str]:
    """PATH, SPLIT and COLUMN, which are empty where they are not given; PATH may itself have colons."""
    words = os.path.expanduser(path.removeprefix("hf:")).split(":")
    for count in range(len(words), max(0, len(words) - 3), -1):
        where = ":".join(words[:count])
        if where and (os.path.exists(where) or glob.glob(where)):
            split, column, *_ = [*words[count:], "", ""]
            return where, split, column
    raise UserError(
        f"data.path={path}: no folder or file {words[0]}; a data set of the Hub is fetched first, by "
        "hf download OWNER/NAME --repo-type dataset --local-dir FOLDER"
    )


def _splits(where: str) -> dict[str, Any]:
    """{name: rows}. Raises what the library raises."""
    from datasets import Dataset as Rows
    from datasets import DatasetDict, concatenate_datasets, config, load_dataset, load_from_disk

    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else load_dataset tells the Hub that it reads a folder

    if os.path.isdir(where):
        if any(os.path.exists(os.path.join(where, name)) for name in ("state.json", "dataset_dict.json")):
            loaded = load_from_disk(where)
        else:
            kind = next(
                (k for k in ("parquet", "arrow") if glob.glob(f"{glob.escape(where)}/**/*.{k}", recursive=True)), None
            )
            if not kind:
                raise UserError(
                    f"data.path=hf:{where}: neither written by save_to_disk nor with .parquet or .arrow files"
                )
            loaded = load_dataset(kind, data_dir=where)
    else:
        files = sorted(glob.glob(where)) or [where]
        endings = {os.path.splitext(file)[1] for file in files}
        if endings == {".parquet"}:
            loaded = Rows.from_parquet(files)
        elif endings == {".arrow"}:
            loaded = concatenate_datasets([Rows.from_file(file) for file in files])
        else:
            raise UserError(f"data.path=hf:{where}: {', '.join(sorted(endings))} instead of .parquet or .arrow files")
    return dict(loaded) if isinstance(loaded, DatasetDict) else {str(loaded.split or "train"): loaded}
