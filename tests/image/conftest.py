"""The steps' image, really built: on a base made here, for want of a registry to pull one from.

The base stands in for Docker's `python:3.13-slim-trixie`: the same Debian, and Debian's Python 3.13
where that image has its own. The Dockerfile is the same for either.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kubeflow.build_image import environment
from tests.kubeflow.sandbox import PROJECT

CACHE = PROJECT / ".tools" / "image-trixie"
BASE = "localhost/edgeline-base"
TAG = "localhost/edgeline:test"
PACKAGES = "ca-certificates,python3,python3-dev,python3-venv"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class BuiltImage:
    """A built image, and a container's file system made of it."""

    root: Path
    settings: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.settings["Env"])


def buildah(*arguments: str) -> str:
    done = subprocess.run(
        ["buildah", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment("buildah"),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def image() -> Iterator[BuiltImage]:
    if os.geteuid() != 0:
        pytest.skip("building needs root here")
    _import_base(_base_folder())
    built = subprocess.run(
        [sys.executable, str(PROJECT / "kubeflow/build_image.py"), "--base", BASE, "--tag", TAG],
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-5000:]
    container = buildah("from", TAG)
    try:
        inspected = json.loads(buildah("inspect", "--type", "image", TAG))
        yield BuiltImage(Path(buildah("mount", container)), inspected["OCIv1"]["config"])
    finally:
        buildah("rm", container)


def _base_folder() -> Path:
    folder = CACHE / "base"
    if folder.exists():
        return folder
    partial = CACHE / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    options = ["--variant=minbase", f"--include={PACKAGES}"]
    subprocess.run(["debootstrap", *options, "trixie", str(partial)], check=True)
    # A proxy's certificate, where this machine has one.
    shutil.copyfile(Path("/") / CERTIFICATES, partial / CERTIFICATES)
    partial.rename(folder)
    return folder


def _import_base(folder: Path) -> None:
    container = buildah("from", "scratch")
    try:
        buildah("add", "--quiet", container, str(folder), "/")
        buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        buildah("commit", "--quiet", container, BASE)
    finally:
        buildah("rm", container)
