"""The page of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from densessl import __version__
from densessl.report import chart, collection, health
from densessl.report.ending import ending
from densessl.report.evaluations import Result, tables
from densessl.report.facts import differences, rows
from densessl.report.instructions import instructions
from densessl.report.quantities import Group, curve, drawn, groups, title
from densessl.report.records import Run, Said
from densessl.report.script import SCRIPT
from densessl.report.sheets import STYLE as OF_SHEETS
from densessl.report.sheets import sheets
from densessl.versions import versions
from densessl.visual import page as common
from densessl.visual.figure import Figure
from densessl.visual.page import document, escaped, table

STYLE = (
    """
:root { --good: #1a7f4b; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --good: #58c48c; --bad: #ff7a6b; } }
@media print { :root { --good: #1a7f4b; --bad: #c0392b; } }
h3 { font-size: 1rem; margin: 1.1rem 0 .5rem; font-weight: 650; }
section > p.lead { max-width: 46rem; } .said { margin: 0; padding: 0; list-style: none; font-size: .85rem; }
.said time { color: var(--pale); font-variant-numeric: tabular-nums; margin-right: .6rem; }
.said li { overflow-wrap: anywhere; white-space: pre-line; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: .35rem; padding: .5rem .7rem;
  overflow-wrap: anywhere; }
.facts td { overflow-wrap: anywhere; } .facts td:first-child { white-space: nowrap; }
.measures td { white-space: nowrap; } .scroll + details, .scroll + .scroll, .charts + details { margin-top: .9rem; }
.several td:first-child { min-width: 7rem; } .several td { min-width: 11rem; }
@media (max-width: 40rem) { .facts td:first-child { white-space: normal; } .facts td:last-child { min-width: 12rem; } }
"""
    + chart.STYLE
    + health.STYLE
    + OF_SHEETS
)
SHOWN = 30  # lines that were said, at the beginning and at the end each


def report(
    runs: dict[str, Run],
    *,
    now: float,
    command: str,
    results: Sequence[Result] = (),
    checks: Sequence[collection.Check] = (),
    figures: Sequence[Figure] = (),
    remarks: Sequence[str] = (),
) -> str:
    """HTML. ``runs`` by the names that they go by; ``now``, seconds since 1970, tells who still goes."""
    heading = f"Run {next(iter(runs))}" if len(runs) == 1 else f"{' and '.join(runs)} side by side"
    course, embeddings = groups(list(runs.values()))
    parts: list[tuple[str, str, str]] = [("what", "What was run", _what(runs, now))]
    if len(runs) > 1:
        parts.append(("differences", "Differences", _differences(runs)))
    if pictures := collection.shown(runs, checks):
        parts.append(("pictures", "The pictures it learnt from", pictures))
    parts.append(("health", "Health", _health(runs, embeddings)))
    parts += [
        (f"curves{number}", group.title, _legend(runs) + _charts(runs, group.names) + _ends(runs, group.names))
        for number, group in enumerate(course)
    ]
    parts.append(("said", "Skipped steps and what was said", "".join(_said(*each, len(runs)) for each in runs.items())))
    middle = [common.section(figure) for figure in figures]
    ends = [("scores", "Evaluations", _scores(results))] if results else []
    missing = list(dict.fromkeys([*_missing(runs), *remarks]))
    if missing:
        ends.append(("missing", "What is missing", _list(missing)))
    ends.append(("again", "To do it again, and to use it", "".join(_again(*each, len(runs)) for each in runs.items())))
    ends.append(("origin", "Licence and origin", _origin(runs, command)))
    links = [(name, text) for name, text, _ in parts] + [(figure.name, figure.title) for figure in figures]
    links += [(name, text) for name, text, _ in ends]
    contents = "".join(f'<a href="#{escaped(name)}">{escaped(text)}</a>' for name, text in links)
    verdicts = (health.shown(health.words(run)[:1], name if len(runs) > 1 else "") for name, run in runs.items())
    states = (f"{name + ': ' if len(runs) > 1 else ''}{ending(run, now).text}" for name, run in runs.items())
    body = [
        f"<h1>{escaped(heading)}</h1>",
        *(f'<p class="pale">{escaped(state)}.</p>' for state in states),
        *verdicts,
        f'<nav aria-label="Contents">{contents}</nav>',
        *(_section(*part) for part in parts),
        *middle,
        *(_section(*part) for part in ends),
    ]
    return document(heading, "\n".join(body), style=STYLE, script=SCRIPT)


def _section(name: str, heading: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escaped(heading)}</h2>\n{content}</section>'


def _list(texts: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escaped(text)}</li>" for text in texts) + "</ul>"


def _what(runs: dict[str, Run], now: float) -> str:
    several = len(runs) > 1
    return table(["", *runs] if several else ["", ""], rows(runs, now), "several" if several else "facts") + "".join(
        f"<details><summary>The whole configuration{f' of {escaped(name)}' if several else ''}</summary>"
        f"<pre>{escaped(_configuration(run))}</pre></details>"
        for name, run in runs.items()
    )


def _configuration(run: Run) -> str:
    nested: dict = {}
    for key, value in run.values.items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = list(value) if isinstance(value, tuple) else value
    return yaml.dump(nested, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=100)


class _Plain(yaml.SafeDumper):
    """Tuples as lists."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Plain.add_representer(tuple, _Plain.represent_list)


def _differences(runs: dict[str, Run]) -> str:
    found = differences(runs)
    if not found:
        return "<p>The configurations are the same but for name and folder.</p>"
    return (
        "<p>Keys of the configuration that are not the same; all others are.</p>"
        f"{table(['key', *runs], found, 'several')}"
    )


def _legend(runs: dict[str, Run]) -> str:
    return chart.legend(list(runs)) if len(runs) > 1 else ""


def _charts(runs: dict[str, Run], names: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(drawn(runs, name) for name in names)}</div>'


def _ends(runs: dict[str, Run], names: Sequence[str]) -> str:
    """First and last values, for who can't see curves."""
    lines = []
    for name in names:
        for label, run in runs.items():
            if known := curve(run, label, name).known:
                lines.append([title(name), label, *map(chart.said, (known[0], min(known), max(known), known[-1]))])
    head = ["", "run", "first", "lowest", "highest", "last"]
    return f"<details><summary>In numbers</summary>{table(head, lines)}</details>"


def _health(runs: dict[str, Run], embeddings: Sequence[Group]) -> str:
    parts = [health.shown(health.words(run), name if len(runs) > 1 else "") for name, run in runs.items()]
    measured = health.measures(runs)
    if measured:
        parts.append(
            "<p>The verdict rests on medians of the last quarter of the measures. Ranges are wide: they are left by "
            "what is ill, not by what could be better. What each measure tells: docs/health.md.</p>"
        )
        parts.append(measured)
    for group in embeddings:
        parts.append(f"<h3>{escaped(group.title)}</h3>")
        parts += [_legend(runs), _charts(runs, group.names)] if group.names else []
        if group.more:
            parts.append(
                f"<details><summary>More of them</summary>{_legend(runs)}{_charts(runs, group.more)}</details>"
            )
    return "\n".join(parts)


def _said(name: str, run: Run, count: int) -> str:
    head = f"<h3>{escaped(name)}</h3>" if count > 1 else ""
    steps = "1 step was" if run.skipped == 1 else f"{run.skipped} steps were"
    told = f"<p>{steps} skipped, not being finite.</p>" if run.skipped else "<p>No step was skipped.</p>"
    lines = run.said
    if len(lines) <= 2 * SHOWN + 1:
        return f"{head}{told}{_lines(lines)}"
    between = lines[SHOWN:-SHOWN]
    folded = f"<details><summary>{len(between)} more lines</summary>{_lines(between)}</details>"
    return f"{head}{told}{_lines(lines[:SHOWN])}{folded}{_lines(lines[-SHOWN:])}"


def _lines(lines: Sequence[Said]) -> str:
    items = "".join(
        f"<li><time>{escaped(line.time.replace('T', ' ')[:19])}</time>{escaped(line.text)}</li>" for line in lines
    )
    return f'<ul class="said">{items}</ul>' if items else ""


def _scores(results: Sequence[Result]) -> str:
    parts = []
    for about, intervals, head, lines in tables(results):
        inner = table(head, lines, "scores") + (f'<p class="pale">{escaped(intervals)}</p>' if intervals else "")
        if about.startswith("IoU of each class"):
            parts.append(f"<details><summary>{escaped(about)}</summary>{inner}</details>")
        else:
            parts.append(f"<h3>{escaped(about)}</h3>{inner}{sheets(results, about)}")
    note = "Per cent, ± standard deviation over seeds."
    return f'<p class="pale">{note}</p>' + "\n".join(parts)


def _missing(runs: dict[str, Run]) -> list[str]:
    return [f"{name + ': ' if len(runs) > 1 else ''}{each}" for name, run in runs.items() for each in run.remarks]


def _again(name: str, run: Run, count: int) -> str:
    of = f"{name}: " if count > 1 else ""
    return "".join(f"<h3>{escaped(of + each.title)}</h3><pre>{escaped(each.text)}</pre>" for each in instructions(run))


def _origin(runs: dict[str, Run], command: str) -> str:
    parts = [
        "<p>densessl is under the Apache License 2.0. It claims nothing about what is made with it: whether a backbone "
        "may be passed on depends on the pictures, and on the weights that it started from.</p>"
    ]
    for name, run in runs.items():
        start = run.begun.start if run.begun else "unknown weights"
        parts.append(
            f"<p>{escaped(name)}: from {escaped(start)}, on the pictures of "
            f"{escaped(run.values.get('data.path', ''))}.</p>"
        )
        if run.facts:
            facts = [[key, str(value)] for key, value in run.facts.items()]
            parts.append(
                f"<details><summary>What the backbone file of {escaped(name)} says of itself</summary>"
                f"{table(['key', 'value'], facts, 'facts')}</details>"
            )
    made = ", ".join(f"{key} {value}" for key, value in versions().items() if key != "densessl")
    parts.append(
        f'<p class="pale">This page was made by densessl {escaped(__version__)} with {escaped(made)}; the versions '
        f"that a run was made with are in its backbone file.</p><pre>{escaped(command)}</pre>"
    )
    return "\n".join(parts)
