"""Backbones handed to other libraries, verified there before anything is written."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
from pathlib import Path

from densessl import __version__
from densessl.backbone_file import FILE_NAME, init_backbone, load_backbone
from densessl.backbone_spec import parse_spec
from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.export import detectron2, huggingface, mmdet, mmpretrain, onnx, timm, torch_export, torchvision
from densessl.export.exporter import Exporter, NotInstalled
from densessl.export.values import zero_to_one
from densessl.export.verify import TOLERANCE, differences
from densessl.files import aside
from densessl.foreign.filling import COUNTER
from densessl.key_report import first
from densessl.reading import pixels_of
from densessl.vit import ViT

EXPORTERS: dict[str, Exporter] = {
    "timm": timm,
    "torchvision": torchvision,
    "detectron2": detectron2,
    "mmdet": mmdet,
    "mmpretrain": mmpretrain,
    "hf": huggingface,
    "onnx": onnx,
    "torch_export": torch_export,
}


def export(spec: str | Path, target: str, out: str | Path | None = None) -> Path:
    """Write the backbone that ``spec`` means (see ``load_backbone``) for ``target``, with a JSON manifest beside it.

    By default NAME.TARGET.SUFFIX beside the backbone file. It is written only after the destination's own architecture
    loaded those very bytes strictly and its stage maps equalled ours, and after they gave our tensors back, bit for
    bit; UserError otherwise, and nothing is left behind. Without the package of detectron2, mmdetection or mmpretrain
    the first can't be seen: the manifest's "verified" is then null and "not_verified" says why. Returns the path of the
    weights; ``manifest_path`` of it is the manifest's.
    """
    if target not in EXPORTERS:
        near = difflib.get_close_matches(target, EXPORTERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no export target {target!r}, only {', '.join(EXPORTERS)}{hint}")
    exporter = EXPORTERS[target]
    if missing := [package for package in exporter.NEEDS if importlib.util.find_spec(package) is None]:
        raise UserError(f"--to {target} needs {', '.join(missing)}: pip install 'densessl[export]'")
    backbone = load_backbone(spec)
    if isinstance(backbone, ViT):
        raise UserError(f"{backbone.name}: only ConvNeXts and ResNets are exported; a ViT came from timm as it is")
    out = _destination(parse_spec(spec).path or Path(), backbone, target, exporter.SUFFIX, out)
    try:
        with aside(out) as part, aside(manifest_path(out)) as manifest_part:
            exporter.write(backbone, part)
            facts = _manifest(backbone, target, out.name, part) | _verified(backbone, target, part)
            facts["snippet"] = exporter.snippet(backbone, out)
            manifest_part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: can't be written there ({error})") from None
    return out


def _verified(backbone: Backbone, target: str, file: Path) -> dict[str, object]:
    """What was seen of the file, for the manifest. Raises UserError where it isn't the backbone."""
    again = Backbone(backbone.name, in_chans=backbone.in_chans, stem=backbone.stem)
    init_backbone(again, file)
    theirs = again.net.state_dict()
    if lost := [k for k, v in backbone.net.state_dict().items() if not k.endswith(COUNTER) and not v.equal(theirs[k])]:
        raise UserError(f"not exported: {target}'s file gives other values back for {first(lost)}")
    try:
        stages = EXPORTERS[target].open(backbone, file)
    except NotInstalled as error:
        return {"verified": None, "not_verified": f"{error}; the file gave the same tensors back, no more was seen"}
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"not exported: {target}'s {backbone.name} did not load it: {reason}") from None
    found = differences(backbone.stages, stages, backbone.in_chans)
    if not all(difference <= TOLERANCE for difference in found):
        sizes = ", ".join(f"{difference:.1e}" for difference in found)
        raise UserError(
            f"not exported: {target}'s {backbone.name} loaded it, but its four stage maps differ by {sizes} of "
            f"their size; {TOLERANCE:.0e} is allowed"
        )
    return {
        "verified": {
            "stage_differences": found,
            "relative_to": "the largest value of the stage",
            "allowed": TOLERANCE,
        }
    }


def manifest_path(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _destination(spec: Path, backbone: Backbone, target: str, suffix: str, out: str | Path | None) -> Path:
    folder = spec if spec.is_dir() else spec.parent
    path = Path(out) if out is not None else folder
    if path.is_dir():
        path /= f"{backbone.name}.{target}".removesuffix(suffix) + suffix
    if path.suffix != suffix:
        raise UserError(f"--out {path}: {target} wants a file that ends with {suffix}")
    if path.exists() and any(path.samefile(source) for source in (spec, spec / FILE_NAME) if source.exists()):
        raise UserError(f"--out {path}: is the backbone file itself")
    return path


def _manifest(backbone: Backbone, target: str, name: str, file: Path) -> dict[str, object]:
    metadata, pixels = backbone.metadata, pixels_of(backbone)
    with (file / "model.safetensors" if file.is_dir() else file).open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {
        "target": target,
        "file": name,
        "sha256": digest,
        "architecture": backbone.name,
        "input_size": [backbone.in_chans, 224, 224],
        "fixed_input_size": False,
        "colour_order": "RGB" if backbone.in_chans == 3 else f"{backbone.in_chans} channels as in pretraining",
        "range": None if pixels.percentiles else pixels.range or ((0, 255),),
        "percentiles": pixels.percentiles,
        "nodata": pixels.nodata,
        "zero_to_one": zero_to_one(backbone),
        "mean": metadata["mean"],
        "std": metadata["std"],
        "channels": backbone.channels,
        "strides": backbone.strides,
        "method": metadata["method"],
        "step": metadata["step"],
        "licence": metadata.get("licence", "not stated; see that of the pictures and of the weights it started from"),
        "densessl": metadata.get("densessl", __version__),
    }
