"""How the cost of a process grows with their number: criterion, and what a step sends."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from densessl import criteria
from densessl.backbones import Backbone
from densessl.benchmark.clock import seconds
from densessl.benchmark.criterion import evaluate, ours
from densessl.benchmark.made import Embeddings, Sizes, embeddings
from densessl.benchmark.processes import spawned
from densessl.benchmark.report import table
from densessl.config import Config
from densessl.device import find_device, free_memory
from densessl.matching import Matches, crop_pairs, matches
from densessl.methods import find_method
from densessl.terms import invariance_of_pairs
from densessl.training import distributed

PROCESSES = (1, 2, 8, 64, 512)
STARTED = 2  # of these, really


def measure(cfg: Config, sizes: Sizes, device: str, *, repeats: int) -> dict[str, Any]:
    """``sizes.batch`` pictures a process, one thread of the CPU each; ``cfg`` tells how many weights are averaged."""
    (shares,) = spawned(of_shares, sizes, device, repeats, threads=1)
    bytes_of = {key: x.nbytes for key, x in sent(embeddings(sizes, torch.device("cpu")), sizes).items()}
    weights = parameters(cfg)
    rows, notes = {}, []
    gpus = torch.cuda.device_count() if find_device(device).type == "cuda" else STARTED
    for n in PROCESSES:
        rows[str(n)] = row = {"pictures": n * sizes.batch, "share_seconds": shares[n]}
        if shares[n] is None:
            notes.append(f"{n} processes: everyone's rows don't fit into the memory that is free")
        if n <= min(STARTED, gpus):
            found = spawned(of_real, replace(sizes, batch=n * sizes.batch), device, repeats, processes=n, threads=1)
            row |= {key: max(each[key] for each in found) for key in found[0]}
        # A gather receives what all others have, and so many gradients come back; a mean by a ring its parts twice.
        row["received_bytes"] = {key: (n - 1) * size for key, size in bytes_of.items()}
        row["received_bytes"]["gradients of cells"] = row["received_bytes"]["cells"]
        row["received_bytes"]["gradients"] = round(2 * (n - 1) / n * 4 * weights)
    return {"processes": rows, "parameters": weights, "notes": notes}


def parameters(cfg: Config) -> int:
    with torch.device("meta"):
        backbone = Backbone(cfg.backbone.name, in_chans=cfg.backbone.in_chans, stem=cfg.backbone.stem)
        method = find_method(cfg.method.name)(backbone, **cfg.method.arguments)
    return sum(p.numel() for p in method.parameters() if p.requires_grad)


def matched(inputs: Embeddings, sizes: Sizes) -> list[Matches]:
    """By location and by feature, as VICRegL does."""
    large, small = sizes.num_matches
    pairs = crop_pairs(inputs.pivots, len(inputs.z), large, small, back=large)
    return [matches(places, pairs) for places in (inputs.centers, inputs.cells)]


def gathered(inputs: Embeddings, found: list[Matches]) -> dict[str, tuple[Tensor, Tensor]]:
    """The rows that all processes need, and which of them each picture has at each place; in a view it has one."""
    n, device = len(inputs.z[0]), inputs.z[0].device
    places = torch.arange(n, device=device)[:, None] + n * torch.arange(len(inputs.z), device=device)
    return {
        "embeddings": (torch.cat(inputs.z), places),
        "cells": (torch.cat([cells.flatten(0, 1) for cells in inputs.cells]), torch.cat([m.places for m in found], 1)),
    }


def sent(inputs: Embeddings, sizes: Sizes) -> dict[str, Tensor]:
    """What a process tells all others: its rows, and which of its cells belong to each place."""
    parts = gathered(inputs, matched(inputs, sizes))
    return {key: rows.detach() for key, (rows, _) in parts.items()} | {"indices": parts["cells"][1]}


class Share:
    """Forward and backward of one process's criterion among so many, whose rows are made up; nothing is sent."""

    def __init__(self, inputs: Embeddings, sizes: Sizes, processes: int) -> None:
        self.inputs, self.sizes, self.processes = inputs, sizes, processes
        self.everyone = {}
        for key, (rows, places) in gathered(inputs, matched(inputs, sizes)).items():
            everyone = 0.5 * torch.randn(processes * len(rows), rows.shape[1], device=rows.device)
            everyone[: len(rows)] = rows.detach()
            self.everyone[key] = everyone, torch.cat([places + i * len(rows) for i in range(processes)])

    def __call__(self) -> None:
        inputs, found = self.inputs, matched(self.inputs, self.sizes)
        terms = [invariance_of_pairs(inputs.z, inputs.z, inputs.pivots)]
        parts = gathered(inputs, found)
        statistics = criteria.variance_and_covariance(*parts["embeddings"], *self.everyone["embeddings"])
        terms += [each.mean() for each in statistics]
        # As densessl.divided has it: everyone's rows, at this process's share of the places.
        rows, places = self.everyone["cells"]
        mine = places[:, : -(-places.shape[1] // self.processes)]
        statistics = criteria.variance_and_covariance(rows.requires_grad_(), mine)
        torch.autograd.grad(torch.stack([each.sum() for each in statistics]).sum(), rows)
        terms += [criteria.place_invariance(parts["cells"][0], m.a, m.b).mean() for m in found]
        torch.autograd.grad(torch.stack(terms).sum(), inputs.leaves)

    @staticmethod
    def memory(inputs: Embeddings, sizes: Sizes, processes: int) -> float:
        """GiB, about: everyone's rows and places, and the Gram matrices that the backward needs: as large for own
        pictures at all places as for everyone's at a share of them.
        """
        total = 0
        for rows, places in gathered(inputs, matched(inputs, sizes)).values():
            total += processes * (3 * rows.nbytes + places.nbytes + places.numel() * len(places) * 4)
        return total / 2**30


def of_shares(sizes: Sizes, device: str, repeats: int) -> dict[int, float | None]:
    """Median seconds of the share, None where it does not fit; for a process of its own."""
    place = find_device(device)
    inputs = embeddings(sizes, place)
    found: dict[int, float | None] = dict.fromkeys(PROCESSES)
    for n in PROCESSES:
        if Share.memory(inputs, sizes, n) < 0.9 * free_memory(place):
            share = Share(inputs, sizes, n)
            share()
            found[n] = median(seconds(share, place) for _ in range(repeats))
            del share
    return found


def of_real(sizes: Sizes, device: str, repeats: int) -> dict[str, float]:
    """Median seconds of the whole criterion and of its gathers; for one of several processes."""
    with distributed.connected(device) as name:
        place = find_device(name)
        inputs, criterion = embeddings(sizes, place), ours(sizes)
        message = sent(inputs, sizes)
        calls = {
            "criterion_seconds": lambda: evaluate(criterion, inputs),
            "gather_seconds": lambda: [distributed.gather(x) for x in message.values()],
        }
        times: dict[str, list[float]] = {key: [] for key in calls}
        for _ in range(1 + repeats):
            for key, call in calls.items():
                distributed.barrier()
                times[key].append(seconds(call, place))
        return {key: median(values[1:]) for key, values in times.items()}


def tables(figures: dict[str, Any]) -> str:
    moved = ["cells", "gradients of cells", "embeddings", "indices", "gradients"]
    header = ["processes of one thread", "pictures", "criterion of one, s", "measured in all, s", "gathering alone, s"]
    rows = [
        [
            n,
            row["pictures"],
            row["share_seconds"],
            row.get("criterion_seconds"),
            row.get("gather_seconds"),
            *(row["received_bytes"][key] / 1e6 for key in moved),
        ]
        for n, row in figures["processes"].items()
    ]
    text = table([*header, *(f"{key}, MB" for key in moved)], rows)
    return (
        f"{text}\ncriterion of one: its own embeddings against everyone's and its share of the places, others' rows "
        f"made up; gathering alone: most of it runs beside the matching; MB: what a process receives, the gradients "
        f"being those of {figures['parameters'] / 1e6:.1f} M weights\n"
    )
