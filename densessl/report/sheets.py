"""The sheets of pictures that evaluations leave beside their results, made small."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from densessl.report.evaluations import Result
from densessl.visual.page import escaped

WIDE, TALL = 960, 2400  # pixels at most
QUALITY = 80
STYLE = """
.sheet { margin: .8rem 0; } .sheet img { display: block; max-width: 100%; height: auto; }
@media print { .sheet img { max-height: 18cm; width: auto; } }
"""


def sheets(results: Sequence[Result], about: str) -> str:
    """HTML: those of the results that `evaluations.tables` calls ``about``."""
    found = {result.sheet: result for result in results if result.about == about and result.sheet}
    return "".join(_figure(result) for result in found.values())


def _figure(result: Result) -> str:
    assert result.sheet is not None
    try:
        with Image.open(result.sheet) as opened:
            opened.thumbnail((WIDE, TALL), Image.Resampling.LANCZOS)
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f'<p class="pale">{escaped(str(result.sheet))} can\'t be read: {escaped(str(error))}</p>'
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(stored.getvalue()).decode()
    said = f"what {result.name} came to on some pictures"
    return (
        f'<figure class="sheet"><img src="data:image/jpeg;base64,{data}" alt="{escaped(said)}" width="{image.width}" '
        f'height="{image.height}"><figcaption>{escaped(said)}</figcaption></figure>'
    )
