"""Nobody's file runs code, and nothing asks the network."""

import ast
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import test_training
import torch
import yaml

from densessl.backbone_file import init_backbone, load_backbone
from densessl.backbones import Backbone
from densessl.commands.pretrain import main as pretrain_command
from densessl.compare.rows import compose, read_words
from densessl.config import load_config
from densessl.data.decoding import Unreadable, decode
from densessl.data.sources import index_file, open_source
from densessl.detection import state
from densessl.errors import UserError
from densessl.methods import find_method
from densessl.segmentation.datasets.files import read_mask, read_picture
from densessl.training import checkpoint, run_folder
from densessl.training.pretrain import pretrain

ROOT = Path(__file__).parents[1]
TINY = {key: value for key, value in test_training.TINY.items() if not key.endswith("_every")} | {
    "batch": 4,
    "steps": 2,
}


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does with traps, none has sprung at its end, and one that is unpickled would have."""
    sprung = tmp_path / "sprung"
    monkeypatch.setenv("TRAP", str(sprung))
    yield
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap()))
    assert sprung.exists()


def torch_file(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def contents() -> dict[str, bytes]:
    inside = {"state_dict": {"conv1.weight": torch.ones(2), "x": Trap()}}
    return {
        "pickle": pickle.dumps(Trap()),
        "pickle 0": pickle.dumps(Trap(), 0),
        "torch": torch_file(Trap()),
        "torch, beside weights": torch_file(inside),
        "torch before 1.6": torch_file(inside, _use_new_zipfile_serialization=False),
    }


# --- weights ----------------------------------------------------------------------------------------------------------

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".safetensors", ".onnx", ".pt2", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_backbone_that_would_run_code_is_refused(suffix: str, tmp_path: Path, trap: None) -> None:
    backbone, file = Backbone("test_resnet"), tmp_path / f"weights{suffix}"
    for data in contents().values():
        file.write_bytes(data)
        for use in (load_backbone, lambda spec: init_backbone(backbone, spec)):
            with pytest.raises(UserError, match=r"weights.*(no whole|no file of|holds|is read by)"):
                use(f"{file}")
        with pytest.raises(UserError, match="weights"):
            load_backbone(f"test_resnet={file}")


def test_a_folder_of_hugging_face_or_of_a_run_that_would_run_code_is_refused(tmp_path: Path, trap: None) -> None:
    for name in ("model.safetensors", "backbone.safetensors", "pytorch_model.bin"):
        for number, data in enumerate(contents().values()):
            folder = tmp_path / f"{name}{number}"
            folder.mkdir()
            (folder / name).write_bytes(data)
            with pytest.raises(UserError, match=r"no whole|no file of|holds"):
                load_backbone(folder)


def test_what_only_a_pickle_holds_of_an_exported_program_is_refused(tmp_path: Path, trap: None) -> None:
    file = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), file)
    config = "data/weights/model_weights_config.json"
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith(config))
    said = json.loads(members[name])
    for facts in said["config"].values():
        facts["use_pickle"] = True
        members[name.replace("model_weights_config.json", facts["path_name"])] = torch_file(Trap())
    members[name] = json.dumps(said).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match="is pickled, which can run code when it is read"):
        load_backbone(f"resnet18={file}")


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run and all that came of it, made where each word to the network is noted and fails; the words.

    Several commands in one Python: each would import torch again.
    """
    folder = tmp_path_factory.mktemp("ran")
    write_pictures(folder / "own")
    (folder / "config.yaml").write_text(yaml.safe_dump(TINY | {"data": {"path": str(folder / "own/images/train")}}))
    run = str(folder / "run")
    fast = ["--workers", "1", "--device", "cpu", "iterations=2", "batch=2", "crop=[32, 32]"]
    commands = [
        ["pretrain", "--cfg", str(folder / "config.yaml"), f"run={run}", "data.workers=1"],
        ["eval-seg", run, "--data", str(folder / "own"), "--out", str(folder / "seg"), *fast],
        ["export", run, "--to", "timm", "--out", str(folder / "weights.safetensors")],
        ["export", run, "--to", "torch_export", "--out", str(folder / "weights.pt2")],
        ["import", f"test_resnet={folder}/weights.safetensors", "--out", str(folder / "again")],
        ["data", "check", str(folder / "own/images"), "--out", str(folder / "checked")],
    ]
    lines = "".join(f"sys.argv[1:] = {words}\nassert main() == 0, {words}\n" for words in commands)
    begin = "import sys, psutil\nfrom densessl.__main__ import main\n"
    end = "print(*{one.laddr.ip for one in psutil.Process().net_connections('inet')})\n"
    words, printed = watched(begin + lines + end, folder)
    assert set(printed.splitlines()[-1].split()) <= {"127.0.0.1", "::1"}  # nobody else can connect to it
    assert (folder / "weights.pt2").exists()
    return folder, words


