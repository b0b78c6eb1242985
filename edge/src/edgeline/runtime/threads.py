"""How many threads to use, for whoever does not say."""

import os


def cores() -> int:
    """Return on how many cores this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return the threads for one inference: further ones than four hardly make it faster."""
    return min(4, cores())
