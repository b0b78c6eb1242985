"""The whole compiled pipeline on other roots, with a search, and with other parameters.

On few made-up photos; the run on real images is another one. Kubeflow's own
programs have no `gs://` here, so that they do on `minio://` what is simulated on `gs://`.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from components.trained_model import HISTORY_FILE
from components.verdict import OVERALL, Check, Verdict
from edgeline.registry.store import open_store
from edgeline.registry.trust import TrustedChannels
from pipeline.config import IngestConfig
from pipeline.data.dataset import Dataset
from tests.kubeflow.argo import Cluster, Run, Runner
from tests.kubeflow.conftest import PROGRAMS, Prepared, prepare
from tests.kubeflow.programs import Services
from tests.kubeflow.releases import opened, provenance, releases
from tests.kubeflow.sandbox import Pod, run

pytestmark = pytest.mark.cluster

CONFIG = """\
name = "cells"

[data]
path = "dataset"

[image]
height = 32
width = 32

[trainer]
base_weights = "random"
epochs = 3
batch_size = 16
schedule = "plateau"

[tuner]
trials = 2

[rewriter]
variants = ["float32"]

[gate]
min_accuracy = 0.01
min_auc = 0.01
min_slice_accuracy = { camera = 0.01 }
min_recall = { dark = 0.0 }
max_calibration_error = 0.99
min_agreement = 0.01
max_drop = 0.99
max_drop_deployed = 0.99
max_size_mb = 99.0
max_latency_p50_ms = 9000.0
max_latency_p95_ms = 9000.0
max_latency_ratio = 90.0
"""
ROOTS = {"on_s3": "s3://bucket/artifacts", "on_gs": "minio://bucket" if PROGRAMS else "gs://bucket"}
# Each parameter of the run at another value than its default.
THRESHOLDS: dict[str, Any] = {
    "min_accuracy": 0.02,
    "min_auc": 0.02,
    "min_slice_accuracy": {"camera": 0.02},
    "min_recall": {"bright": 0.0},
    "max_calibration_error": 0.98,
    "min_agreement": 0.02,
    "max_drop": 0.98,
    "max_size_mb": 98.0,
    "max_latency_p50_ms": 8000.0,
    "max_latency_p95_ms": 8001.0,
    "max_latency_ratio": 80.0,
}
OTHERS = {
    **THRESHOLDS,
    "data_path": "/data/others",
    "registry": "/registry/other",
    "channel": "canary",
    "epochs": 2,
}
BEAT = {"registry": "/registry/other", "max_drop_deployed": 0.97}
# By metric and slice, as the verdict on a variant has them.
JUDGED = {
    ("accuracy", OVERALL): 0.02,
    ("auc", OVERALL): 0.02,
    ("accuracy", "camera=left"): 0.02,
    ("accuracy", "camera=right"): 0.02,
    ("recall of bright", OVERALL): 0.0,
    ("calibration error", OVERALL): 0.98,
    ("agreement", OVERALL): 0.02,
    ("accuracy drop", OVERALL): 0.98,
    ("size in MB", OVERALL): 98.0,
    ("p50 latency in ms", OVERALL): 8000.0,
    ("p95 latency in ms", OVERALL): 8001.0,
    ("p50 latency against float32", OVERALL): 80.0,
}


@dataclass(frozen=True)
class Outcome:
    """A run, and the cluster that it was in."""

    prepared: Prepared
    cluster: Cluster
    run: Run

    def artifact(self, task: str, output: str) -> Path:
        return self.cluster.artifact(self.run, task, output)

    @property
    def verdict(self) -> Verdict:
        return Verdict.load(self.artifact("TFLiteEvaluator", "verdict"))

    @property
    def history(self) -> dict[str, list[float]]:
        """The training's curves."""
        file = self.artifact("Trainer", "model_run") / HISTORY_FILE
        curves: dict[str, list[float]] = json.loads(file.read_text())
        return curves

    @property
    def pushed(self) -> dict[str, Any]:
        """What the last step did."""
        (file,) = self.artifact("EdgePusher", "pushed_model").iterdir()
        release: dict[str, Any] = json.loads(file.read_text())
        return release

    @property
    def other_registry(self) -> Path:
        return self.prepared.folder / "volume" / "other"


