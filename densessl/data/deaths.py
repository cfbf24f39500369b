"""Workers that died: why, at which pictures, and when to give up."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, NamedTuple

from densessl.data.worker import GRACE, NOWHERE
from densessl.errors import MORE_SHARED_MEMORY, UserError

if TYPE_CHECKING:
    from densessl.data.pictures import Pictures

TIMES = 5  # that workers die with fewer than GOOD batches between and no picture to blame
GOOD = 100
NAMES = {-number: number.name for number in signal.Signals}
OUTSIDE = {-signal.SIGTERM: "which another program sent", -signal.SIGALRM: f"{GRACE} seconds after a SIGTERM"}
CAUSES = OUTSIDE | {
    -signal.SIGKILL: "most often because memory ran out",
    -signal.SIGBUS: f"most often because shared memory, /dev/shm, is full: {MORE_SHARED_MEMORY}",
}
log = logging.getLogger("densessl")


class Death(NamedTuple):
    worker: int
    status: int  # of the process; the negative of a signal
    at: int  # the number it noted last, or NOWHERE

    def __str__(self) -> str:
        if self.status >= 0:
            return f"worker {self.worker} ended by itself with status {self.status}"
        name = NAMES.get(self.status, f"signal {-self.status}")
        cause = CAUSES.get(self.status, "an error in a library such as a decoder")
        return f"worker {self.worker} was ended by {name}, {cause}"


class Deaths:
    """Those of a loader's workers, which note the row of the picture they are at."""

    def __init__(self, images: Pictures) -> None:
        self._images = images
        self._met: set[int] = set()  # rows at which a worker died
        self._times, self._good = 0, 0

    def count_batch(self) -> None:
        self._good += 1

    def judge(self, deaths: list[Death]) -> dict[int, str]:
        """Say them; the rows at which a worker died before are to blame, and returned with the reason.

        Raises UserError when workers die again and again and no picture is to blame.
        """
        said = [
            f"{death}, at {'no picture' if death.at == NOWHERE else self._images.path(death.at)}" for death in deaths
        ]
        there = {death.at: str(death) for death in deaths if death.at != NOWHERE and death.status not in OUTSIDE}
        guilty = {row: f"{death}, for the second time here" for row, death in there.items() if row in self._met}
        self._met |= there.keys()
        self._times = 0 if guilty else 1 if self._good >= GOOD else self._times + 1
        self._good = 0
        if self._times == TIMES:
            raise UserError(
                f"data workers died {TIMES} times with fewer than {GOOD} batches between; now {'; '.join(said)}. Fewer "
                "data.workers, smaller pictures (`tools/data.py pack`) or more memory may help"
            )
        for line in said:
            log.warning("%s; the workers start again, nothing is lost", line)
        return guilty
