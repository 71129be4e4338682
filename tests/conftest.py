"""Every test starts from the same random state, on one thread."""

import os
import signal

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
# Triton kernels run in its interpreter, which has to be known before anything imports it: torch.compile does.
os.environ["TRITON_INTERPRET"] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # begun in the background, a process may have none


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
