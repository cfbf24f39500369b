"""What a whole run's curves say in words: healthy, collapsing, or a learning rate that is too high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from densessl.health.ranges import FAMILY, ills
from densessl.health.words import CALMER, sentence

PARTS = 8  # of the run, whose medians are compared
# Elsewhere a loss may rise for good: queues fill, targets sharpen, pictures are told apart.
FALLING = ("vicreg", "vicregl", "barlow_twins", "wmse", "simclr", "moco_v3")
COLLAPSES = ("unit_std", "rank", "std", "used", "of_one", "uniformity")


def verdict(records: Sequence[Mapping[str, float | None]], method: str) -> list[str]:
    """Sentences about a run from the lines of its metrics.jsonl; the first is the verdict, the others what it rests on.

    The first begins with "healthy", "collapsing", "the learning rate is too high", "ill" or "nothing is known".
    """
    measured = [record for record in records if any(name.startswith("health/") for name in record)]
    if not measured:
        return ["nothing is known of the embeddings: none were measured (health_every)"]
    late = measured[-max(1, len(measured) // 4) :]
    values = {name: median(known) for name in measured[-1] if (known := _known(late, name))}
    found = ills(values, method)
    said = [sentence(name, range_, values, method) for name, range_ in found.values()]
    collapse = any(name.split("_", 1)[1] in COLLAPSES for name, _ in found.values())

    losses = _known(records, "loss")
    skipped = sum("loss" in record and record["loss"] is None for record in records)  # not lines of probes alone
    wild = _wild(skipped, losses, measured, method)
    if wild:
        return [f"the learning rate is too high, most likely; what helps: {CALMER}", *wild, *said]
    if collapse:
        down = bool(losses) and losses[-1] < losses[0]
        fell = f", while the loss fell from {losses[0]:.3g} to {losses[-1]:.3g}" if down else ""
        return [f"collapsing: embeddings lose what tells pictures apart{fell}", *said]
    if said:
        return ["ill: a measure is outside its healthy range", *said]
    return [f"healthy: every measure is within its range for {method} at the end"]


def _wild(skipped: int, losses: list[float], measured: Sequence[Mapping[str, float | None]], method: str) -> list[str]:
    """The signs of steps that are too long."""
    signs = []
    if skipped:
        signs.append(
            f"the loss was not finite in {skipped} of {skipped + len(losses)} logged steps, which were skipped"
        )
    if len(losses) < PARTS:
        return signs
    parts = [median(losses[i * len(losses) // PARTS : (i + 1) * len(losses) // PARTS]) for i in range(PARTS)]
    start, best, end = max(parts[0], parts[1]), min(parts), parts[-1]
    fall = (start - end) / max(abs(start), 1e-12)
    if method in FALLING and end - best > max(0.3 * (start - best), 0.05 * abs(start)):
        signs.append(f"the loss rose again, from {best:.3g} to {end:.3g}")
    for kind in ("global", "local"):  # the backbone's rank halves in healthy runs as well
        ranks = _known(measured, f"health/{kind}_rank")
        if len(ranks) > 3 and FAMILY.get(method) in ("variance", "decorrelation", "contrast"):
            first, last = ranks[0], median(ranks[-max(1, len(ranks) // 4) :])
            if last < 0.5 * first and fall < 0.1:
                signs.append(
                    f"the rank of {kind} embeddings fell from {first:.0f} to {last:.1f}, while the loss hardly did "
                    f"({start:.3g} to {end:.3g})"
                )
                break
    return signs


def _known(records: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    return [value for record in records if (value := record.get(name)) is not None]
