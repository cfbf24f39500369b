"""The methods' losses, for a training loop of one's own: embeddings in, a scalar out; docs/own_loop.md has one.

Arguments are this process's rows; defaults are the papers' or their code's. Where torch.distributed is initialised,
statistics, negatives and codes are those of the rows of all processes, which are gathered: every process calls the
loss, with equally many rows. The mean over processes of the value is then the value of the whole batch, and the mean of
the gradients, which DistributedDataParallel takes, its gradient. Batch statistics inside heads are the heads' own
affair (torch.nn.SyncBatchNorm). All is computed in fp32 or fp64, under autocast too.

The equations stand in `criteria` and know nothing of processes; the methods are made of what stands here. DenseCL,
PixPro and DeepCluster-v2 live on what they remember or learn beside their loss: they are methods alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from densessl import criteria
from densessl.matching import cell_centers
from densessl.terms import VICRegLTerms, invariance_of_pairs, regularisers
from densessl.training.batch_norm import SyncBatchNorm
from densessl.training.distributed import gather, own, permutation, rank

# --- VICReg and VICRegL -----------------------------------------------------------------------------------------------


def vicreg(z1: Tensor, z2: Tensor, *small: Tensor, lambd: float = 25.0, mu: float = 25.0, nu: float = 1.0) -> Tensor:
    """VICReg: invariance, variance and covariance. https://arxiv.org/abs/2105.04906

    Args:
        z1, z2: (B, D), the expander's output for two views of the same B pictures, as it is.
        small: (B, D) each, those of small crops, which are compared with both.
        lambd, mu, nu: weights of the terms, as in the authors' code, which halves the paper's variance and divides
            invariance by D.

    Returns:
        Scalar >= 0.
    """
    z = _alike(z1, z2, *small)
    terms = {"invariance": lambd * invariance_of_pairs(z, z, pivots=2), **regularisers(z, mu, nu)}
    return torch.stack(list(terms.values())).sum()


def vicregl(
    vectors: Sequence[Tensor],
    maps: Sequence[Tensor],
    affines: Sequence[Tensor],
    *,
    large: int = 2,
    alpha: float = 0.75,
    num_matches: tuple[int, int] = (20, 4),
    lambd: float = 25.0,
    mu: float = 25.0,
    nu: float = 1.0,
) -> Tensor:
    """VICRegL: VICReg of whole crops (share ``alpha``) and of matched places. https://arxiv.org/abs/2210.01571

    The global form alone is ``alpha=1``, the local form alone ``alpha=0``; what has no share may be empty.

    Args:
        vectors: (B, D) of each crop, the ``large`` large ones first: the expander's output for the pooled map.
        maps: (B, E, H, W) of each crop in the same order: the projector's output at each place of the last map.
        affines: (B, 2, 3) of each crop: where it lies in its picture, as `View.affine` says. A crop of height h and
            width w whose corner is at (top, left) has [[h, 0, top], [0, w, left]]; mirrored, [[h, 0, top],
            [0, -w, left + w]].
        large: how many of the crops are large, each of which is compared with all others.
        alpha: share of the global terms.
        num_matches: how many matches from a large and from a small map count; a map with fewer places gives all.
        lambd, mu, nu: weights of the terms, in both forms.

    Returns:
        Scalar >= 0.
    """
    z = _alike(*vectors) if alpha > 0 else []
    if alpha < 1 and not len(maps) == len(affines) == (len(z) or len(maps)):
        counts = f"{len(vectors)} vectors, {len(maps)} maps and {len(affines)} affines"
        raise ValueError(f"{counts}: each crop needs one of each")
    cells = [each.flatten(2).mT for each in maps] if alpha < 1 else []
    centers = [cell_centers(affine, *each.shape[2:]) for affine, each in zip(affines, maps, strict=False)]
    weights = {"invariance": lambd, "variance": mu, "covariance": nu}
    terms = VICRegLTerms(alpha, num_matches, weights)(z, cells, centers, large)
    return torch.stack(list(terms.values())).sum()


# --- Barlow Twins, W-MSE ----------------------------------------------------------------------------------------------


def barlow_twins(z1: Tensor, z2: Tensor, lambd: float = 0.0051) -> Tensor:
    """Barlow Twins: the cross-correlation of two views becomes the identity. https://arxiv.org/abs/2103.03230

    Args:
        z1, z2: (B, D), the projector's output for two views of the same pictures; it is standardised over the batch
            here, so the projector ends without BatchNorm.
        lambd: weight of the entries off the diagonal, the authors' code's (the paper prints 0.005).

    Returns:
        Scalar >= 0; D where nothing is correlated.
    """
    a, b = map(_standardised, _alike(z1, z2))
    return barlow_twins_of_standardised(a, b, lambd)


def barlow_twins_of_standardised(a: Tensor, b: Tensor, lambd: float) -> Tensor:
    """The same of rows (B, D) that have mean 0 and variance 1 over everyone's batch already."""
    return criteria.barlow_twins(a, b, lambd, gather(a.detach()), gather(b.detach()))


