"""The two lines of TFX beside each other: this environment's, and Debian 13's (`make test-trixie`).

What one line leaves behind, the other goes on with; devices can't tell which one a model is from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.libraries import library_versions
from components.verdict import OVERALL, VariantVerdict, Verdict
from tests.conftest import Workspace
from tests.peers.test_device_pythons import make_environment, run_in

pytestmark = pytest.mark.lines

PROJECT = Path(__file__).parents[2]
TRIXIE = PROJECT / ".tools" / "trixie"
NEWER_TFX = "1.21.0"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
VERDICTS = Path("runs/cells/TFLiteEvaluator/verdict")
MAX_ACCURACY_DIFFERENCE = 0.02


def on_trixie(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command on Debian 13, in a folder given by its path there."""
    script = [str(PROJECT / "tests/debian.sh"), "trixie", "sh", "-c", 'cd "$0" && exec "$@"']
    return subprocess.run(
        [*script, str(folder), *command], capture_output=True, text=True, check=False
    )


def newest_verdict(folder: Path) -> Verdict:
    verdicts = folder / VERDICTS
    assert verdicts.is_dir(), f"{verdicts}: no such folder; `make test-trixie` runs the demo first"
    return Verdict.load(max(verdicts.iterdir(), key=lambda path: int(path.name)))


def accuracy(verdict: VariantVerdict) -> float:
    (value,) = (c.value for c in verdict.checks if (c.metric, c.slice) == ("accuracy", OVERALL))
    return value


@pytest.fixture(scope="module")
def demos() -> tuple[Verdict, Verdict]:
    """The demo's verdicts of the older and of the newer line."""
    return newest_verdict(PROJECT), newest_verdict(TRIXIE / "checkout")


def test_the_demo_gives_the_same_verdicts_on_both(demos: tuple[Verdict, Verdict]) -> None:
    older, newer = demos
    for verdict in demos:
        assert verdict.float_model.passed
    assert {v.variant: v.passed for v in older.variants} == {
        v.variant: v.passed for v in newer.variants
    }


def test_the_demo_is_as_accurate_on_both(demos: tuple[Verdict, Verdict]) -> None:
    older, newer = demos
    pairs = [(older.float_model, newer.float_model)]
    pairs += [
        (one, other)
        for one, other in zip(older.variants, newer.variants, strict=True)
        if one.passed
    ]
    differences = {one.variant: accuracy(one) - accuracy(other) for one, other in pairs}
    assert max(map(abs, differences.values())) <= MAX_ACCURACY_DIFFERENCE, differences


@dataclass(frozen=True)
class Continued:
    """A run's folder of the older line before and after the newer line went on in a copy of it."""

    before: Path
    after: Path
    ran: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def continued(workspace: Workspace) -> Continued:
    """The copy lies at the same path on Debian 13: the metadata store knows artifacts by path."""
    copy = TRIXIE / workspace.folder.relative_to("/")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(workspace.folder, copy, symlinks=True)
    python = "/checkout/.venv/bin/python"
    ran = on_trixie(workspace.folder, python, "-m", "pipeline", "run", "--config", "cells.toml")
    return Continued(workspace.folder, copy, ran)


def test_this_is_the_older_line_and_trixie_has_the_newer_one() -> None:
    code = "from components.libraries import library_versions as v; print(v()['tfx'])"
    there = on_trixie(Path("/checkout"), ".venv/bin/python", "-c", code)
    assert there.stdout.split() == [NEWER_TFX], there.stderr
    assert library_versions()["tfx"] != NEWER_TFX


def test_a_run_of_the_older_line_goes_on_with_the_newer(continued: Continued) -> None:
    assert continued.ran.returncode == 0, continued.ran.stdout + continued.ran.stderr
    states = dict(re.findall(r"^  (\w+) +(done|cached)\b", continued.ran.stdout, re.MULTILINE))
    # The data is the same, and what depends on the libraries is not.
    assert states["ImportExampleGen"] == "cached"
    assert states["Trainer"] == states["TFLiteRewriter"] == "done"


def test_it_compares_with_what_the_older_line_published(continued: Continued) -> None:
    deployed = newest_verdict(continued.after).deployed
    assert deployed is not None
    assert deployed.tag == "v1"
    assert "cells v2 in registry, channel candidate (new release" in continued.ran.stdout


@pytest.fixture(scope="module", params=PYTHONS)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of a Python with the device package, and with what promoting needs."""
    folder = tmp_path_factory.mktemp(f"python-{request.param}")
    make_environment(folder, request.param, extras="[device]", part="edge/registry")
    return folder


@pytest.mark.parametrize(("line", "tag"), [("older", "v1"), ("newer", "v2")])
def test_every_python_promotes_pulls_and_predicts_with_its_releases(
    machine: Path, continued: Continued, line: str, tag: str, tmp_path: Path
) -> None:
    made_by = continued.before if line == "older" else continued.after
    for part in ("registry", "keys"):
        shutil.copytree(made_by / part, tmp_path / part)
    registry, root = str(tmp_path / "registry"), ["--root", str(tmp_path / "keys" / "root.json")]
    promoted = json.loads(
        run_in(
            machine, "edgeline", "registry", "promote", registry, "cells", "--from", "candidate",
            "--to", "production", "--yes", "--json", *root, "--key", str(tmp_path / "keys"),
        )
    )  # fmt: skip
    assert promoted["tag"] == tag
    where = ["--registry", registry, "--model", "cells", *root, "--state", str(tmp_path / "state")]
    assert "is served from now on" in run_in(machine, "edgeline", "pull", *where)
    images = sorted((continued.before / "elpv" / "images").glob("*.png"))[:4]
    predict = ["predict", *map(str, images), *where, "--json", "--update", "never"]
    said = [
        json.loads(each)["label"] for each in run_in(machine, "edgeline", *predict).splitlines()
    ]
    here = subprocess.run(
        [str(PROJECT / ".venv/bin/edgeline"), *predict],
        capture_output=True, text=True, check=True, env=dict(os.environ),
    )  # fmt: skip
    assert said == [json.loads(each)["label"] for each in here.stdout.splitlines()]
    assert len(said) == len(images)
