"""VICRegL's criterion, forward and backward: ours, the naive form, lightly's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from statistics import median
from typing import Any

import torch
from torch import Tensor

from densessl.backbones import Backbone
from densessl.benchmark import naive
from densessl.benchmark.clock import in_turns, seconds
from densessl.benchmark.made import Embeddings, Sizes, embeddings
from densessl.benchmark.peak import Peak
from densessl.benchmark.processes import spawned
from densessl.benchmark.report import table
from densessl.device import find_device, keep_freed_memory
from densessl.methods.vicregl import VICRegL
from densessl.training import distributed

Criterion = Callable[[list[Tensor], list[Tensor], list[Tensor], int], dict[str, Tensor]]
Found = tuple[dict[str, Tensor], tuple[Tensor, ...]]  # terms, gradients
SMALL = Sizes(batch=4, large_map=3, small_map=2, width=16, embedding=32, num_matches=(2, 1))  # to warm up


def ours(sizes: Sizes) -> Criterion:
    """Without the networks, which small ones stand for."""
    return VICRegL(Backbone("test_convnext"), expander=(1,), projector=(1,), num_matches=sizes.num_matches).criterion


def naively(sizes: Sizes) -> Criterion:
    return lambda *inputs: naive.criterion(*inputs, num_matches=sizes.num_matches)


def lightlys(sizes: Sizes) -> Criterion:
    """It keeps other matches, as the authors' code does, so that its value is another. May raise ImportError."""
    from lightly.loss import VICRegLLoss

    loss = VICRegLLoss(num_matches=sizes.num_matches)

    def criterion(z: list[Tensor], cells: list[Tensor], centers: list[Tensor], pivots: int) -> dict[str, Tensor]:
        square = [round(each.shape[1] ** 0.5) for each in cells]
        maps, grids = ([x.unflatten(1, (s, s)) for x, s in zip(xs, square, strict=True)] for xs in (cells, centers))
        features = list(zip(z, maps, strict=True))
        return {"loss": loss(features[:pivots], grids[:pivots], features[pivots:], grids[pivots:])}

    return criterion


# How many processes there are, and whether they share a batch. Two with a whole one each tell what a core of the CPU
# loses to a busy neighbour, which is not the criterion's doing.
BESIDE = "1 beside another"
TOGETHER = {"1": (1, True), BESIDE: (2, False), "2": (2, True)}
ROUNDS = 3  # in turns, so that what else the machine does disturbs all alike

CRITERIA = {"ours": ours, "naive": naively, "lightly": lightlys}


def compare(sizes: Sizes, device: str, *, repeats: int, naive_repeats: int) -> dict[str, Any]:
    """Seconds of each in turns, peak memory of each in a process of its own, and how far values and gradients of ours
    are from the naive ones; then ours in one process and in two, each with one thread of the CPU.
    """
    place, notes = find_device(device), []
    if place.type == "cpu":
        keep_freed_memory()  # as training does
    built: dict[str, Criterion] = {}
    for name, build in CRITERIA.items():
        try:
            built[name] = build(sizes)
            evaluate(build(SMALL), embeddings(SMALL, place))
        except ImportError:
            notes.append("lightly is not installed (pip install 'densessl[peers]'), so it was not measured")
    inputs = embeddings(sizes, place)
    last = {"ours": evaluate(built["ours"], inputs)}

    def call(name: str) -> Callable[[], None]:
        return lambda: last.update({name: evaluate(built[name], inputs)})

    turns = {name: repeats if name == "ours" else naive_repeats for name in built}
    times = in_turns({name: call(name) for name in built}, turns, place)
    (terms, gradients), (naive_terms, naive_gradients) = last["ours"], last["naive"]
    figures: dict[str, Any] = {
        "seconds": {name: median(values) for name, values in times.items()},
        "all_seconds": times,
        "peak_gib": {name: spawned(peak, name, sizes, device)[0] for name in built},
        "value_difference": max(abs(terms[key] / naive_terms[key] - 1).item() for key in terms),
        "gradient_difference": max(map(distance, gradients, naive_gradients)),
    }
    if figures["gradient_difference"] > 1e-4:
        notes.append("two places may be equally near up to rounding, and either be the match: try another --seed")
    if place.type == "cuda" and torch.cuda.device_count() < 2:
        notes.append("there is one GPU, so two processes were not measured")
    else:
        figures["of_a_process"] = of_a_process(sizes, device, repeats, beside=place.type == "cpu")
    return figures | {"notes": notes}


def evaluate(criterion: Criterion, inputs: Embeddings) -> Found:
    """Forward and backward."""
    terms = criterion(*inputs)
    return terms, torch.autograd.grad(torch.stack(list(terms.values())).sum(), inputs.leaves)


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest number of ``b``."""
    return ((a - b).abs().max() / b.abs().max()).item()


def peak(name: str, sizes: Sizes, device: str) -> float:
    """GiB above what there was before the call; for a process of its own."""
    place = find_device(device)
    evaluate(CRITERIA[name](SMALL), embeddings(SMALL, place))
    criterion, inputs = CRITERIA[name](sizes), embeddings(sizes, place)
    with Peak(place) as memory:
        evaluate(criterion, inputs)
    return memory.above


def of_a_process(sizes: Sizes, device: str, repeats: int, *, beside: bool) -> dict[str, dict[str, float]]:
    """Median seconds of a process, of the slower one where two share the batch, and the value for the whole batch."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in TOGETHER if beside or name != BESIDE}
    for _ in range(ROUNDS):
        for name in found:
            processes, together = TOGETHER[name]
            each = spawned(share, sizes, device, repeats, together, processes=processes, threads=1)
            times = zip(*(one["seconds"] for one in each), strict=True)
            found[name]["seconds"] += map(max, times) if together else chain(*times)
            found[name]["value"] = each[0]["value"]
    return {name: one | {"seconds": median(one["seconds"])} for name, one in found.items()}


def share(sizes: Sizes, device: str, repeats: int, together: bool) -> dict[str, Any]:
    """One of several processes, which have the batch ``together`` or each a whole one."""
    with distributed.connected(device) if together else nullcontext(device) as found:
        place = find_device(found)
        if place.type == "cpu":
            keep_freed_memory()
        criterion, inputs = ours(sizes), embeddings(sizes, place)
        terms, _ = evaluate(criterion, inputs)
        times = []
        for _ in range(repeats):
            distributed.barrier()
            times.append(seconds(lambda: evaluate(criterion, inputs), place))
        return {"seconds": times, "value": sum(distributed.mean_over_processes(terms).values())}


def tables(figures: dict[str, Any]) -> str:
    of_naive = figures["seconds"]["naive"]
    rows = [
        [
            name,
            took,
            of_naive / took,
            figures["peak_gib"][name],
            figures["peak_gib"][name] / figures["peak_gib"]["naive"],
        ]
        for name, took in figures["seconds"].items()
    ]
    text = table(["criterion, forward and backward", "s", "times as fast", "peak GiB", "of naive"], rows)
    text += (
        f"\nours against naive, largest relative difference: {figures['value_difference']:.1e} of values, "
        f"{figures['gradient_difference']:.1e} of gradients\n"
    )
    if "of_a_process" in figures:
        found = figures["of_a_process"]
        alone, beside = (found[name]["seconds"] for name in ("1", BESIDE if BESIDE in found else "1"))
        rows = [
            [n, each["seconds"], each["seconds"] / alone, each["seconds"] / beside, each["value"]]
            for n, each in found.items()
        ]
        text += "\n" + table(["processes of one thread", "s of a process", "of 1", f"of {BESIDE}", "value"], rows)
    return text
