"""What a user did and can mend, as opposed to what is broken in densessl."""

import re
import shutil

MORE_SHARED_MEMORY = (
    "make it larger, as Docker does with --shm-size=8g, or take fewer workers (data.workers of a training, --workers "
    "of an evaluation); 0 need none"
)


class UserError(ValueError):
    """Wrong input: the message names the key, file or line, and what would be right."""


def shared_memory_error(error: BaseException) -> UserError | None:
    """What to tell the user, if ``error`` is torch's because worker processes had no room left for tensors."""
    if not re.search(r"</torch_\S+>: No space left on device|out of shared memory", f"{error} {error.__cause__}"):
        return None
    room = shutil.disk_usage("/dev/shm").total / 2**20
    return UserError(
        f"shared memory is full: /dev/shm, in which workers leave what they have made, has {room:.0f} MiB; "
        f"{MORE_SHARED_MEMORY}"
    )
