"""How many processors there are to use."""

import os


def processors() -> int:
    """Those that this process may run on, where the system says so; otherwise all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
