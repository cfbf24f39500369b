"""Hand a backbone to another library, verified there before it is written."""

from __future__ import annotations

import argparse
import json


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: export checkpoints/demo --to timm")
    parser.add_argument("backbone", metavar="BACKBONE", help="a backbone file, a run folder, or a timm name (random)")
    parser.add_argument("--to", required=True, metavar="TARGET", help="timm or torchvision")
    parser.add_argument("--out", metavar="FILE", help="default: NAME.TARGET.SUFFIX beside the backbone file")
    args = parser.parse_args(argv)

    from densessl.export import export, manifest_path

    file = export(args.backbone, args.to, args.out)
    facts = json.loads(manifest_path(file).read_text(encoding="utf-8"))
    found, allowed = facts["verified"]["stage_differences"], facts["verified"]["allowed"]
    print(f"{file} and {manifest_path(file).name}: {facts['architecture']}, {facts['method']}, step {facts['step']}")
    print(
        f"verified: {args.to}'s {facts['architecture']} loaded it strictly; stage maps differ by at most "
        f"{', '.join(f'{difference:.1e}' for difference in found)} of their size ({allowed:.0e} allowed)"
    )
    print(
        f"\nIn {args.to}, for an image (B, {facts['input_size'][0]}, H, W) less mean, by std:\n\n{facts['snippet']}",
        end="",
    )
    return 0
