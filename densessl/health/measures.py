"""What embeddings look like from outside, as numbers: rows (N, D) in, scalars out. They need torch alone.

Everything is computed in float64, since what is left of a collapse is small beside what all rows share.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DEAD = 0.01  # of the rows' root mean square: dimensions that vary less are dead


def of_rows(rows: Tensor) -> dict[str, Tensor]:
    """Every measure that needs one view alone, of rows (N, D) with N at least 2."""
    rows = rows.double()
    gram = rows @ rows.mT
    return {
        "norm": norm(rows),
        "std": std(rows),
        "unit_std": unit_std(rows),
        "dead": dead(rows),
        "correlation": correlation(rows),
        "uniformity": uniformity(gram),
        "rank": effective_rank(gram if rows.shape[0] <= rows.shape[1] else rows.mT @ rows),
    }


def norm(rows: Tensor) -> Tensor:
    """Mean Euclidean length: the magnitude."""
    return rows.norm(dim=1).mean()


def std(rows: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation (unbiased). VICReg wants 1, https://arxiv.org/abs/2105.04906."""
    return rows.std(0).mean()


def unit_std(rows: Tensor) -> Tensor:
    """The same of rows made unit length, times sqrt(D): near 1 where they lie all around, 0 where all are alike.

    SimSiam fig. 2, https://arxiv.org/abs/2011.10566.
    """
    return std(F.normalize(rows)) * rows.shape[1] ** 0.5


def dead(rows: Tensor) -> Tensor:
    """Share of dimensions that hardly vary, see DEAD; 1 where all rows are one."""
    return (rows.std(0) <= DEAD * rows.square().mean().sqrt()).double().mean()


def correlation(rows: Tensor) -> Tensor:
    """Root mean square of the correlations of two different dimensions; one that does not vary has none.

    Dimensions without any relation reach 1 / sqrt(N - 1) by chance.
    """
    n, dim = rows.shape
    z = F.normalize(rows - rows.mean(0), dim=0)
    squares = (z @ z.mT if n <= dim else z.mT @ z).square().sum()  # either product has the matrix's norm
    return ((squares - z.square().sum(0).square().sum()).clamp(min=0) / (dim * max(1, dim - 1))).sqrt()


def effective_rank(gram: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares: RankMe, https://arxiv.org/abs/2210.02885.

    ``gram`` is rows times their transpose or the other way round: its eigenvalues are the squares. Between 1 and the
    smaller of N and D. NaN where all rows are zero.
    """
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum()
    return torch.special.entr(shares).sum().exp()


def uniformity(gram: Tensor) -> Tensor:
    """ln of the mean of exp(-2 d^2) over pairs of different unit rows: 0 where all are alike, about -4 at best.

    ``gram`` (N, N) is rows times their transpose. Wang and Isola 2020, https://arxiv.org/abs/2005.10242.
    """
    lengths = gram.diagonal().clamp(min=1e-24).sqrt()
    near = torch.exp(-4 + 4 * (gram / lengths[:, None] / lengths).clamp(-1, 1))
    n = len(gram)
    return ((near.sum() - near.diagonal().sum()) / (n * (n - 1))).log()


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (N,) of unit rows that belong together, 0 to 4. Wang and Isola 2020, as above."""
    return (F.normalize(a.double(), dim=-1) - F.normalize(b.double(), dim=-1)).square().sum(-1)


def strangers(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of any unit row of one view to any of the other: what alignment is for two pictures."""
    return 2 - 2 * F.normalize(a.double()).mean(0) @ F.normalize(b.double()).mean(0)


def assignments(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of scores (N, K): the mean softmax (K,) and the mean entropy of a row's, from which `usage` is made."""
    shares = scores.double().softmax(1)
    return shares.mean(0), torch.special.entr(shares).sum(1).mean()


def usage(mean: Tensor, entropy: Tensor) -> dict[str, Tensor]:
    """How many prototypes all rows use together, and how many one row, as exp of entropies: 1 to K."""
    return {"used": torch.special.entr(mean).sum().exp(), "of_one": entropy.exp()}
