"""Statistics of many places at once, whose rows an index finds, piece by piece; the gradients are by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-4  # inside the square root of the standard deviation, VICReg eq. 1


def _chunks(dim: int, *indices: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of ``indices`` (L, ...) whose rows of ``dim`` numbers fit into a processor's cache, or a GPU with ease."""
    bytes_of_one = 4 * dim * indices[0].shape[1]
    cache = 2**20 if indices[0].device.type == "cpu" else 2**28
    return zip(*(each.split(max(1, cache // bytes_of_one)) for each in indices), strict=True)


def rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (R, D) by an index of any shape: (..., D)."""
    return rows.index_select(0, index.reshape(-1)).view(*index.shape, rows.shape[1])


class PlaceInvariance(torch.autograd.Function):
    """Piece by piece: what belongs to a piece is read once, and never lies in memory for all places at a time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(rows, a, b)
        pieces = _chunks(rows.shape[1], a, b)
        return torch.cat([(rows_at(rows, i) - rows_at(rows, j)).square_().mean((1, 2)) for i, j in pieces])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, a, b = ctx.saved_tensors
        total = torch.zeros_like(rows)
        scale = 2 / (a.shape[1] * rows.shape[1]) * gradient[:, None, None]
        for i, j, k in _chunks(rows.shape[1], a, b, scale):
            difference = (rows_at(rows, i) - rows_at(rows, j)).mul_(k).flatten(0, 1)
            total.index_add_(0, i.reshape(-1), difference)
            total.index_add_(0, j.reshape(-1), difference, alpha=-1)
        return total, None, None


class Spread(torch.autograd.Function):
    """Value and gradient by hand, piece by piece: autograd would keep several copies of all places' rows.

    With z the rows of a place around their mean, S = z z^T and v their sums of squares, the covariance term's gradient
    is 4 (S z - v z) / ((N - 1)^2 D) and the variance term's -z / (D (N - 1) std). Own rows carry the gradient of
    everyone's value, N / n times, since the engine takes the mean over processes.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, own: Tensor, everyone: Tensor, places: Tensor, first: int, gamma: float
    ) -> tuple[Tensor, Tensor]:
        (count, n), total, dim = own.shape, places.shape[1], rows.shape[1]
        mean, squares = rows.new_empty(count, dim), rows.new_empty(count, dim)
        gram = rows.new_empty(count, n, total) if n < dim else rows.new_empty(count, 0, 0)
        covariance = rows.new_empty(count)
        ones = rows.new_ones(1, 1, total)  # sums by products: two to three times as fast as sum on a CPU
        for index, m, v, s, c in _chunks(dim, places, mean, squares, gram, covariance):
            z = rows_at(everyone, index)
            m.copy_((ones @ z)[:, 0]).div_(total)
            z -= m[:, None]
            mine = z[:, first : first + n]
            if n < dim:
                norm = torch.bmm(mine, z.mT, out=s).square().sum((1, 2))
            elif n < total:
                norm = ((mine @ (z.mT @ z)) * mine).sum((1, 2))
            else:
                norm = (z.mT @ z).square().sum((1, 2))
            z.square_()
            v.copy_((ones @ z)[:, 0])
            diagonal = (v * (v if n == total else (ones[..., :n] @ mine)[:, 0])).sum(1)
            torch.sub(norm, diagonal, out=c)
        ctx.save_for_backward(rows, own, everyone, places, mean, squares, gram)
        ctx.first, ctx.gamma = first, gamma
        short = F.relu(gamma - (squares / (total - 1) + EPSILON).sqrt()).mean(1)
        return short, covariance * (total / n / ((total - 1) ** 2 * dim))

    @staticmethod
    def backward(ctx: Any, of_variance: Tensor, of_covariance: Tensor) -> tuple[Tensor | None, ...]:
        rows, own, everyone, places, mean, squares, gram = ctx.saved_tensors
        n, total, dim = own.shape[1], places.shape[1], rows.shape[1]
        std = (squares / (total - 1) + EPSILON).sqrt()
        by_gram = (4 * total / n / ((total - 1) ** 2 * dim) * of_covariance)[:, None]
        by_row = torch.where(std < ctx.gamma, -total / n / (dim * (total - 1)) / std * of_variance[:, None], 0)
        by_row -= by_gram * squares
        gradient = torch.zeros_like(rows)
        for index, m, s, g, r, i in _chunks(dim, places, mean, gram, by_gram, by_row, own):
            z = rows_at(everyone, index)
            mine = z[:, ctx.first : ctx.first + n] - m[:, None]
            if n < dim:
                along = (g[:, None] * s) @ z  # not around the mean: the lines of the Gram matrix sum to zero
            else:
                z -= m[:, None]
                along = g[:, None] * (mine @ (z.mT @ z))
            gradient.index_add_(0, i.reshape(-1), along.addcmul_(mine, r[:, None]).flatten(0, 1))
        return gradient, None, None, None, None, None
