"""How much memory a process took."""

import subprocess
import sys

import numpy as np

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
