"""Every sentence is said of embeddings with just that illness, and none of healthy ones."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from densessl.data.views import View, Views
from densessl.health.ranges import FAMILY
from densessl.health.values import values
from densessl.health.verdict import verdict
from densessl.health.words import HIGH, LOW, sentences, short
from densessl.methods import METHODS

RANDOM = torch.Generator().manual_seed(0)
N, DIM = 64, 32
VIEWS = Views([View(torch.empty(N), torch.tensor([[[90.0, 0, 0], [0, 90, 0]]] * N))] * 2, [])


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RANDOM)


def near(z: Tensor, share: float = 0.3) -> list[Tensor]:
    """Two views."""
    return [z, z + share * normal(*z.shape)]


def measured(**shown: list[Tensor]) -> dict[str, float]:
    """Of what is healthy but for ``shown``."""
    cells = normal(N, 9, DIM)
    healthy = {"maps": near(normal(N, DIM, 3, 3)), "global": near(normal(N, DIM)), "local": near(cells)}
    return values(healthy | {"prototypes": [5 * normal(N, 20)]} | shown, VIEWS)


def flat(count: int) -> Tensor:
    return normal(N, count) @ normal(count, DIM)


def shuffled() -> list[Tensor]:
    cells = normal(N, 9, DIM)
    return [cells, cells[:, [1, 2, 3, 4, 5, 6, 7, 8, 0]]]


SAME = normal(1, DIM)
ILL: dict[str, tuple[str, dict[str, list[Tensor]], str]] = {
    "alike": ("byol", {"global": near(SAME + 0.02 * normal(N, DIM), 0.01)}, "global embeddings are all nearly alike"),
    "alike places": (
        "densecl",
        {"local": near(SAME + 0.02 * normal(N, 9, DIM), 0.001)},
        "local embeddings are all nearly alike",
    ),
    "few dimensions": ("simclr", {"global": near(flat(1), 0.01)}, "global embeddings lie nearly in 1."),
    "backbone": (
        "dino",
        {"maps": near(flat(1)[:, :, None, None].expand(-1, -1, 3, 3), 0.01)},
        "pooled vectors lie nearly in 1.",
    ),
    "small deviation": ("vicreg", {"global": near(0.02 * normal(N, DIM), 0.001)}, "standard deviation of 0.02"),
    "large deviation": ("vicregl", {"local": near(50 * normal(N, 9, DIM), 10)}, "far above 1: the run is unstable"),
    "dead": (
        "swav",
        {"global": near(normal(N, DIM) * (torch.arange(DIM) < 12), 0.001)},
        "62% of the dimensions of global embeddings are the same",
    ),
    "repeated": ("barlow_twins", {"global": near(normal(N, 1) + 0.2 * normal(N, DIM), 0.01)}, "repeat each other"),
    "short": ("simsiam", {"global": near(1e-5 * normal(N, DIM), 1e-6)}, "global embeddings shrink to nothing"),
    "long": ("moco_v3", {"global": near(1e5 * normal(N, DIM), 1e4)}, "global embeddings grow without bound"),
    "crowded": ("moco_v2", {"global": near(SAME + 0.15 * normal(N, DIM), 0.05)}, "crowd in one corner"),
    "strangers": ("wmse", {"global": [normal(N, DIM), normal(N, DIM)]}, "as far apart as those of two pictures"),
    "places mistaken": (
        "pixpro",
        {"local": shuffled()},
        "0.0% are most like themselves in local embeddings, and 11.1%",
    ),
    "one prototype": ("swav", {"prototypes": [20 * F.one_hot(torch.zeros(N, dtype=torch.int64), 20)]}, "1.0 of 20 pro"),
    "all prototypes": ("dino", {"prototypes": [0.01 * normal(N, 20)]}, "to all 20 prototypes alike"),
}


@pytest.mark.parametrize("case", ILL)
def test_an_illness_has_its_sentence(case: str) -> None:
    method, shown, expected = ILL[case]
    said = sentences(measured(**shown), method)
    assert len(said) == 1, said
    assert expected in said[0]
    assert "what helps" in said[0]


def test_far_places_have_theirs() -> None:
    """Where agreement is above chance, which comes first, but the wrong places lie at the other end."""
    found = measured() | {"health/local_agreement": 0.2, "health/local_distance": 2.0}
    (said,) = sentences(found, "densecl")
    assert "lies 2.0 cells away" in said


def test_every_sentence_is_tested() -> None:
    texts = [text for table in (LOW, HIGH) for text in table.values()]
    assert len(ILL) - 2 + 1 == len(texts)  # two of them said of another kind of embeddings as well, one apart


@pytest.mark.parametrize("method", METHODS)
def test_of_healthy_embeddings_nothing_is_said(method: str) -> None:
    assert method in FAMILY
    assert sentences(measured(), method) == []
    assert verdict([{"step": 1.0, "loss": 2.0, **measured()}], method)[0].startswith("healthy")


def test_a_method_of_ones_own_is_judged_by_what_holds_for_all() -> None:
    (said,) = sentences(measured(**ILL["alike"][1]), "align_uniform")
    assert "nearly alike" in said


def test_few_rows_say_nothing() -> None:
    shown = {"maps": [SAME[:, :, None, None].repeat(4, 1, 2, 2)], "global": [SAME.repeat(4, 1)]}
    found = values(shown, Views([View(torch.empty(4), torch.eye(3)[None, :2].repeat(4, 1, 1))] * 2, []))
    assert [name for name in ("global", "backbone") if f"health/{name}_rank" in found] == ["global", "backbone"]
    assert not any("global" in said or "backbone" in said for said in sentences(found, "byol"))


def test_the_console_has_one_measure() -> None:
    assert short({"loss": 1.0}) == ""
    found = measured()
    assert short(found) == f"  rank {found['health/global_rank']:.0f}/32"


def curve(losses: list[float | None], **shown: list[Tensor]) -> list[dict[str, Any]]:
    healthy, late = measured(), measured(**shown)
    half = len(losses) // 2
    return [{"step": i + 1, "loss": loss, **(healthy if i < half else late)} for i, loss in enumerate(losses)]


def test_a_verdict_tells_runs_apart() -> None:
    falling = [10.0 - 0.2 * i for i in range(40)]
    assert verdict(curve(falling), "vicreg") == ["healthy: every measure is within its range for vicreg at the end"]
    collapsing = verdict(curve(falling, **ILL["small deviation"][1]), "vicreg")
    assert collapsing[0].startswith(
        "collapsing: embeddings lose what tells pictures apart, while the loss fell from 10"
    )
    assert "standard deviation of 0.02" in collapsing[1]
    rising = [10.0 - 0.4 * i if i < 15 else 4 + 0.3 * (i - 15) for i in range(40)]
    assert verdict(curve(rising), "simclr")[1].startswith("the loss rose again, from 4.6 to 10.6")
    skipped = verdict(curve([*falling, None, None]), "byol")
    assert skipped[0].startswith("the learning rate is too high")
    assert "not finite in 2 of 42" in skipped[1]
    stuck = verdict(curve([10 + 0.1 * (i % 2) for i in range(40)], **{"global": near(flat(5))}), "vicreg")
    assert stuck[0].startswith("the learning rate is too high")
    assert "rank of global embeddings fell from" in stuck[1]
    assert verdict(curve(falling, **ILL["long"][1]), "byol")[0].startswith("ill")
    assert verdict([{"step": 1.0, "loss": 2.0}], "byol")[0].startswith("nothing is known")
