"""The compiled pipeline in a cluster does what the same pipeline does on a laptop."""

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
from pipeline.data.dataset import Dataset
from tests.conftest import Workspace, make_registry
from tests.kubeflow.conftest import ROOT, Ran
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
TENSORFLOW = re.compile(r"[0-9-]+ [0-9:.]+: [WE] (tensorflow|external)/")
NOISE = re.compile("cuda|FutureWarning|custom_properties|is not available").search


def test_every_step_runs_in_a_process_of_its_own(ran: Ran) -> None:
    assert set(ran.first.states.values()) == {"complete"}
    assert set(ran.first.states) == {*CACHED, "Plan", "EdgePusher"}


def test_the_metrics_are_those_of_the_local_run(workspace: Workspace, ran: Ran) -> None:
    local = Verdict.load(workspace.artifact("TFLiteEvaluator", "verdict"))
    there = Verdict.load(artifact(ran, "TFLiteEvaluator", "verdict"))
    assert metrics(there) == metrics(local)
    assert there.inputs_digest == local.inputs_digest
    assert there.publishable == local.publishable


def test_the_tflite_files_are_those_of_the_local_run_byte_for_byte(
    workspace: Workspace, ran: Ran
) -> None:
    local = TFLiteModelsFolder.load(workspace.artifact("TFLiteRewriter", "tflite_models"))
    there = TFLiteModelsFolder.load(artifact(ran, "TFLiteRewriter", "tflite_models"))
    assert [model.variant for model in there.models] == ["float32", "float16", "int8"]
    for model, same in zip(there.models, local.models, strict=True):
        assert there.path(model).read_bytes() == local.path(same).read_bytes()


def test_the_release_is_that_of_the_local_run_but_for_run_and_clock(
    workspace: Workspace, ran: Ran, tmp_path: Path
) -> None:
    """Published anew without what names the run and what a clock said, both have one digest."""
    local, there = timeless(workspace.registry), timeless(ran.registry)
    assert there == local, "what differs is easier to read here than in the digest"
    assert republished(workspace.registry, tmp_path / "here") == republished(
        ran.registry, tmp_path / "there"
    )


def test_the_release_says_who_made_it(ran: Ran) -> None:
    reader, release = opened(ran.registry)
    details = provenance(reader, release)["predicate"]["runDetails"]
    assert details["builder"]["id"] == "https://edgeline.dev/provenance/kubeflow-pipelines/v1"
    assert details["metadata"]["invocationId"] == ran.first.id


def test_the_report_and_its_metrics_are_for_kubeflow_s_pages(ran: Ran) -> None:
    page = artifact(ran, "Report", "report").read_bytes()
    assert page == (artifact(ran, "TFLiteEvaluator", "verdict") / "report.html").read_bytes()
    shown = ran.cluster.metadata(ran.first, "Report", "metrics")["properties"]
    assert 0 <= shown["float_accuracy"] <= 1
    assert not [name for name in shown if " " in name]
    log = ran.first.tasks["Report"].log
    assert re.search(r"^  float16 .* passed$", log, re.MULTILINE)


def test_confusion_and_roc_of_float_model_and_variant_are_for_kubeflow_s_pages(ran: Ran) -> None:
    verdict = Verdict.load(artifact(ran, "TFLiteEvaluator", "verdict"))
    shown = {
        output: ran.cluster.metadata(ran.first, "Report", output)["properties"]
        for output in ("float_model", "variant")
    }
    assert [each["model"] for each in shown.values()] == ["float", verdict.publishable[0]]
    for each in shown.values():
        (*_, last) = each["confidenceMetrics"]["list"]
        assert (last["falsePositiveRate"], last["recall"]) == (1.0, 1.0)
    matrix = shown["float_model"]["confusionMatrix"]["struct"]
    rows = tuple(tuple(map(int, each["row"])) for each in matrix["rows"])
    assert rows == verdict.float_model.confusion


def test_uris_in_metadata_are_those_of_the_object_store(ran: Ran) -> None:
    blessing = ran.cluster.metadata(ran.first, "Evaluator", "blessing")
    model = ran.cluster.metadata(ran.first, "Trainer", "model")
    assert blessing["properties"]["current_model"] == model["uri"]
    assert blessing["properties"]["blessed"] == 1
    assert "/minio/" not in json.dumps([blessing, model])


def test_no_image_goes_through_the_object_store(ran: Ran, workspace: Workspace) -> None:
    examples = ran.cluster.metadata(ran.first, "ImportExampleGen", "examples")
    assert ran.cluster.objects(examples["uri"]) == ["files.json"]
    dataset = Dataset.load(workspace.folder / "dataset")
    assert examples["properties"]["dataset_digest"] == dataset.digest


def test_a_second_run_reuses_every_step_and_publishes_nothing_new(ran: Ran) -> None:
    before = releases(ran.registry)
    second = ran.cluster.run(ran.pipeline, ROOT)
    assert second.states == {
        **dict.fromkeys(CACHED, "cached"),
        "Plan": "complete",
        "EdgePusher": "complete",
    }
    assert releases(ran.registry) == before


