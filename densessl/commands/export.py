"""Hand a backbone to another library, verified there before it is written."""

from __future__ import annotations

import argparse
import json

TARGETS = "timm, torchvision, detectron2, mmdet, mmpretrain, hf, onnx or torch_export"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: export checkpoints/demo --to timm")
    parser.add_argument(
        "backbone",
        metavar="BACKBONE",
        help="a backbone file, a run folder, any checkpoint of a ConvNeXt or ResNet, TIMM_NAME=CHECKPOINT, or a timm "
        "name (random)",
    )
    parser.add_argument("--to", required=True, metavar="TARGET", help=TARGETS)
    parser.add_argument("--out", metavar="FILE", help="default: NAME.TARGET.SUFFIX beside the backbone file")
    args = parser.parse_args(argv)

    from densessl.export import export, manifest_path

    file = export(args.backbone, args.to, args.out)
    facts = json.loads(manifest_path(file).read_text(encoding="utf-8"))
    print(f"{file} and {manifest_path(file).name}: {facts['architecture']}, {facts['method']}, step {facts['step']}")
    if facts["verified"]:
        found = ", ".join(f"{difference:.1e}" for difference in facts["verified"]["stage_differences"])
        print(
            f"verified: {args.to}'s {facts['architecture']} loaded it strictly; stage maps differ by at most {found} "
            f"of their size ({facts['verified']['allowed']:.0e} allowed)"
        )
    else:
        print(f"NOT verified in {args.to}: {facts['not_verified']}")
    print(
        f"\nIn {args.to}, for an image (B, {facts['input_size'][0]}, H, W): {facts['zero_to_one']}; less mean "
        f"{facts['mean']}, by std {facts['std']}:\n\n{facts['snippet']}",
        end="",
    )
    return 0
