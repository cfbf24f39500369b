"""One thread: the tensors of tests are small, and a second thread would only wait, and long on a busy machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