def write_pictures(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
            cv2.imwrite(str(root / "masks" / split / f"{i}.png"), rng.integers(0, 2, (48, 64), dtype=np.uint8))
    (root / "classes.txt").write_text("left\nright\n")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_state_that_would_run_code_is_refused(name: str, ran: tuple[Path, str], tmp_path: Path, trap: None) -> None:
    for number, data in enumerate(contents().values()):
        run = copied(ran[0] / "run", tmp_path / f"run{number}")
        (place,) = (run / "state").glob("step*")
        (place / name).write_bytes(data)
        manifest = json.loads((place / "manifest.json").read_text())
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (place / "manifest.json").write_text(json.dumps(manifest))
        (place / "manifest.sha256").unlink()  # older states have none
        assert checkpoint.newest_state(run)[0]["step"] == 2  # that it is damaged is not what it is refused for
        with pytest.raises(UserError, match=rf"--resume: .*{place.name} was not loaded: SafetensorError"):
            pretrain(load_config(str(ran[0] / "config.yaml"), [f"run={run}"]), resume=True)


def test_a_manifest_or_configuration_of_a_run_that_would_run_code_is_refused(
    ran: tuple[Path, str], tmp_path: Path, trap: None
) -> None:
    run = copied(ran[0] / "run", tmp_path / "run")
    cfg = load_config(str(ran[0] / "config.yaml"), [f"run={run}"])
    for text in objects():
        (run / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"--resume: .*config\.yaml can't be read as YAML: could not determine a"):
            run_folder.check_same(run, cfg)
    (place,) = (run / "state").glob("step*")
    (place / "manifest.json").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r"holds no whole state(?s:.*)manifest\.json can't be read"):
        checkpoint.newest_state(run)


def copied(run: Path, to: Path) -> Path:
    for file in run.rglob("*"):
        if file.is_file():
            (to / file.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(run)).write_bytes(file.read_bytes())
    return to


def test_a_state_of_a_detection_that_would_run_code_is_refused(tmp_path: Path, trap: None) -> None:
    net = torch.nn.Linear(2, 2)
    optimizer, file = torch.optim.SGD(net.parameters()), tmp_path / "state-seed0.pt"
    inside = {"about": {}, "done": 1, "detector": Trap(), "optimizer": {}, "terms": torch.ones(1)}
    for data in (*contents().values(), torch_file(inside), torch_file(torch.ones(2)), torch_file({"about": {}})):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"--resume: .*state-seed0\.pt can't be read"):
            state.load(file, {}, net, optimizer, torch.zeros(2))


# --- pictures and their indices ---------------------------------------------------------------------------------------


def test_a_picture_that_would_run_code_is_unreadable(tmp_path: Path, trap: None) -> None:
    file = io.BytesIO()
    np.save(file, np.array([[Trap()]], object), allow_pickle=True)
    for data in (file.getvalue(), *contents().values()):
        with pytest.raises(Unreadable):
            decode(data, "picture.npy")
        (tmp_path / "picture.npy").write_bytes(data)
        with pytest.raises(UserError, match=r"not a picture|an array"):
            read_picture(tmp_path / "picture.npy")


