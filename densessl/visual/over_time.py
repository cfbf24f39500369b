"""How features formed: main components and matches after some steps of one run, in colours that keep their meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from densessl.visual import pca
from densessl.visual.features import rows_of
from densessl.visual.figure import Figure
from densessl.visual.matches import Pair, figure_of
from densessl.visual.pca import ENDS, NOTHING, Coloured
from densessl.visual.watched import Watched

MATCHES = 20  # of 49 places, as VICRegL has them; of fewer the same share
CAPTION = (
    "The same pictures after more and more steps, of which step 0 has the weights that the run started from{start}. "
    "Places of one colour have similar features, in whichever picture of a column they lie: the three directions in "
    "which the features of that step vary most are made equally wide and turned among themselves, so that colours are "
    "as near as they can be to those of the next column.",
    "Look when colours begin to keep to things and to end where things end, and whether they still change at the end. "
    "What the first column shows already was not learnt.",
    "Not to be concluded: that colours which stay the same are features which do: three directions are only the share "
    "given below of all that varies.",
)


def coloured(columns: Mapping[str, Sequence[Tensor]]) -> dict[str, Coloured]:
    """Maps (C, h, w) of the same pictures by step, the first step first: each step in the colours of a basis of its
    own, whose three axes have the same spread and are turned to those of the step after it.

    The last step's are those of `pca.coloured`. The turn is the orthogonal one with the least squared distance over all
    places (Schoenemann 1966, https://doi.org/10.1007/BF02289451); turned features give the same colours.
    """
    found: dict[str, Coloured] = {}
    after: Tensor | None = None
    for column, maps in reversed(list(columns.items())):
        rows = rows_of(maps)
        basis = pca.basis(rows)
        values = (rows - basis.mean) @ basis.axes.mT
        full = not basis.flat and min(basis.share) > NOTHING
        if full:
            values = values / values.square().mean(0).sqrt()
            if after is not None:
                left, _, right = torch.linalg.svd(values.mT @ after)
                values = values @ left @ right
            after = values
            low, high = torch.from_numpy(np.percentile(values.numpy(), ENDS, axis=0))
            values = ((values - low) / (high - low)).clamp(0, 1)
        parts = values.split([each[0].numel() for each in maps])
        shown = [part.mT.reshape(3, *each.shape[1:]) for part, each in zip(parts, maps, strict=True)]
        if not full:  # grey where nothing varies
            shown = [pca.projected(basis, each).clamp(0, 1) for each in maps]
        found[column] = Coloured(shown, basis.share, basis.flat, 1.0)
    return {column: found[column] for column in columns}


def figures(kept: Watched, *, start: str = "", of: str = "", mark: str = "", most: int | None = None) -> list[Figure]:
    """Main components, and matches of two views. ``most`` pictures are drawn.

    ``start`` says where the weights came from; ``of`` stands in titles, ``mark`` in the names of figures.
    """
    shown = list(zip(kept.names, kept.shown, strict=True))[:most]
    columns = {f"step {step}": maps for step, maps in kept.steps.items()}
    found = coloured({name: maps.whole for name, maps in columns.items()})  # the basis is that of all pictures
    texts = [text.format(start=f", {start}" if start else "") for text in CAPTION]
    held = ", ".join(f"{name} {_said(each)}" for name, each in found.items())
    facts = [f"share of the variance that the three directions hold: {held}"]
    title = f"How its features formed{of}"
    drawn = [Figure(f"formed{mark}", f"{title}: main components", texts, pca.tiles(shown, found), facts)]
    pairs = []
    for i, (views, affines) in enumerate(zip(kept.views[:most], kept.affines, strict=False)):
        of_steps = {
            name: Pair(list(views), list(maps.views[i]), list(affines))
            for name, maps in columns.items()
            if len(maps.views) > i
        }
        pairs += [(kept.names[i], kept.outlined[i], of_steps)] if of_steps else []
    if pairs:
        least = min(maps[0][0].numel() for _, _, of in pairs for _, maps, _ in of.values())
        count = min(MATCHES, -(-2 * least // 5))
        how = "without its changes of colour, and enlarged where they have few cells"
        figure = figure_of(
            pairs, how=how, count=count, title=f"{title}: matches between two views", name=f"matched{mark}"
        )
        drawn.append(figure._replace(tables=()))  # one a step and picture is more than anyone reads
    return drawn


def _said(found: Coloured) -> str:
    return "none, all places have the same features" if found.flat else f"{sum(found.share):.0%}"
