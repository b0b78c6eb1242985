"""How many cores and threads to use, for whoever does not say."""

import math
import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores(quota_file: Path = CGROUP_QUOTA) -> int:
    """Return how many cores this process may keep busy, a container's limit included.

    Args:
        quota_file: The limit, as control groups of version 2 have it.
    """
    # Not every system can pin a process to some of its cores.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(usable or 1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return usable or 1


def default_threads() -> int:
    """Return the threads for one inference: further ones than four hardly make it faster."""
    return min(4, cores())