def test_no_program_is_run_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow calls Ghostscript, a language, for PostScript, whatever a file is called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "p.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    for read in (read_picture, read_mask):
        with pytest.raises(UserError, match="not a picture"):
            read(tmp_path / "p.png")
    with pytest.raises(Unreadable):
        decode((tmp_path / "p.png").read_bytes(), "p.png")
    assert not (tmp_path / "called").exists()


def test_an_index_that_would_run_code_is_made_anew(
    tmp_path: Path, trap: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("DENSESSL_CACHE", str(cache))
    monkeypatch.setattr(index_file, "SMALL", 1)
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "pictures" / name).touch()
    os.utime(tmp_path / "pictures", (1_500_000_000, 1_500_000_000))

    def found() -> list[str]:
        source = open_source(str(tmp_path / "pictures"))
        return [Path(source.path(i)).name for i in range(len(source))]

    assert found() == ["a.png", "b.png"]
    (file,) = cache.glob("*.index")
    good, harmful = file.read_bytes(), pickle.dumps(Trap())
    ends = [harmful + notes + index_file.TAIL.pack(len(harmful), len(notes)) for notes in (harmful, b"[1]", b"{}")]
    for data in (*contents().values(), *ends):
        caplog.clear()
        file.unlink()
        file.write_bytes(data)
        assert found() == ["a.png", "b.png"]
        assert "index made anew" in caplog.text
        assert file.read_bytes() == good


def test_names_in_a_shard_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSESSL_CACHE", "off")
    from densessl.data.pack import pack
    from densessl.data.pictures import open_pictures

    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    names = ["../../up.png", "/absolute.png", "a/../../b.png"]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(png)
            tar.addfile(entry, io.BytesIO(png))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    before = sorted(tmp_path.parent.rglob("*"))
    source = open_source(str(tmp_path / "s.tar"))
    assert [source.stored(i) for i in range(len(source))] == [png] * 3  # a link is no picture
    assert sorted(tmp_path.parent.rglob("*")) == before
    pack(open_pictures(str(tmp_path / "s.tar")), tmp_path / "packed", seed=None)
    with tarfile.open(tmp_path / "packed" / "train-000000.tar") as tar:
        assert not [name for name in tar.getnames() if "/" in name or name.startswith(".")]


def test_a_row_that_names_a_device_or_a_pipe_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's library: pip install 'densessl[hf]'")
    import pyarrow
    from pyarrow.parquet import write_table

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    os.mkfifo(tmp_path / "pipe")
    paths = [str(tmp_path / "pipe"), "/dev/zero", "https://example.org/a.png"]
    cells = [{"bytes": None, "path": path} for path in paths]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    write_table(pyarrow.table({"picture": pyarrow.array(cells, kind)}), tmp_path / "rows.parquet")
    source = open_source(f"hf:{tmp_path / 'rows.parquet'}:train:picture")
    for i in range(3):
        with pytest.raises(Unreadable, match="a pipe or a device" if i < 2 else "No such file"):
            source.stored(i)


# --- YAML -------------------------------------------------------------------------------------------------------------


def objects() -> list[str]:
    """YAML that makes a folder where it is loaded with Python's objects."""
    path = os.environ["TRAP"]
    return [
        f"batch: !!python/object/apply:os.mkdir [{path}]\n",
        f"method: !!python/object/apply:os.mkdir {{args: [{path}]}}\n",
        f"method: {{name: !!python/object/new:os.mkdir [{path}]}}\n",
        f"!!python/object/apply:os.mkdir [{path}]\n",
    ]


