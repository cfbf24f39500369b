"""How much memory a process took, and whether it keeps it."""

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from densessl.device import peak_memory, reset_peak_memory

SAY = "import torch; from densessl.device import peak_memory; print(peak_memory(torch.device('cpu')))"


def test_peak_memory_is_this_process_s_own() -> None:
    """Not its parent's, which held 3 GiB when it started the process."""
    held = np.ones(3 * 2**27)
    said = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True)
    assert held.nbytes == 3 * 2**30
    assert 0.05 < float(said.stdout) < 2.5


def test_peak_memory_counts_what_was_given_back() -> None:
    made = SAY.replace("; print", "; import numpy; numpy.ones(2**28); print")
    said = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    assert float(said.stdout) > 2


FAULTS = """
import resource, torch
from densessl.device import keep_freed_memory
{}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):  # the first ones find no room that is wide enough to lie at a multiple of 64 bytes
    before = faults()
    torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, which alone is told")
def test_memory_is_kept_for_the_next_tensor() -> None:
    """64 MiB, which are 16,384 pages that the system would clear again for each tensor."""

    def cleared(first: str) -> int:
        said = subprocess.run([sys.executable, "-c", FAULTS.format(first)], capture_output=True, text=True, check=True)
        return int(said.stdout)

    assert cleared("keep_freed_memory()") < 100
    assert cleared("") > 1000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a peak")
def test_a_peak_is_forgotten_and_what_is_free_given_back() -> None:
    cpu, freed = torch.device("cpu"), torch.ones(2**27)  # 512 MiB
    high = peak_memory(cpu)
    del freed
    reset_peak_memory(cpu)
    low = peak_memory(cpu)
    assert low < high - 0.4
    assert len(torch.ones(2**27)) == 2**27
    assert peak_memory(cpu) > low + 0.4
