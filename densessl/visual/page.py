"""One page that needs nothing else: no network, no script but its own; light and dark, on paper and on a phone."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from densessl.files import printable_lines
from densessl.visual.figure import SIDE, Bar, Figure, Table, Tile

FLAT = 0.6  # share of the pixels
WIDE = 240  # pixels that a tile wider than usual has at least: four of them beside each other on a screen
QUALITY = 88
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser would refuse anything from outside

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #ffffff; --ink: #1b1e23; --pale: #616974; --line: #dfe2e6;
  --accent: #1c62b9; }
@media (prefers-color-scheme: dark) { :root { --ground: #131518; --card: #1b1e23; --ink: #e7e9ec; --pale: #9aa3ae;
  --line: #31363d; --accent: #7fb2f0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem; font-weight: 650; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .75rem; font-weight: 650; }
p { margin: 0 0 .75rem; max-width: 46rem; }
a { color: var(--accent); }
nav { margin: 1rem 0 0; }
nav a { display: inline-block; margin: 0 1rem .35rem 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.25rem; margin-top: 1.5rem; }
figure { margin: 0; }
.row { display: grid; gap: .6rem; margin: 0 0 1rem; align-items: start; }
.row img { display: block; max-width: 100%; height: auto; border-radius: .25rem; background: var(--line); }
figcaption, .pale, td.pale { color: var(--pale); font-size: .8rem; line-height: 1.35; }
figcaption { margin-top: .25rem; }
ul { margin: 0 0 .9rem; padding-left: 1.2rem; }
li { margin-bottom: .2rem; }
.bar { max-width: 22rem; margin: 0 0 1rem; font-size: .8rem; color: var(--pale); }
.bar i { display: block; height: .8rem; border-radius: .2rem; border: 1px solid var(--line);
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.bar div { display: flex; justify-content: space-between; gap: 1rem; }
.swatches { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: 0 0 1rem; font-size: .8rem; color: var(--pale); }
.swatches i { display: inline-block; width: .85rem; height: .85rem; border-radius: .2rem; margin-right: .35rem;
  vertical-align: -.1rem; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--pale); font-weight: 500; white-space: nowrap; }
.facts td { min-width: 5rem; } .facts td:last-child { min-width: 18rem; }
.numbers th, .numbers td { text-align: right; white-space: nowrap; }
details { margin: 0 0 .6rem; } summary { cursor: pointer; color: var(--accent); }
code, pre { font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; margin: .5rem 0; }
@media (max-width: 40rem) { main { padding: 1.25rem .75rem 3rem; }
  section { padding: .9rem .75rem; border-radius: .4rem; }
  h1 { font-size: 1.45rem; } .row { gap: .35rem; } }
@media print { :root { --ground: #fff; --card: #fff; --ink: #000; --pale: #444; --line: #ccc; --accent: #000;
    color-scheme: light; }
  main { max-width: none; padding: 0; } nav { display: none; } section { border: 0; padding: 1rem 0; }
  figure, tr, .bar { break-inside: avoid; } h2, h3 { break-after: avoid; }
  details:not([open]) { display: none; } summary { list-style: none; color: var(--pale); } }
"""


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page around ``body``, which is HTML. A browser runs no script but ``script``, whose hash the page has."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = POLICY + (f"; script-src 'sha256-{digest}'" if script else "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<link rel="icon" href="data:,">\n<title>{escaped(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n" + (f"<script>{script}</script>\n" if script else "") + "</body>\n</html>\n"
    )


def escaped(text: str) -> str:
    return html.escape(printable_lines(str(text)))


def paragraphs(texts: Sequence[str]) -> str:
    return "\n".join(f"<p>{escaped(text)}</p>" for text in texts)


def data_uri(image: np.ndarray) -> str:
    """(h, w, 3) uint8 as an address that holds it: PNG where most pixels are like the one before, as in maps and
    drawings, else JPEG, which is smaller for photographs."""
    flat = (image[:, 1:] == image[:, :-1]).all(2).mean() > FLAT
    stored, form = io.BytesIO(), "PNG" if flat else "JPEG"
    Image.fromarray(image).save(stored, form, **({} if flat else {"quality": QUALITY, "subsampling": 0}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(stored.getvalue()).decode()}"


def tile(one: Tile) -> str:
    height, width = one.image.shape[:2]
    return (
        f'<figure><img src="{data_uri(one.image)}" alt="{escaped(one.alt)}" width="{width}" height="{height}">'
        f"<figcaption>{escaped(one.label)}</figcaption></figure>"
    )


def row(tiles: Sequence[Tile], side: int) -> str:
    """Tiles beside each other, shrunk to a third of ``side`` pixels before they wrap; wide ones alone on a phone."""
    columns, least = len(tiles), max(side // 3, 96) if side <= SIDE else WIDE
    style = f"grid-template-columns:repeat(auto-fill,minmax(max({least}px,calc((100% - {columns}rem)/{columns})),1fr))"
    widest = columns * side + 10 * (columns - 1)
    return f'<div class="row" style="{style};max-width:{widest}px">{"".join(map(tile, tiles))}</div>'


def bar(one: Bar) -> str:
    stops = ",".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in one.colours[:: len(one.colours) // 15])
    ends = "".join(f"<span>{escaped(text)}</span>" for text in (one.low, one.title, one.high))
    return f'<div class="bar"><i style="background:linear-gradient(90deg,{stops})"></i><div>{ends}</div></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """``kind``: numbers stand to the right; of facts the last column is long."""
    cells = "".join(f'<th scope="col">{escaped(text)}</th>' for text in head)
    lines = "".join("<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in line) + "</tr>" for line in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def folded(one: Table) -> str:
    """A table behind its title."""
    return f"<details><summary>{escaped(one.title)}</summary>{table(one.head, one.rows, 'numbers')}</details>"


def section(figure: Figure) -> str:
    """All of a figure, under its name as the anchor."""
    parts = [f'<section id="{escaped(figure.name)}">', f"<h2>{escaped(figure.title)}</h2>", paragraphs(figure.texts)]
    if figure.facts:
        parts.append("<ul>" + "".join(f"<li>{escaped(fact)}</li>" for fact in figure.facts) + "</ul>")
    if figure.bar:
        parts.append(bar(figure.bar))
    if figure.swatches:
        chips = "".join(
            f'<span><i style="background:rgb{colour}"></i>{escaped(text)}</span>' for colour, text in figure.swatches
        )
        parts.append(f'<div class="swatches">{chips}</div>')
    parts += [row(tiles, figure.side) for tiles in figure.rows]
    parts += [folded(each) for each in figure.tables]
    return "\n".join([*parts, "</section>"])


def contents(figures: Sequence[Figure]) -> str:
    links = (f'<a href="#{escaped(each.name)}">{escaped(each.title)}</a>' for each in figures)
    return f'<nav aria-label="Figures">{"".join(links)}</nav>'
