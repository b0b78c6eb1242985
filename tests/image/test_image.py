"""The image runs a step as Kubernetes would run it at its strictest."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import IngestConfig
from pipeline.orchestration.kubeflow.imports import RECORD_FILE
from tests.image.conftest import BuiltImage
from tests.kubeflow.conftest import ROOT, Prepared, prepare
from tests.kubeflow.sandbox import Pod, run

pytestmark = pytest.mark.image

RIGHTS = """
import json, os, pathlib

def writable(folder):
    try:
        pathlib.Path(folder, "x").touch()
        return True
    except OSError:
        return False

status = pathlib.Path("/proc/self/status").read_text().splitlines()
capabilities = [int(line.split()[1], 16) for line in status if line.startswith("Cap")]
folders = ["/", "/etc", "/opt/edgeline", "/opt/libraries", "/usr", "/var", "/tmp"]
there = [folder for folder in folders if writable(folder)]
print(json.dumps([os.getuid(), os.getgid(), sum(capabilities), there]))
"""


CONFIG = """\
name = "cells"

[data]
path = "dataset"

[trainer]
base_weights = "random"

[gate]
min_accuracy = 0.9
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A cluster with a few made-up photos."""
    from pipeline.data.ingest import ingest

    folder = tmp_path_factory.mktemp("image")
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    ingest(folder / "photos", folder / "dataset", IngestConfig())
    return prepare(folder, folder / "dataset", CONFIG)


def in_image(image: BuiltImage, pod: Pod) -> Pod:
    """The pod with the image's file system, read-only, and its user without any capability."""
    environment = {**pod.environment, **image.environment}
    return replace(pod, environment=environment, root=str(image.root), user=image.settings["User"])


def test_steps_run_as_nobody_on_a_read_only_file_system(
    image: BuiltImage, prepared: Prepared, tmp_path: Path
) -> None:
    cluster = prepared.elsewhere(tmp_path, lambda pod, log: run(in_image(image, pod), log))
    done = cluster.run(prepared.pipeline, ROOT, until="ImportExampleGen")
    done.check()
    record = cluster.artifact(done, "ImportExampleGen", "examples") / RECORD_FILE
    assert len(json.loads(record.read_text())) == 3, "a file of each split"


def test_a_step_has_no_rights_and_nowhere_to_write_but_tmp(
    image: BuiltImage, tmp_path: Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    pod = Pod(["python", "-c", RIGHTS], {}, {"/tmp": str(scratch)})
    assert run(in_image(image, pod), tmp_path / "log") == 0
    assert json.loads((tmp_path / "log").read_text()) == [10001, 10001, 0, ["/tmp"]]


def test_the_image_has_what_a_run_needs_and_no_tools_of_developers(image: BuiltImage) -> None:
    (packages,) = image.root.glob("opt/libraries/lib/python3.*/site-packages")
    assert (packages / "tensorflow").is_dir()
    assert not list(packages.glob("pytest*"))
    code = image.root / "opt/edgeline"
    assert {"components", "edgeline", "pipeline"} <= {path.name for path in code.iterdir()}
    assert not (image.root / "uv").exists()


def test_its_code_is_this_code(image: BuiltImage) -> None:
    """By the digest that provenance states: a release says what was run."""
    script = "from pipeline.content_digest import source_digest as d; print(d('pipeline'))"
    here = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    code = image.root / "opt/edgeline"
    there = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(code), "PATH": "/usr/bin"},
        cwd="/",
    ).stdout
    assert there == here