def test_yaml_that_would_run_code_is_refused(tmp_path: Path, trap: None) -> None:
    for text in objects():
        yaml.unsafe_load(text)
        os.rmdir(os.environ["TRAP"])  # as it would have been made
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(UserError, match=r"c\.yaml (can't be read as YAML|must hold keys)"):
            load_config(str(tmp_path / "c.yaml"))
    for text in objects()[:3]:
        with pytest.raises(UserError, match="can't be read as YAML"):
            load_config("demo", [text.strip().replace(": ", "=", 1)])


# --- the source -------------------------------------------------------------------------------------------------------

ALLOWED = {  # where they are used, and why none of it comes from a user's file, but for that which is the user's code
    "benchmark/processes.py": {"loads"},  # of processes that it started, in a folder that only its user can enter
    "foreign/state_file.py": {"Unpickler"},  # of which find_class allows names of its own
    "methods/__init__.py": {"exec_module"},  # of the file that method.name names; the next test says when
}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """All calls with their full names, whatever they were imported as."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                one.asname or one.name.split(".")[0]: one.name if one.asname else one.name.split(".")[0]
                for one in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            head, dot, rest = ast.unparse(node.func).partition(".")
            yield names.get(head, head) + dot + rest, node


def faults(source: str) -> set[str]:
    """What could run code of a file, or ask the network."""
    tree, found = ast.parse(source), set()
    for name, call in calls(tree):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        module, _, last = name.rpartition(".")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.add(name)
        if last in ("exec_module", "load_module", "run_path", "run_module") or name in ("eval", "exec", "__import__"):
            found.add(last)
        if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"):
            found.add(name)
        if module in ("pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve") and last in (
            *("load", "loads", "Unpickler", "open"),
        ):
            found.add(last)
        if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
            found.add(f"{name} by pickle or shell")
        if "trust_remote_code" in given or last in ("extractall", "extract", "unpack_archive"):
            found.add(name)
        if module.startswith(("torch.hub", "huggingface_hub", "urllib", "requests", "http", "httpx")):
            found.add(name)
        if last == "load_state_dict_from_url" or given.get("pretrained") == "True":
            found.add(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {
                base.attr for base in node.bases if isinstance(base, ast.Attribute) and "pickle" in ast.unparse(base)
            }
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "densessl").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_the_source_loads_nothing_that_can_run_code(file: Path) -> None:
    allowed = ALLOWED.get(str(file.relative_to(ROOT / "densessl")), set())
    assert faults(file.read_text()) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f)",
        "from torch import load as read\nread(f, weights_only=False)",
        "import yaml\nyaml.load(f, yaml.SafeLoader)",
        "import pickle as p\np.load(f)",
        "from pickle import loads\nloads(f)",
        "import pickle\nclass A(pickle.Unpickler): pass",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import tarfile\ntarfile.open(f).extractall()",
        "import torch.hub\ntorch.hub.load(f)",
        "import urllib.request\nurllib.request.urlopen(f)",
        "import timm\ntimm.create_model('resnet18', pretrained=True)",
        "import subprocess\nsubprocess.run(f, shell=True)",
        "eval(text)",
        "import runpy\nrunpy.run_path(f)",
        "spec.loader.exec_module(module)",
    ],
)
def test_faults_are_found(source: str) -> None:
    assert faults(source)


METHOD = """\
import os
from densessl.config import Count
from densessl.method import Method

os.mkdir(os.environ["TRAP"])


class Mine(Method):
    def __init__(self, backbone, *, width: Count = os.mkdir(os.environ["TRAP"])):
        ...

    def forward(self, views): ...