def test_a_failing_gate_fails_the_run_at_the_last_step_and_publishes_nothing(
    ran: Ran,
) -> None:
    before = releases(ran.registry)
    refused = ran.cluster.run(ran.pipeline, ROOT, {"min_accuracy": 0.999})
    assert refused.failed == ["EdgePusher"]
    assert refused.tasks["EdgePusher"].tries == 1
    judging = ("Plan", "Evaluator", "TFLiteEvaluator", "Report")
    assert refused.states == {
        **dict.fromkeys(CACHED, "cached"),
        **dict.fromkeys(judging, "complete"),
        "EdgePusher": "failed",
    }
    verdict = Verdict.load(ran.cluster.artifact(refused, "TFLiteEvaluator", "verdict"))
    assert verdict.deployed is None, "it is the model that the channel serves: not its own rival"
    log = refused.tasks["EdgePusher"].log
    assert "the gate was not passed, nothing was published:\n  float: accuracy is 0." in log
    assert log.splitlines()[-1].startswith("  "), "the objections are the last that it says"
    assert "Traceback" not in log
    assert releases(ran.registry) == before


def test_a_step_s_log_starts_with_what_the_step_does(ran: Ran) -> None:
    logs = {name: task.log.splitlines() for name, task in ran.first.tasks.items()}
    # This one asks for a GPU, so that TensorFlow says what it misses of CUDA.
    logs["Trainer"] = [line for line in logs["Trainer"] if not TENSORFLOW.match(line)]
    for name in set(logs) - {"Plan", "Report"}:
        assert re.match(r"INFO __main__: (reads|writes) \w+: minio://", logs[name][0]), logs[name]
    assert all(re.match("(INFO|WARNING) __main__: ", line) for line in logs["Plan"])
    assert logs["Report"][0].startswith("Metrics on the test split")
    assert {name: noise for name, log in logs.items() if (noise := list(filter(NOISE, log)))} == {}


def test_other_epochs_train_anew_and_reuse_what_comes_before(ran: Ran) -> None:
    parameters = {"epochs": 2, "registry": "/registry/other"}
    run = ran.cluster.run(ran.pipeline, ROOT, parameters)
    run.check()
    cached = {name for name, state in run.states.items() if state == "cached"}
    assert cached == set(CACHED[: CACHED.index("Trainer")])


def test_a_root_in_another_bucket_makes_every_step_anew_and_then_reuses_them(ran: Ran) -> None:
    root = "s3://models/artifacts"
    first = ran.cluster.run(ran.pipeline, root)
    first.check()
    assert set(first.states.values()) == {"complete"}
    second = ran.cluster.run(ran.pipeline, root)
    assert {name for name, state in second.states.items() if state == "cached"} == set(CACHED)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "data that is not there": (
        {"data_path": "/data/none"},
        "/data/none is not an ingested dataset",
    ),
    "a channel that may not be pushed to": (
        {"channel": "production"},
        'parameters: registry.channel: expected "candidate" or "canary"; received "production"',
    ),
    "a registry that is not there": (
        {"registry": "oci://127.0.0.1:1/models"},
        "registry.location: 127.0.0.1:1",
    ),
}


@pytest.mark.parametrize(("parameters", "message"), WRONG.values(), ids=WRONG)
def test_what_can_not_succeed_fails_at_the_first_step(
    parameters: dict[str, Any], message: str, ran: Ran
) -> None:
    run = ran.cluster.run(ran.pipeline, ROOT, parameters)
    assert run.failed == ["Plan"]
    assert run.tasks["Plan"].tries == 1
    log = run.tasks["Plan"].log
    assert message in log
    assert "Traceback" not in log


def artifact(ran: Ran, task: str, output: str) -> Path:
    return ran.cluster.artifact(ran.first, task, output)


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
        judged.pop("noisy", None)
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
    """The report without latencies, without what has a unit of time, and without run and dates."""
    report = re.sub(rb"<dt>(run|judged|trained)</dt>\s*<dd>.*?</dd>", b"", report)
    for tag, word in ((b"figure", b"Accuracy against latency"), (b"tr", b"latency")):
        element = b"<%b\\b(?:(?!</%b>).)*%b.*?</%b>" % (tag, tag, word, tag)
        report = re.sub(element, b"", report, flags=re.DOTALL)
    of_latency = rb"[0-9.]+ m?s\b|half within [0-9.]+ to [0-9.]+|(, )?noisy: the machine was busy"
    return re.sub(of_latency, b"", report)


def republished(registry: Path, folder: Path) -> str:
    """The digest of the release when it is published with nothing of run and clock."""
    reader, release = opened(registry)
    make_registry(folder, release.model)
    variants = []
    for variant in release.variants:
        model = folder / f"{variant.name}.tflite"
        model.write_bytes(reader.read_model(variant))
        golden, sketch = reader.read_golden(variant), reader.read_sketch(variant)
        variants.append(VariantFiles(variant.name, model, golden, sketch))
    store = open_for_writing(str(folder / "registry"))
    root = (folder / "keys" / "root.json").read_bytes()
    parts = timeless(registry)
    return publish(
        Repository(store, root=root, signers=Signers.load([str(folder / "keys")])),
        model=release.model,
        channel="candidate",
        variants=variants,
        preprocessing=release.contract,
        verdict=parts.verdict,
        report=parts.report,
        provenance=parts.provenance,
    ).digest
