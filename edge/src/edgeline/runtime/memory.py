"""How much memory there is for what an image or a model takes."""

from contextlib import suppress
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_CACHES = ("active_file", "inactive_file", "slab_reclaimable")  # in a control group's memory.stat


def available_memory() -> int | None:
    """Return how many bytes of memory a new process may take; None where nobody knows."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) << 10)
    with suppress(OSError, ValueError):
        group = (_PROC / "self/cgroup").read_text().rpartition(":")[2].strip().lstrip("/")
        folder = _CGROUPS / group
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        found.append(max(0, limit - max(0, used - _reclaimable(folder / "memory.stat"))))
    return min(found) if found else None


def _reclaimable(path: Path) -> int:
    """Return how many bytes of a group's memory are caches that the kernel gives up for others."""
    counts = dict(line.split() for line in path.read_text().splitlines())
    return sum(int(counts.get(name, 0)) for name in _CACHES)
