"""`make bench`: runs every benchmark, or those named: `python -m benchmarks model_sizes`."""

from __future__ import annotations

import os
import sys
from importlib import import_module

BENCHMARKS = (
    "model_sizes",
    "near_duplicates",
    "scale",
    "distributed",
    "rewriting",
    "evaluating",
    "training",
    "publishing",
    "device",
    "fleet",
)


def main(names: list[str]) -> int:
    """Runs benchmarks by name; returns the exit code."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; expected: {', '.join(BENCHMARKS)}")
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in names or BENCHMARKS:
        print(f"\n{name}", flush=True)
        import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