"""


def test_the_file_of_a_method_is_run_by_what_trains_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAP", str(sprung := tmp_path / "sprung"))
    words = ["vicreg_r50", "data.path=scenes", "method={name: mine.py:Mine}"]
    for text in (METHOD, METHOD.replace("Count = os", "(os.mkdir('sprung') or int) = os")):
        Path("mine.py").write_text(text)
        with pytest.raises(UserError, match=r"mine.py:9: width: .* a plain value, not .* = os.mkdir"):
            load_config(words[0], words[1:])
    Path("mine.py").write_text(METHOD.replace('os.mkdir(os.environ["TRAP"])):', "3):"))
    assert pretrain_command(["--cfg", *words, "--print"]) == 0
    assert compose(read_words(words), "steps=3")[0].config.method.arguments == {"width": 3}
    assert not sprung.exists()
    find_method("mine.py:Mine")
    assert sprung.exists()
    with pytest.raises(UserError, match=r"mine.py:5: FileExistsError"):
        find_method("mine.py:Mine")


# --- the network ------------------------------------------------------------------------------------------------------

WATCH = """\
import os, sys

HERE = ("127.0.0.1", "::1", "localhost")

def watch(event, arguments):
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = arguments[1]
        if not isinstance(where, tuple) or where[0] in HERE:
            return
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        where = arguments[0]
        if where in (None, "", *HERE):
            return
    else:
        return
    with open(os.environ["NOTED"], "a") as file:
        file.write(f"{event} {where}\\n")
    raise OSError(f"there is no network: {event} {where}")

sys.addaudithook(watch)
"""


def watched(program: str, folder: Path) -> tuple[str, str]:
    """What ``program``, and whatever Python it starts, would have said to other machines, and what it printed.

    It has to end well. Python calls the hook before it connects or asks for an address; libraries in C++ are not seen.
    """
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    (folder / "noted").touch()
    quiet = ("NO_ALBUMENTATIONS_UPDATE", "HF_HUB_OFFLINE", "HF_UPDATE_DOWNLOAD_COUNTS", "HF_DATASETS_OFFLINE")
    env = {key: value for key, value in os.environ.items() if key not in quiet}
    env |= {"PYTHONPATH": str(folder / "watch"), "NOTED": str(folder / "noted"), "OMP_NUM_THREADS": "1"}
    env |= {"HF_HOME": str(folder / "hf"), "DENSESSL_CACHE": "off"}
    done = subprocess.run([sys.executable, "-c", program], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / "noted").read_text(), done.stdout


def test_words_to_the_network_are_noted(tmp_path: Path) -> None:
    program = """
import socket, subprocess, sys, threading
for ask in (
    lambda: socket.create_connection(("192.0.2.1", 80), 1),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: subprocess.run([sys.executable, "-c", "import socket; socket.gethostbyname('example.net')"], check=True),
):
    try:
        ask()
    except (OSError, subprocess.CalledProcessError):
        pass
    else:
        raise AssertionError
with socket.socket() as here, socket.socket() as other:
    here.bind(("127.0.0.1", 0))
    here.listen()
    other.connect(here.getsockname())
"""
    noted = watched(program, tmp_path)[0].splitlines()
    assert [line.split()[-1] for line in noted if "connect" not in line] == ["192.0.2.1", "example.org", "example.net"]


def test_no_command_asks_the_network(ran: tuple[Path, str]) -> None:
    assert ran[1] == ""


@pytest.mark.parametrize("first", ["densessl.data.photometric", "densessl.segmentation.transforms"])
def test_albumentations_does_not_look_for_a_newer_version(first: str, tmp_path: Path) -> None:
    program = f"import os\nos.environ['NO_ALBUMENTATIONS_UPDATE'] = '0'\nimport {first}, albumentations"
    assert watched(program, tmp_path)[0] == ""


def test_hugging_faces_library_is_not_counted(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs Hugging Face's library: pip install 'densessl[hf]'")
    program = f"""
import pyarrow, pyarrow.parquet
from densessl.data.sources import open_source
pyarrow.parquet.write_table(pyarrow.table({{"picture": [b"1", b"2"]}}), "{tmp_path}/data/train.parquet")
assert len(open_source("hf:{tmp_path}/data::picture")) == 2
"""
    (tmp_path / "data").mkdir()
    assert watched(program, tmp_path)[0] == ""
