"""Classification by the nearest training pictures. Both ways give votes, a bounded part of the distances at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

AT_ONCE = 2**26  # distances: 256 MB


def weighted_knn(train: Tensor, labels: Tensor, test: Tensor, k: int, temperature: float = 0.07) -> Tensor:
    """(M, classes) votes: the k most similar by cosine, each with weight exp(cosine / temperature).

    ``train`` (N, C) with ``labels`` (N,) int64, ``test`` (M, C). As in DINO (https://arxiv.org/abs/2104.14294) and, for
    k = 200, NPID (https://arxiv.org/abs/1805.01978). Where there are fewer than k pictures, all of them vote.
    """
    train, test = normalize(train), normalize(test)
    return _votes(labels, test, k, lambda rows: rows @ train.T, lambda cosine: (cosine / temperature).exp())


def nearest_knn(train: Tensor, labels: Tensor, test: Tensor, k: int = 5) -> Tensor:
    """(M, classes) counts of the k nearest by Euclidean distance, as in W-MSE (https://arxiv.org/abs/2007.06346).

    Arguments as above.
    """
    centre = train.mean(0)  # distances stay, and lose fewer digits: they are differences of squared lengths
    train, test = train - centre, test - centre
    return _votes(labels, test, k, lambda rows: -torch.cdist(rows, train), torch.ones_like)


def top(votes: Tensor, labels: Tensor, n: int = 1) -> float:
    """Share of rows whose label is among the n classes of most votes; of equal ones the lower class comes first."""
    first = votes.argsort(dim=1, descending=True, stable=True)[:, :n]
    return float((first == labels[:, None]).any(1).double().mean())


def _votes(
    labels: Tensor, test: Tensor, k: int, similarity: Callable[[Tensor], Tensor], weight: Callable[[Tensor], Tensor]
) -> Tensor:
    parts = []
    for rows in test.split(max(1, AT_ONCE // len(labels))):
        similar, who = similarity(rows).topk(min(k, len(labels)))
        none = test.new_zeros(len(rows), int(labels.max()) + 1)
        parts.append(none.scatter_add(1, labels[who], weight(similar)))
    return torch.cat(parts)
