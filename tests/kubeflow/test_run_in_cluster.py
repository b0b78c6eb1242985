"""The compiled pipeline in a simulated cluster does what the same pipeline does on a laptop."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.tflite_models import TFLiteModelsFolder
from components.verdict import Verdict
from tests.conftest import Workspace
from tests.kubeflow.conftest import ROOT, Simulated
from tests.kubeflow.releases import opened, provenance, releases

pytestmark = pytest.mark.cluster

CACHED = (
    "ImportExampleGen",
    "ImportSchemaGen",
    "StatisticsGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Evaluator",
    "TFLiteRewriter",
    "TFLiteEvaluator",
    "Report",
)
LATENCY = "latency"


def test_every_step_runs_in_a_process_of_its_own(simulated: Simulated) -> None:
    assert set(simulated.first.states.values()) == {"complete"}
    assert set(simulated.first.states) == {*CACHED, "Plan", "EdgePusher"}


def test_the_metrics_are_those_of_the_local_run(workspace: Workspace, simulated: Simulated) -> None:
    local = Verdict.load(workspace.artifact("TFLiteEvaluator", "verdict"))
    there = Verdict.load(artifact(simulated, "TFLiteEvaluator", "verdict"))
    assert metrics(there) == metrics(local)
    assert there.inputs_digest == local.inputs_digest
    assert there.publishable == local.publishable


def test_the_tflite_files_are_those_of_the_local_run_byte_for_byte(
    workspace: Workspace, simulated: Simulated
) -> None:
    local = TFLiteModelsFolder.load(workspace.artifact("TFLiteRewriter", "tflite_models"))
    there = TFLiteModelsFolder.load(artifact(simulated, "TFLiteRewriter", "tflite_models"))
    assert [model.variant for model in there.models] == ["float32", "float16", "int8"]
    for model, same in zip(there.models, local.models, strict=True):
        assert there.path(model).read_bytes() == local.path(same).read_bytes()


def test_the_release_is_that_of_the_local_run_but_for_run_and_clock(
    workspace: Workspace, simulated: Simulated
) -> None:
    """All that a release's digest is made of is equal, where it says neither who nor when."""
    local, there = content(workspace.registry), content(simulated.registry)
    assert there == local


def test_the_release_says_who_made_it(simulated: Simulated) -> None:
    reader, release = opened(simulated.registry)
    details = provenance(reader, release)["predicate"]["runDetails"]
    assert details["builder"]["id"] == "https://edgeline.dev/provenance/kubeflow-pipelines/v1"
    assert details["metadata"]["invocationId"] == simulated.first.id


def test_the_report_and_its_metrics_are_for_kubeflow_s_pages(simulated: Simulated) -> None:
    page = artifact(simulated, "Report", "report").read_bytes()
    assert page == (artifact(simulated, "TFLiteEvaluator", "verdict") / "report.html").read_bytes()
    shown = simulated.cluster.metadata(simulated.first, "Report", "metrics")["properties"]
    assert 0 <= shown["float accuracy"] <= 1
    log = simulated.first.tasks["Report"].log
    assert re.search(r"^  float16 .* passed$", log, re.MULTILINE)


def test_uris_in_metadata_are_those_of_the_object_store(simulated: Simulated) -> None:
    blessing = simulated.cluster.metadata(simulated.first, "Evaluator", "blessing")
    model = simulated.cluster.metadata(simulated.first, "Trainer", "model")
    assert blessing["properties"]["current_model"] == model["uri"]
    assert blessing["properties"]["blessed"] == 1
    assert "/minio/" not in json.dumps([blessing, model])


def test_the_examples_carry_the_driver_s_fingerprint(simulated: Simulated) -> None:
    examples = simulated.cluster.metadata(simulated.first, "ImportExampleGen", "examples")
    assert examples["properties"]["input_fingerprint"].startswith("split:train,")


def test_a_second_run_reuses_every_step_and_publishes_nothing_new(simulated: Simulated) -> None:
    before = releases(simulated.registry)
    second = simulated.cluster.run(simulated.pipeline, ROOT)
    assert second.states == {
        **dict.fromkeys(CACHED, "cached"),
        "Plan": "complete",
        "EdgePusher": "complete",
    }
    assert releases(simulated.registry) == before


def test_a_failing_gate_fails_the_run_at_the_last_step_and_publishes_nothing(
    simulated: Simulated,
) -> None:
    before = releases(simulated.registry)
    refused = simulated.cluster.run(simulated.pipeline, ROOT, {"min_accuracy": 0.999})
    assert refused.failed == ["EdgePusher"]
    assert refused.tasks["EdgePusher"].tries == 1
    assert refused.states["Trainer"] == "cached"
    assert refused.states["Report"] == "complete"
    verdict = Verdict.load(simulated.cluster.artifact(refused, "TFLiteEvaluator", "verdict"))
    assert verdict.deployed is not None
    assert [verdict.deployed.digest] == before, "compared with what the channel serves"
    log = refused.tasks["EdgePusher"].log
    assert "the gate was not passed, nothing was published:\n  float: accuracy is 0." in log
    assert log.endswith("exit code 3")
    assert "Traceback" not in log
    assert releases(simulated.registry) == before


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "data that is not there": (
        {"data_path": "/data/none"},
        "/data/none is not an ingested dataset",
    ),
    "a channel that may not be pushed to": (
        {"channel": "production"},
        "parameters: registry.channel: expected 'candidate' or 'canary'; received \"production\"",
    ),
    "a registry that is not there": (
        {"registry": "oci://127.0.0.1:1/models"},
        "registry.location: 127.0.0.1:1",
    ),
}


@pytest.mark.parametrize(("parameters", "message"), WRONG.values(), ids=WRONG)
def test_what_can_not_succeed_fails_at_the_first_step(
    parameters: dict[str, Any], message: str, simulated: Simulated
) -> None:
    run = simulated.cluster.run(simulated.pipeline, ROOT, parameters)
    assert run.failed == ["Plan"]
    assert run.tasks["Plan"].tries == 1
    log = run.tasks["Plan"].log
    assert message in log
    assert "Traceback" not in log


def artifact(simulated: Simulated, task: str, output: str) -> Path:
    return simulated.cluster.artifact(simulated.first, task, output)


def metrics(verdict: Verdict) -> dict[str, dict[tuple[str, str], float]]:
    """By model, metric and slice; times are the machine's, not the model's."""
    return {
        judged.variant: {
            (check.metric, check.slice): check.value
            for check in judged.checks
            if LATENCY not in check.metric
        }
        for judged in (verdict.float_model, *verdict.variants)
    }


def content(registry: Path) -> dict[str, Any]:
    """What a release holds, without the run's identity and what a clock said."""
    reader, release = opened(registry)
    statement = provenance(reader, release)["predicate"]["buildDefinition"]
    for dependency in statement["resolvedDependencies"]:
        # An installed copy is under no version control.
        dependency["digest"].pop("gitCommit", None)
        dependency.pop("annotations", None)
    return {
        "contract": release.contract,
        "models": {
            variant.name: (variant.model.digest, reader.read_golden(variant))
            for variant in release.variants
        },
        "verdict": metrics(Verdict.from_json(reader.read_verdict(release))),
        "made from": statement,
    }
