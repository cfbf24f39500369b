"""The page of a gallery."""

from __future__ import annotations

from collections.abc import Mapping

from densessl.backbones import Backbone
from densessl.reading import described, normalisation, pixels_of
from densessl.versions import versions
from densessl.visual.gallery import Gallery
from densessl.visual.page import contents, document, escaped, section, table


def overview(gallery: Gallery, backbones: Mapping[str, Backbone], command: str) -> str:
    """HTML: what is compared, every figure, how to draw them again."""
    title = f"What {_joined(list(backbones))} {'see' if len(backbones) > 1 else 'sees'}"
    head = ("backbone", "network", "weights", "step", "strides", "reads")
    rows = []
    for name, each in backbones.items():
        facts, (mean, std) = each.metadata, normalisation(each)
        reads = f"{described(pixels_of(each))}; mean {_numbers(mean)}, std {_numbers(std)}"
        strides = ", ".join(map(str, each.strides))
        rows.append((name, each.name, str(facts.get("method", "")), str(facts.get("step", "")), strides, reads))
    body = [
        f"<h1>{escaped(title)}</h1>",
        f"<p>{len(gallery.shown)} pictures: {escaped(', '.join(gallery.shown))}. The numbers of the maps are their "
        "cells, rows x columns. Pictures show what may be worth measuring; which backbone is better, "
        "eval-seg measures.</p>",
        table(head, rows, "facts"),
        contents(gallery.figures),
        *map(section, gallery.figures),
    ]
    if gallery.remarks:
        lines = "".join(f"<li>{escaped(remark)}</li>" for remark in gallery.remarks)
        body.append(f'<section id="remarks"><h2>Left out</h2><ul>{lines}</ul></section>')
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    body.append(
        f'<section id="again"><h2>To draw it again</h2><pre>{escaped(command)}</pre>'
        f'<p class="pale">{escaped(made)}. The same command gives the same pictures.</p></section>'
    )
    return document(title, "\n".join(body))


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _joined(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
