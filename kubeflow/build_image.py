"""Builds the image with whatever builder there is: `make image`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
BUILDERS = ("docker", "podman", "buildah")
MISTAKE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds; returns the builder's exit code, or 2 where there is no builder."""
    parser = argparse.ArgumentParser(prog="build_image.py", description="Build the steps' image.")
    parser.add_argument("--tag", default="edgeline:latest", help="edgeline:latest by default")
    parser.add_argument("--base", help="image with Python 3.13 to build on; Debian's by default")
    options = parser.parse_args(arguments)
    builder = next((name for name in BUILDERS if works(name)), None)
    if builder is None:
        print(f"no image builder: expected one of {', '.join(BUILDERS)}", file=sys.stderr)
        return MISTAKE
    base = ["--build-arg", f"BASE={options.base}"] if options.base else []
    file = ["--file", str(PROJECT / "kubeflow" / "Dockerfile")]
    command = [builder, "build", *base, *file, "--tag", options.tag, str(PROJECT)]
    print(" ".join(command), flush=True)
    return subprocess.run(command, check=False, env=environment(builder)).returncode


def works(builder: str) -> bool:
    """Whether a builder is there and answers: Docker's command may be without its daemon."""
    if not shutil.which(builder):
        return False
    query = [builder, "version"] if builder == "buildah" else [builder, "info"]
    return subprocess.run(query, capture_output=True, check=False).returncode == 0


def environment(builder: str) -> dict[str, str]:
    """The builder's environment: Buildah works in a container too, if told how."""
    if builder != "buildah":
        return dict(os.environ)
    defaults = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
    return {**defaults, **os.environ}


if __name__ == "__main__":
    sys.exit(main())