@pytest.fixture(scope="module")
def bright_and_dark(
    services: Services | None, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """A cluster with two datasets, of other photos."""
    folder = tmp_path_factory.mktemp("stores")
    make_dataset(folder / "first", images=160, seed=0)
    make_dataset(folder / "second", images=150, seed=1)
    prepared = prepare(folder, folder / "first" / "dataset", CONFIG, services)
    (folder / "second" / "dataset").rename(folder / "data" / "others")
    return prepared


def make_dataset(folder: Path, images: int, seed: int) -> None:
    """Makes photos whose classes overlap: no training, not even one that failed, is all wrong."""
    from pipeline.data.ingest import ingest

    folder.mkdir()
    random = np.random.default_rng(seed)
    rows = [("path", "label", "camera")]
    for number in range(images):
        label, least = (("dark", 0), ("bright", 20))[number % 2]
        darkest = least + random.integers(100)
        pixels = random.integers(darkest, darkest + 100, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append((f"{number}.png", label, "left" if number % 4 < 2 else "right"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    shares = IngestConfig(train=0.5, eval=0.25, test=0.25)
    ingest(folder / "labels.csv", folder / "dataset", shares)


@pytest.fixture(scope="module")
def on_s3(bright_and_dark: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """With every parameter at another value; the Trainer's pod is killed in its first try."""
    cluster = bright_and_dark.elsewhere(tmp_path_factory.mktemp("s3"), killed_once("trainer"))
    done = cluster.run(bright_and_dark.pipeline, ROOTS["on_s3"], OTHERS)
    done.check()
    return Outcome(bright_and_dark, cluster, done)


@pytest.fixture(scope="module")
def on_gs(on_s3: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """With the defaults, but for the release to beat: that of the other run."""
    prepared = on_s3.prepared
    cluster = prepared.elsewhere(tmp_path_factory.mktemp("gs"))
    beat = {**BEAT, "baseline_digest": releases(on_s3.other_registry)[0]}
    done = cluster.run(prepared.pipeline, ROOTS["on_gs"], beat)
    done.check()
    return Outcome(prepared, cluster, done)


def killed_once(step: str) -> Runner:
    """Kills a step's first pod, and all that runs in it, when the step has written something."""
    killed: list[str] = []
    script = (
        '"$@" & step=$!; '
        "while kill -0 $step && [ -z \"$(find /s3 -path '*/model_run/*')\" ]; do sleep 0.2; done; "
        "kill -9 0"
    )

    def work(pod: Pod, log: Path) -> int:
        name = pod.environment["KFP_POD_NAME"].removeprefix("pod-")
        if name != step or killed:
            return run(pod, log)
        killed.append(name)
        return run(replace(pod, command=["sh", "-c", script, "sh", *pod.command]), log)

    return work


@pytest.mark.parametrize("outcome", ["on_s3", "on_gs"])
def test_every_step_runs_on_other_object_stores(
    outcome: str, request: pytest.FixtureRequest
) -> None:
    done: Outcome = request.getfixturevalue(outcome)
    assert set(done.run.states.values()) == {"complete"}
    assert len(done.run.states) == 14
    folders = ("/s3/", "/minio/", "/gcs/")
    for task, result in done.run.tasks.items():
        for output in result.artifacts:
            metadata = done.cluster.metadata(done.run, task, output)
            assert metadata["uri"].startswith(f"{ROOTS[outcome]}/")
            assert not any(f"{folder}bucket" in json.dumps(metadata) for folder in folders)


@pytest.mark.parametrize("outcome", ["on_s3", "on_gs"])
def test_the_trainer_takes_what_the_search_found(
    outcome: str, request: pytest.FixtureRequest
) -> None:
    done: Outcome = request.getfixturevalue(outcome)
    (found,) = done.artifact("Tuner", "best_hyperparameters").iterdir()
    best = json.loads(found.read_text())["values"]
    (results,) = done.artifact("Tuner", "tuner_results").iterdir()
    assert len(json.loads(results.read_text())) == 2
    assert done.history["head/learning_rate"][0] == pytest.approx(best["learning_rate"], rel=1e-5)
    assert best["learning_rate"] != pytest.approx(1e-3)


def test_a_step_whose_pod_was_killed_is_tried_again_with_nothing_of_the_first_try(
    on_s3: Outcome,
) -> None:
    tries = {name: task.tries for name, task in on_s3.run.tasks.items()}
    assert tries == {**dict.fromkeys(tries, 1), "Trainer": 2}
    root = on_s3.cluster.metadata(on_s3.run, "Trainer", "model")["uri"].rpartition("/")[0]
    kept = on_s3.cluster.objects(root)
    curves = [key.rpartition("/")[0] for key in kept if "events.out.tfevents" in key]
    assert len(curves) == len(set(curves)) > 0, "a try's are named by the time"
    assert {key.partition("/")[0] for key in kept} == {"model", "model_run", "executor-logs-1"}


def test_every_parameter_of_a_run_is_tried_here(bright_and_dark: Prepared) -> None:
    spec, _ = yaml.safe_load_all(bright_and_dark.pipeline.read_text())
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert set(declared) == {*OTHERS, "baseline_digest", "max_drop_deployed"}


def test_the_dataset_is_the_one_of_the_parameter(on_s3: Outcome, on_gs: Outcome) -> None:
    for version, outcome, folder in ((1, on_s3, "others"), (2, on_gs, "dataset")):
        made = provenance(*opened(outcome.other_registry, version))["predicate"]["buildDefinition"]
        (dataset,) = (each for each in made["resolvedDependencies"] if each["name"] == "dataset")
        there = Dataset.load(outcome.prepared.folder / "data" / folder)
        assert dataset["digest"]["sha256"] == there.digest
        assert outcome.verdict.examples == sum(there.counts["test"].values())


def test_the_release_is_in_the_registry_and_on_the_channel_of_the_parameters(
    on_s3: Outcome, on_gs: Outcome
) -> None:
    assert not releases(on_s3.prepared.registry)
    made = releases(on_s3.other_registry)
    assert (on_s3.pushed["channel"], on_s3.pushed["digest"]) == ("canary", made[0])
    assert (on_gs.pushed["channel"], on_gs.pushed["digest"]) == ("candidate", made[1])
    channels = channels_of(on_s3.other_registry, on_s3.prepared.root)
    assert channels == {"canary": made[0], "candidate": made[1]}


def test_the_training_has_the_epochs_of_the_parameter(on_s3: Outcome, on_gs: Outcome) -> None:
    assert len(on_s3.history["head/loss"]) == 2
    assert len(on_gs.history["head/loss"]) == 3


def test_each_threshold_of_the_gate_is_the_parameter_s(on_s3: Outcome) -> None:
    (variant,) = on_s3.verdict.variants
    assert thresholds(variant.checks) == JUDGED


def test_the_release_to_beat_is_the_parameter_s_though_the_channel_serves_none(
    on_s3: Outcome, on_gs: Outcome
) -> None:
    assert on_s3.verdict.deployed is None
    deployed = on_gs.verdict.deployed
    assert deployed is not None
    assert deployed.digest == releases(on_s3.other_registry)[0]
    (variant,) = on_gs.verdict.variants
    assert thresholds(variant.checks)["accuracy drop against v1 float32", OVERALL] == 0.97


def test_a_recurring_run_trains_on_what_was_ingested_since(on_gs: Outcome) -> None:
    """Same parameters, same path: the last test, as it changes the volume."""
    data = on_gs.prepared.folder / "data"
    (data / "dataset").rename(data / "before")
    (data / "others").rename(data / "dataset")
    run = on_gs.cluster.run(on_gs.prepared.pipeline, ROOTS["on_gs"], BEAT, until="Trainer")
    run.check()
    assert {run.states[name] for name in ("ImportExampleGen", "Tuner", "Trainer")} == {"complete"}
    assert "cached" not in run.states.values()


def thresholds(checks: tuple[Check, ...]) -> dict[tuple[str, str], float]:
    return {(check.metric, check.slice): check.asked for check in checks if check.asked is not None}


def channels_of(registry: Path, root: Path) -> dict[str, str]:
    """The digest that each channel serves, as devices trust it."""
    with TemporaryDirectory() as state:
        trusted = TrustedChannels(
            open_store(str(registry)), root=root.read_bytes(), state=Path(state)
        )
        return {each.name: each.release.index.digest for each in trusted.channels()}
