"""Names of files as people have them: not UTF-8, with control characters, in any locale; text in other encodings."""

import ast
import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_datasets
import pytest
import yaml
from test_data_command import encoded, picture
from test_training import TINY

from densessl.__main__ import run as run_command
from densessl.classification import labelled, subset
from densessl.commands import data, pretrain, report
from densessl.detection.datasets.voc import VOC
from densessl.errors import UserError
from densessl.files import printable, printable_lines
from densessl.report.records import read_run
from densessl.segmentation.datasets.folder import Folder
from densessl.segmentation.datasets.voc import VOC2012

ROOT = Path(__file__).parents[1]
GOOD = [
    "café.png",
    "图片.png",
    "a  b.png",
    "<b>&.png",
    "a=b.png",
    "-rf.png",
    "$HOME %s.png",
    "new\nline.png",
    "é\x1b[31m.png",
]
RAW = [*map(os.fsencode, GOOD), b"latin\xe9.png", b"sjis\x8e\x96.png"]
BROKEN = {
    b"broken na\xefve.png": r"broken na\xefve.png",
    b"broken\nline.png": r"broken\nline.png",
    b"broken\x1b[31m.png": r"broken\x1b[31m.png",
    "broken \u202e图\U0001f600.png".encode(): r"broken \u202e图😀.png",
    b"broken<script>alert(1)<.png": "broken<script>alert(1)<.png",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven good images and five broken ones, a folder of whose names is Latin-1."""
    root = tmp_path_factory.mktemp("odd")
    folder = os.path.join(os.fsencode(root), b"dir\xe9 [1] {a,b}")
    os.mkdir(folder)
    for number, name in enumerate(RAW):
        with open(os.path.join(folder if number % 2 else os.fsencode(root), name), "wb") as file:
            file.write(encoded(picture(number), "PNG"))
    for name in BROKEN:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(b"no image")
    return root


@pytest.mark.parametrize(
    ("raw", "shown"),
    [*BROKEN.items(), (b"a\\b \xe3\x80\x80c\xc2\xa0.png", "a\\b \u3000c\xa0.png"), (b"\xff\0", r"\xff\x00")],
)
def test_a_name_is_one_line_of_utf8_whatever_it_was(raw: bytes, shown: str) -> None:
    assert printable(raw) == printable(os.fsdecode(raw)) == shown
    assert printable_lines(f"{os.fsdecode(raw)}\nb").encode().endswith(b"\nb")


def test_a_name_is_the_same_in_another_locale() -> None:
    code = "import sys; from densessl.files import printable; sys.stdout.buffer.write(printable(sys.argv[1]).encode())"
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, b"caf\xc3\xa9 \xe9"], env=env, capture_output=True, check=True)
    assert done.stdout.decode() == r"café \xe9"


def test_check_names_them_and_its_list_opens_them(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a terminal of any encoding."""
    seen = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", seen)
    words = ["--list", f"{tmp_path}/good.txt", "--out", str(tmp_path), "--sheet", f"{tmp_path}/sheet.png"]
    with caplog.at_level(logging.WARNING, "densessl"):
        assert run_command(lambda: data.main(["check", str(odd), "--workers", "0", *words])) == 1
    seen.flush()
    said = seen.buffer.getvalue().decode("ascii")
    assert r"/broken\x1b[31m.png: not a picture" in said
    assert "\x1b" not in said
    named = [
        line.rpartition(": not a")[0].rpartition("/")[2]
        for line in (tmp_path / "corrupt.txt").read_text("utf-8").splitlines()
    ]
    assert sorted(named) == sorted(BROKEN.values())
    listed = (tmp_path / "good.txt").read_bytes().splitlines()
    assert {os.path.basename(path) for path in listed} == {*RAW} - {b"new\nline.png"}
    assert all(map(os.path.isfile, listed))
    assert [record.args[1].rpartition("/")[2] for record in caplog.records] == [r"new\nline.png"]


def test_a_run_on_them_says_each_once_and_has_a_page(odd: Path, tmp_path: Path) -> None:
    """The log's and the page's bytes are UTF-8, and nothing in them acts."""
    recipe = TINY | {"batch": 4, "steps": 4, "watched": 0, "data": {"path": str(odd), "workers": 0, "unreadable": 0.9}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    assert pretrain.main(["--cfg", f"{tmp_path}/tiny.yaml", f"run={tmp_path}/run"]) == 0
    said = (tmp_path / "run/log.txt").read_bytes().decode().splitlines()
    for name in BROKEN.values():
        assert len([line for line in said if f"unreadable picture skipped: {odd}/{name}: not a picture" in line]) == 1
    assert len(read_run(tmp_path / "run").unreadable) == len(BROKEN)
    assert report.main([str(tmp_path / "run"), "--pictures", "0"]) == 0
    page = (tmp_path / "run/report.html").read_bytes().decode()
    assert "broken&lt;script&gt;alert(1)&lt;.png" in page
    assert r"broken na\xefve.png" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_errors_are_said_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise UserError(os.fsdecode(b"/a/\x1b[31m\xe9: there is no such file\nexpected: ..."))

    assert run_command(command) == 2
    assert capsys.readouterr().err == "densessl: /a/\\x1b[31m\\xe9: there is no such file\nexpected: ...\n"


def of_voc(kind: type, name: str) -> Callable[[Path], object]:
    def opened(root: Path) -> object:
        file = root / "VOCdevkit/VOC2012/ImageSets" / name
        for folder in (file.parent, root / "VOCdevkit/VOC2012/Annotations"):
            folder.mkdir(exist_ok=True)
        file.write_bytes(b"a\n\xe9")
        return kind(root, "train")

    return opened


def of_list(root: Path) -> object:
    (root / "half.txt").write_bytes(b"a.jpg\n\xe9.jpg\n")
    return subset.list_title(root / "half.txt")


def of_classes(root: Path) -> object:
    shutil.rmtree(root / "images/val")
    (root / "classes.txt").write_bytes("sky\nchaussée\n".encode("latin-1"))
    return Folder(root, "train")


@pytest.mark.parametrize(
    ("made", "opened", "named"),
    [
        ("folder", of_classes, r"classes\.txt, line 2: the byte 0xe9 is no UTF-8; save"),
        ("folder", of_list, r"half\.txt, line 2: the byte 0xe9"),
        ("voc2012", of_voc(VOC2012, "Segmentation/val.txt"), r"Segmentation/val\.txt, line 2: the byte 0xe9"),
        ("voc2012", of_voc(VOC, "Main/train.txt"), r"Main/train\.txt, line 2: the byte 0xe9"),
    ],
)
def test_a_text_file_in_another_encoding_is_named_with_the_line(
    made: str, opened: Callable[[Path], object], named: str, tmp_path: Path
) -> None:
    made_datasets.MADE[made](tmp_path)
    with pytest.raises(UserError, match=named):
        opened(tmp_path)


def test_class_folders_may_be_called_anything(tmp_path: Path) -> None:
    for split in (b"train", b"val"):
        for name in (b"caf\xe9", b"b\n"):
            os.makedirs(folder := os.path.join(os.fsencode(tmp_path), split, name))
            Path(os.fsdecode(folder), "1.png").write_bytes(encoded(picture(1), "PNG"))
    found = labelled.open_labelled(tmp_path, "val")
    assert found.classes == (r"b\n", r"caf\xe9")
    assert found.labels.tolist() == [0, 1]


def test_text_is_read_and_written_in_an_encoding_that_is_named() -> None:
    """The default is the locale's."""
    wrong = []
    for file in [*(ROOT / "densessl").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or any(word.arg == "encoding" for word in call.keywords):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            mode = next((a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), "r")
            opens = name == "open" and len(mode) < 4 and set(mode) <= set("rwax+") and _text_file(call)
            if name in ("read_text", "write_text") or opens:
                wrong.append(f"{file}:{call.lineno}")
    assert not wrong


def _text_file(call: ast.Call) -> bool:
    """Whether ``open`` may be of a file: PATH.open() and PATH.open(mode), or the built-in function's."""
    if isinstance(call.func, ast.Name):
        return True
    return all(isinstance(a, ast.Constant) for a in call.args) and not any(
        w.arg in ("formats", "framework") for w in call.keywords
    )
