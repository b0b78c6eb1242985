"""The steps' image, really built: on a base made here, for want of a registry to pull one from.

The base stands in for Docker's `python:3.10-slim-bookworm`: the same Debian, and this machine's
Python 3.10 where that image has its own. The Dockerfile is the same for either.
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

CACHE = PROJECT / ".tools" / "image"
BASE = "localhost/edgeline-base"
TAG = "localhost/edgeline:test"
# What Python's standard library links to, and certificates.
PACKAGES = (
    "ca-certificates,libbz2-1.0,libexpat1,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,"
    "libssl3,libuuid1,zlib1g"
)
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
    subprocess.run(["debootstrap", *options, "bookworm", str(partial)], check=True)
    python = Path(sys.base_prefix)
    for name in ("bin", "include", "lib"):
        shutil.copytree(
            python / name,
            partial / "usr" / "local" / name,
            symlinks=True,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("site-packages", "test", "__pycache__"),
        )
    (partial / "usr/local/lib/python3.10/site-packages").mkdir(exist_ok=True)
    subprocess.run(["chroot", str(partial), "ldconfig"], check=True)
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