def wmse(
    *views: Tensor,
    w_size: int = 256,
    w_iter: int = 1,
    eps: float = 0.0,
    distance: Literal["cosine", "euclidean"] = "cosine",
) -> Tensor:
    """W-MSE: views agree after whitening. https://arxiv.org/abs/2007.06346

    Args:
        views: (B, D) each, two or more views of the same pictures: the projector's output.
        w_size: how many pictures of everyone's are whitened together, in random groups: it divides their number, and is
            larger than D unless there is an ``eps``. The paper has 128 for D = 64 and 256 for D = 128.
        w_iter: how many times groups are drawn.
        eps: share of the identity that is mixed into the covariance.
        distance: that of unit vectors, or of the plain ones.

    Returns:
        Scalar in [0, 4] for the cosine, about 2 for views that have nothing in common.
    """
    z = gather(torch.stack(_alike(*views)).transpose(0, 1)).transpose(0, 1)  # (V, N, D)
    if z.shape[1] % w_size:
        raise ValueError(f"w_size={w_size} does not divide the {z.shape[1]} pictures of the batch")

    def of_one_draw() -> Tensor:
        groups = z[:, permutation(z.shape[1], z.device)].unflatten(1, (-1, w_size))
        white = criteria.whitened(groups, eps)  # (V, groups, w_size, D)
        if distance == "cosine":
            return torch.stack([2 - 2 * criteria.cosine(a, b) for a, b in combinations(white, 2)]).mean()
        return torch.stack([criteria.invariance(a, b) for a, b in combinations(white, 2)]).mean()

    return torch.stack([of_one_draw() for _ in range(w_iter)]).mean()


