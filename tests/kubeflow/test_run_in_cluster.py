"""The compiled pipeline in a simulated cluster does what the same pipeline does on a laptop."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.tflite_models import TFLiteModelsFolder
from components.verdict import Verdict
from edgeline._json import dump_canonical
from edgeline.publish.keys import Signers
from edgeline.publish.release import VariantFiles, publish
from edgeline.publish.repository import Repository
from edgeline.publish.store import open_for_writing
from tests.conftest import Workspace, make_registry
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
    "TFLitePredictor",
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
    workspace: Workspace, simulated: Simulated, tmp_path: Path
) -> None:
    """Published anew without what names the run and what a clock said, both have one digest."""
    local, there = timeless(workspace.registry), timeless(simulated.registry)
    assert there == local, "what differs is easier to read here than in the digest"
    assert republished(workspace.registry, tmp_path / "here") == republished(
        simulated.registry, tmp_path / "there"
    )


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


@dataclass(frozen=True)
class Timeless:
    """The parts of a release that tell of its run, without what names the run or is of a clock."""

    verdict: bytes
    report: bytes
    provenance: bytes


def timeless(registry: Path) -> Timeless:
    reader, release = opened(registry)
    verdict = json.loads(reader.read_verdict(release))
    for judged in (verdict["float"], *verdict["variants"]):
        judged["checks"] = [c for c in judged["checks"] if LATENCY not in c["metric"]]
        del judged["latency_ms"]
    report = reader.read_report(release)
    assert report is not None
    statement = provenance(reader, release)
    del statement["predicate"]["runDetails"]  # who, when, and the digests of the two above
    for dependency in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
        if dependency["name"] == "code":
            # Only a checkout knows its revision; the code's digest is the same.
            dependency["digest"].pop("gitCommit", None)
            dependency.pop("annotations", None)
    return Timeless(dump_canonical(verdict), without_times(report), dump_canonical(statement))


def without_times(report: bytes) -> bytes:
    """The report without its chart of latencies, rows of latencies, and what has a unit of time."""
    for tag, word in ((b"figure", b"Accuracy against latency"), (b"tr", b"latency")):
        element = b"<%b\\b(?:(?!</%b>).)*%b.*?</%b>" % (tag, tag, word, tag)
        report = re.sub(element, b"", report, flags=re.DOTALL)
    return re.sub(rb"[0-9.]+ m?s\b", b"", report)


def republished(registry: Path, folder: Path) -> str:
    """The digest of the release when it is published with nothing of run and clock."""
    reader, release = opened(registry)
    make_registry(folder, release.model)
    variants = []
    for variant in release.variants:
        model = folder / f"{variant.name}.tflite"
        model.write_bytes(reader.read_model(variant))
        variants.append(VariantFiles(variant.name, model, reader.read_golden(variant)))
    store = open_for_writing(str(folder / "registry"))
    root = (folder / "keys" / "root.json").read_bytes()
    parts = timeless(registry)
    return publish(
        store,
        Repository(store, root=root, signers=Signers.load([str(folder / "keys")])),
        model=release.model,
        channel="candidate",
        variants=variants,
        preprocessing=release.contract,
        verdict=parts.verdict,
        report=parts.report,
        provenance=parts.provenance,
    ).digest
