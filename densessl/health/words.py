"""The sentence for each measure that has left its healthy range, and what helps."""

from __future__ import annotations

from collections.abc import Mapping

from densessl.health.ranges import FAMILY, Range, ills

NOUNS = {"global": "global embeddings", "local": "local embeddings", "backbone": "the backbone's pooled vectors"}
CALMER = "a lower optim.base_lr, a longer optim.warmup or optim.clip=1"
HELP = {
    "variance": "a lower optim.base_lr, a larger method.mu or a smaller method.lambd",
    "decorrelation": "a lower optim.base_lr or a larger batch",
    "distillation": "a lower optim.base_lr, batch statistics in the heads (method.norm=batch) or a larger batch",
    "contrast": "a lower optim.base_lr, a larger batch, or a larger method.tau",
    "prototypes": "a lower optim.base_lr, a longer optim.warmup or fewer prototypes (method.prototypes)",
}
COLLAPSING = ": the run is collapsing; what helps: {help}"
PLACES = ": places are not told apart; what helps: {calmer}, or large crops that overlap more (views.large.scale)"
LOW = {
    "unit_std": "{noun} are all nearly alike (standard deviation of unit vectors {value:.2g}, where 1 is "
    "spread out)" + COLLAPSING,
    "rank": "{noun} lie nearly in {value:.1f} of {dims:.0f} dimensions, measured on {rows:.0f} rows" + COLLAPSING,
    "std": "{noun} have a standard deviation of {value:.2g}, where the variance term asks for 1" + COLLAPSING,
    "norm": "{noun} shrink to nothing (mean length {norm:.2g}); what helps: {calmer}, or less optim.weight_decay",
    "uniformity": "{noun} crowd in one corner of the sphere (uniformity {uniformity:.2f}, healthy below -0.1); what "
    "helps: {help}",
    "agreement": "of the places that two views share, {value:.1%} are most like themselves in {noun}, and {chance:.1%} "
    "would be by chance" + PLACES,
    "used": "{value:.1f} of {count:.0f} prototypes are in use by {rows:.0f} pictures" + COLLAPSING,
}
HIGH = {
    "std": "{noun} have a standard deviation of {value:.2g}, far above 1: the run is unstable; what helps: {calmer}",
    "dead": "{value:.0%} of the dimensions of {noun} are the same for all pictures; what helps: {calmer}",
    "correlation": "the dimensions of {noun} repeat each other (correlation {value:.2f}, healthy below 0.8); what "
    "helps: {calmer}, or a larger method.nu",
    "norm": "{noun} grow without bound (mean length {norm:.2g}); what helps: {calmer}",
    "alignment": "{noun} of two views of a picture lie as far apart as those of two pictures: nothing is learnt of "
    "what views share; what helps: {calmer}, or milder photometric",
    "distance": "in {noun} the most similar place of another view lies {value:.1f} cells away, as far as any" + PLACES,
    "of_one": "each picture belongs to all {count:.0f} prototypes alike" + COLLAPSING,
}


def sentences(values: Mapping[str, float], method: str) -> list[str]:
    """What is ill in the ``values`` of one step, as metrics.jsonl has them; none if nothing is."""
    return [sentence(name, range_, values, method) for name, range_ in ills(values, method).values()]


def sentence(name: str, range_: Range, values: Mapping[str, float], method: str) -> str:
    """What it means that KIND_MEASURE ``name`` has left its ``range_``, and what helps."""
    kind, measure = name.split("_", 1)
    of_kind = {key.removeprefix(f"health/{kind}_"): value for key, value in values.items()}
    help_ = HELP.get(FAMILY.get(method, ""), CALMER)
    text = (LOW if range_.value < range_.low else HIGH)[measure]
    return text.format(**of_kind | {"noun": NOUNS.get(kind), "value": range_.value}, help=help_, calmer=CALMER)


def short(values: Mapping[str, float]) -> str:
    """One measure for a line of the console: the rank of the embeddings, of what it could be."""
    for kind in NOUNS:
        if (rank := values.get(f"health/{kind}_rank")) is not None:
            most = min(values[f"health/{kind}_rows"], values[f"health/{kind}_dims"])
            return f"  rank {rank:.0f}/{most:.0f}"
    return ""