# --- agreement with a branch that gets no gradient --------------------------------------------------------------------


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the mean cosine of the rows ``p`` (..., D) and ``z``, which gets no gradient: in [-1, 1]."""
    return -criteria.cosine(*_alike(p, z.detach(), dim=None))


def simsiam(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """SimSiam: each view's prediction meets the other's projection. https://arxiv.org/abs/2011.10566

    Args:
        p1, p2: (B, D), the predictor's output for two views.
        z1, z2: (B, D), the projector's, which get no gradient here.

    Returns:
        Scalar in [-1, 1].
    """
    return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2


def byol(p1: Tensor, p2: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """BYOL: each view's prediction meets the other's projection by a slow target. https://arxiv.org/abs/2006.07733

    Args:
        p1, p2: (B, D), the predictor's output for two views.
        t1, t2: (B, D), what the slow copy of backbone and projector gives for them.

    Returns:
        Scalar in [0, 8], 4 for what has nothing in common.
    """
    return torch.stack([2 + 2 * negative_cosine(p1, t2), 2 + 2 * negative_cosine(p2, t1)]).sum()


# --- contrast ---------------------------------------------------------------------------------------------------------


def simclr(z1: Tensor, z2: Tensor, tau: float = 0.1) -> Tensor:
    """SimCLR's NT-Xent: each view against both views of all other pictures. https://arxiv.org/abs/2002.05709

    Args:
        z1, z2: (B, D), the projector's output for two views of the same pictures; brought to unit length here.
        tau: temperature.

    Returns:
        Scalar >= 0, about ln(2N - 1) for N pictures of all processes at first.
    """
    z1, z2 = _alike(z1, z2)
    return criteria.nt_xent(z1, z2, tau, gather, first=rank() * len(z1))


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, tau: float = 0.2) -> Tensor:
    """InfoNCE of MoCo v1 and v2: the key among negatives of your own. https://arxiv.org/abs/1911.05722

    Args:
        query: (B, D), the projector's output for a view.
        key: (B, D), the slow encoder's for the other view; without gradient.
        negatives: (K, D), keys of earlier pictures, such as a queue holds. Nothing is gathered: a queue of everyone's
            keys is yours to keep.
        tau: temperature, MoCo v2's (v1: 0.07).

    Returns:
        Scalar >= 0, about ln(K + 1) at first.
    """
    return criteria.info_nce(query, key.detach(), negatives.detach(), tau)


def moco_v3(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, tau: float = 1.0) -> Tensor:
    """MoCo v3: each view's query finds the other's key among everyone's. https://arxiv.org/abs/2104.02057

    Args:
        q1, q2: (B, D), the predictor's output for two views.
        k1, k2: (B, D), the slow encoder's; without gradient.
        tau: temperature, by which each way is weighted twice. ResNets have 1.0, ViTs 0.2.

    Returns:
        Scalar >= 0, about 4 tau ln N for N pictures of all processes at first.
    """
    queries, keys = _alike(q1, q2), [gather(k.detach()) for k in (k2, k1)]
    losses = [criteria.contrast(q, k, tau, rank() * len(q)) for q, k in zip(queries, keys, strict=True)]
    return 2 * tau * torch.stack(losses).sum()


# --- prototypes -------------------------------------------------------------------------------------------------------


def dino(
    student: Sequence[Tensor], teacher: Sequence[Tensor], center: Tensor, tau_s: float = 0.1, tau_t: float = 0.04
) -> Tensor:
    """DINO: every crop predicts what a slow teacher says of the large ones. https://arxiv.org/abs/2104.14294

    Args:
        student: (B, K) of each crop, the large ones first: scores of its embedding with K prototypes, cosines.
        teacher: (B, K) of each large crop in the same order, by the slow copy; without gradient.
        center: (K,), which `dino_center` moves after each step, at first zeros.
        tau_s, tau_t: temperatures; the paper's teacher warms up from 0.04 to 0.07.

    Returns:
        Scalar >= 0, about ln K at first.
    """
    targets = [((each.detach() - center) / tau_t).softmax(1) for each in teacher]
    return predicted([each / tau_s for each in student], targets)


@torch.no_grad()
def dino_center(center: Tensor, teacher: Sequence[Tensor], keep: float = 0.9) -> Tensor:
    """The centre (K,) of the next step, which keeps the share ``keep`` of the last: the rest is the mean of the scores
    ``teacher`` (B, K), of each large crop, over everyone's pictures.
    """
    return center.lerp(mean_of_everyone(torch.cat(list(teacher))), 1 - keep)


def swav(
    z: Sequence[Tensor],
    prototypes: Tensor,
    *,
    large: int = 2,
    tau: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """SwAV: every crop predicts the codes of the large ones. https://arxiv.org/abs/2006.09882

    Args:
        z: (B, D) of each crop, the ``large`` large ones first: the projector's output, brought to unit length here.
        prototypes: (K, D), such as the weight of a linear layer; brought to unit length here.
        tau: temperature.
        epsilon, iterations: of Sinkhorn's algorithm, by which everyone's pictures share themselves out.

    Returns:
        Scalar >= 0, about ln K at first.
    """
    z = _alike(*z)
    scores = criteria.similarity(torch.cat(z), prototypes).chunk(len(z))
    codes = [swav_codes(gather(each.detach()), prototypes, epsilon, iterations) for each in z[:large]]
    return predicted(scores, codes, tau)


def swav_codes(
    everyone: Tensor, prototypes: Tensor, epsilon: float, iterations: int, earlier: Tensor | None = None
) -> Tensor:
    """This process's rows of the codes (N, K) of everyone's embeddings (N, D), among which ``earlier`` ones are too."""
    rows = everyone if earlier is None else torch.cat([everyone, earlier])
    scores = criteria.similarity(rows, prototypes.detach())
    return own(criteria.sinkhorn(scores, epsilon, iterations)[: len(everyone)])


def predicted(scores: Sequence[Tensor], targets: Sequence[Tensor], tau: float = 1.0) -> Tensor:
    """Mean cross-entropy of each crop's ``scores`` / ``tau`` (B, K) with ``targets`` (B, K) of other crops, which the
    first ones have.
    """
    pairs = [(target, each) for i, target in enumerate(targets) for j, each in enumerate(scores) if i != j]
    return torch.stack([F.cross_entropy(each if tau == 1 else each / tau, target) for target, each in pairs]).mean()


def mean_of_everyone(rows: Tensor) -> Tensor:
    """Mean (K,) of this process's rows (n, K) and all others'."""
    return gather(rows.mean(0, keepdim=True)).mean(0)


# --- shared -----------------------------------------------------------------------------------------------------------


def _alike(*views: Tensor, dim: int | None = 2) -> list[Tensor]:
    """The views. Raises ValueError where one is no (B, D), or they differ, which broadcasting would hide."""
    shapes = [tuple(view.shape) for view in views]
    if len(set(shapes)) > 1 or (dim is not None and len(shapes[0]) != dim):
        found = ", ".join(map(str, shapes))
        raise ValueError(f"embeddings of views are (B, D) each, all of one shape; these are {found}")
    return list(views)


def _standardised(z: Tensor) -> Tensor:
    """(B, D) with mean 0 and variance 1 over everyone's batch."""
    wide = z if z.dtype == torch.float64 else z.float()
    with torch.autocast(z.device.type, enabled=False):
        return SyncBatchNorm(z.shape[1], affine=False, track_running_stats=False)(wide)
