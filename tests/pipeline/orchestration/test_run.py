"""The whole path on real images: what a run prints, publishes, reuses and refuses."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from nbclient import NotebookClient

from components.examples import serialized_examples
from components.tflite_models import TFLiteModelsFolder
from components.tflite_rewriter.metadata import read_labels
from components.verdict import OVERALL, Verdict, metric_value
from edgeline import Classifier
from edgeline._files import sha256_of
from edgeline.cli import main
from edgeline.drift import Sketch
from edgeline.golden import Golden
from edgeline.golden import check as check_golden
from edgeline.key_files import read_public_key
from edgeline.publish.provenance import verify
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import open_store
from edgeline.registry.trust import TrustedChannels
from edgeline.runtime.interpreter import PixelModel
from pipeline import api
from tests.conftest import Workspace, command

PROJECT = Path(api.__file__).parents[1]
# In the place of those that take the demo's images and its configuration.
WORKSPACE_PARAMETERS = """\
photos, dataset, exported = Path("elpv/labels.csv"), "dataset", "exported"
config = api.configure("cells.toml")
"""
STEPS = (
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
    "EdgePusher",
)


def states(output: str) -> dict[str, str]:
    """The last state of each step, from what a run printed."""
    return dict(re.findall(r"^  (\w+) +(running|done|cached|failed)\b", output, re.MULTILINE))


def test_each_step_says_that_it_runs_and_then_that_it_is_done(workspace: Workspace) -> None:
    for step in STEPS:
        assert re.search(rf"^  {step} +running\n", workspace.first.stdout, re.MULTILINE)
        assert re.search(rf"^  {step} +done +[0-9.]+ s\n", workspace.first.stdout, re.MULTILINE)


def test_the_libraries_chatter_is_in_the_log_and_nowhere_else(workspace: Workspace) -> None:
    shown = workspace.first.stdout + workspace.first.stderr
    assert "WARNING" not in shown
    assert not re.search("deprecat|end.of.life", shown, re.IGNORECASE)
    assert "tensorflow/" not in shown
    (path,) = re.findall(r"^log: (.+)$", workspace.first.stdout, re.MULTILINE)
    assert "tensorflow" in (workspace.folder / path).read_text(errors="replace")


def test_a_gate_below_the_majority_class_is_warned_about(workspace: Workspace) -> None:
    assert "gate.min_accuracy = 0.3 gates nothing" in workspace.first.stdout


def test_the_summary_names_metrics_variants_and_release(workspace: Workspace) -> None:
    summary = workspace.first.stdout
    assert re.search(r"^  accuracy( +0\.\d+){4} +>= 0\.3000$", summary, re.MULTILINE)
    assert re.search(r"^  float16 +1[34]\.\d MB .* passed$", summary, re.MULTILINE)
    assert re.search(r"^  int8 +[78]\.\d MB .* (not )?passed$", summary, re.MULTILINE)
    assert "No release is deployed yet" in summary
    # Whatever was trained: of 67 images, on which float32 says what the float model says.
    unproved = r"float32: not proved: accuracy drop is 0\.0000, .* it takes about 109 images"
    assert re.search(unproved, summary)
    assert "cells v1 in registry, channel candidate (new release" in summary


@pytest.fixture(scope="module")
def notebook(workspace: Workspace) -> dict[str, str]:
    """The docs' notebook, run in the workspace, whose run it repeats: cells' output by source."""
    document = nbformat.read(PROJECT / "docs" / "notebook.ipynb", as_version=4)
    (parameters,) = [c for c in document.cells if "parameters" in c.metadata.get("tags", ())]
    parameters.source = WORKSPACE_PARAMETERS
    NotebookClient(
        document, kernel_name="python3", resources={"metadata": {"path": str(workspace.folder)}}
    ).execute()
    return {cell.source: shown(cell) for cell in document.cells if cell.cell_type == "code"}


def shown(cell: Any) -> str:
    """What a cell printed, and what it shows of its result, as HTML if it has that."""
    texts = [out.text for out in cell.outputs if out.output_type == "stream"]
    data = [out.data for out in cell.outputs if "data" in out]
    return "".join([*texts, *(each.get("text/html", each["text/plain"]) for each in data)])


def test_a_second_run_reuses_every_step_and_publishes_nothing_new(
    workspace: Workspace, notebook: dict[str, str]
) -> None:
    said = notebook["run = api.run(config)\nrun"]
    expected = {**dict.fromkeys(STEPS, "cached"), "EdgePusher": "done"}
    assert states(said) == expected
    assert "already the same release" in said
    assert [tag for tag, _ in releases(workspace)] == ["v1"]


def test_the_notebook_shows_progress_and_not_the_libraries_chatter(
    notebook: dict[str, str],
) -> None:
    said = notebook["run = api.run(config)\nrun"]
    assert re.search(r"^  Trainer +cached +[0-9.]+ s$", said, re.MULTILINE)
    assert "loading TFX" in said
    assert not re.search(r"WARNING|tensorflow/|absl|Traceback", "".join(notebook.values()))


def test_the_notebook_shows_data_metrics_models_and_pages(
    workspace: Workspace, notebook: dict[str, str]
) -> None:
    def output(beginning: str) -> str:
        (found,) = [text for source, text in notebook.items() if source.startswith(beginning)]
        return found

    assert "260 images, up to date" in output("ingested = ")
    assert output("ingested.page").startswith('<iframe sandbox="allow-scripts" srcdoc=')
    assert "cell_type=mono" in output("run.metrics")
    assert "fine_tune/val_accuracy" in output("run.curves")
    assert "confusion" in output("run.report").lower()
    assert "(None, 32, 32, 3), (None, 2)" in output("model = run.model")
    assert "defective" in output("said = run.predictions")
    assert "float16" in output("run.export")
    assert (workspace.folder / "exported" / "float16.tflite").is_file()
    assert "nothing: all cached" in output("history = ")


def test_the_keras_model_says_what_the_signature_says(workspace: Workspace) -> None:
    run = api.runs(workspace.config).last_judged()
    pixels = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    said = saved_model(workspace).signatures["pixels"](pixels=pixels)["probabilities"]
    np.testing.assert_allclose(run.model(pixels), said, atol=1e-5)


def test_a_raised_gate_ends_with_exit_code_3_and_the_old_release_is_served(
    workspace: Workspace,
) -> None:
    before = releases(workspace)
    refused = workspace.run(
        "--set", "gate.min_accuracy=0.999", "--set", "gate.min_slice_accuracy.cell_type=0.99"
    )
    assert refused.returncode == 3, refused.stdout
    judged = {"Evaluator": "done", "TFLiteEvaluator": "done", "EdgePusher": "failed"}
    assert states(refused.stdout) == {**dict.fromkeys(STEPS, "cached"), **judged}
    missed = r"is 0\.\d{4}, 0\.\d{4} below the minimum of"
    assert re.search(rf"float: accuracy {missed} 0\.9990", refused.stdout)
    assert re.search(rf"float: accuracy on cell_type=(mono|poly) {missed} 0\.9900", refused.stdout)
    assert "Traceback" not in refused.stdout + refused.stderr
    (decided,) = Verdict.load(workspace.artifact("TFLiteEvaluator", "verdict")).variants[:1]
    decisions = {
        check.metric: (check.decision, check.images_needed)
        for check in decided.checks
        if check.threshold is not None and check.slice == OVERALL
    }
    assert decisions == {"accuracy": ("failed", None), "accuracy drop": ("not proved", 109)}
    assert releases(workspace) == before
    with classifier(workspace) as served:
        assert served.tag == "v1"


def test_the_device_predicts_what_the_saved_model_serves(workspace: Workspace) -> None:
    """At least 50 real images, from their files on one side, from raw examples on the other."""
    examples = held_out_examples(workspace)
    assert len(examples) >= 50
    serving = saved_model(workspace).signatures["serving_default"]
    served = serving(examples=tf.constant(examples))["probabilities"].numpy()
    with classifier(workspace) as device:
        paths = [workspace.folder / "elpv" / feature(e, "source").decode() for e in examples]
        predicted = np.stack([device.predict(path).probabilities for path in paths])
    np.testing.assert_allclose(predicted, served, atol=0.01)
    assert served.std(axis=0).min() > 0.02, "constant predictions would agree whatever happened"


def test_the_signatures_are_those_of_the_contract(workspace: Workspace) -> None:
    signatures = saved_model(workspace).signatures
    assert set(signatures) == {"serving_default", "pixels", "features", "transform_features"}
    pixels = signatures["pixels"].structured_input_signature[1]["pixels"]
    assert (pixels.shape.as_list(), pixels.dtype) == ([None, 32, 32, 3], tf.float32)
    features = signatures["transform_features"](
        examples=tf.constant(held_out_examples(workspace)[:3])
    )
    assert features["pixels"].shape == (3, 32, 32, 3)
    assert features["label_id"].dtype == tf.int64


def test_each_variant_is_on_record_with_its_digest_and_metadata(workspace: Workspace) -> None:
    models = TFLiteModelsFolder.load(workspace.artifact("TFLiteRewriter", "tflite_models"))
    assert [model.variant for model in models.models] == ["float32", "float16", "int8"]
    for model in models.models:
        path = models.path(model)
        assert model.sha256 == sha256_of(path)
        assert model.bytes == path.stat().st_size
        assert read_labels(path.read_bytes()) == ("defective", "functional")


def test_the_evaluator_and_the_verdict_agree_on_the_float_model(workspace: Workspace) -> None:
    result = tfma.load_eval_result(str(workspace.artifact("Evaluator", "evaluation")))
    overall = result.get_metrics_for_slice()
    verdict = Verdict.load(workspace.artifact("TFLiteEvaluator", "verdict"))
    checks = verdict.float_model.checks
    assert overall["example_count"]["doubleValue"] == verdict.examples
    assert overall["accuracy"]["doubleValue"] == metric_value(checks, "accuracy")
    by_slice = result.get_metrics_for_slice((("cell_type", "mono"),))["accuracy"]["doubleValue"]
    assert by_slice == metric_value(checks, "accuracy", "cell_type=mono")


def test_the_release_holds_verdict_report_and_contract_and_only_what_passed(
    workspace: Workspace,
) -> None:
    reader, release = served(workspace)
    assert (release.contract.height, release.contract.width) == (32, 32)
    assert release.contract.labels == ("defective", "functional")
    verdict = Verdict.from_json(reader.read_verdict(release))
    assert {"float32", "float16"} <= set(verdict.passed)
    names = [variant.name for variant in release.variants]
    assert sorted(names) == sorted(verdict.passed)
    assert names == [*verdict.fastest_first]
    report = reader.read_report(release)
    assert report is not None
    assert b"<!doctype html>" in report[:20].lower()


def test_the_release_says_what_it_was_made_from_and_how_it_did(workspace: Workspace) -> None:
    reader, release = served(workspace)
    envelope = reader.read_provenance(release)
    assert envelope is not None
    provenance = verify(envelope, [read_public_key(workspace.root.parent / "cells-ci.pub")])
    assert provenance.subjects == {
        variant.name: variant.model.digest.removeprefix("sha256:") for variant in release.variants
    }
    predicate = provenance.statement["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    config = definition["externalParameters"]["config"]
    assert (config["trainer"]["epochs"], config["gate"]["require"]) == (20, ["float16"])
    made_from = {each["name"]: each for each in definition["resolvedDependencies"]}
    dataset = json.loads((workspace.folder / "dataset" / "ingest_report.json").read_text())
    assert made_from["dataset"]["digest"] == {"sha256": dataset["digest"]}
    assert sum(made_from["dataset"]["annotations"]["images"].values()) == 260
    assert re.fullmatch(r"[0-9a-f]{64}", made_from["code"]["digest"]["sha256"])
    assert re.match(r"\d{4}-\d\d-\d\dT", details["metadata"]["invocationId"])
    metrics = details["byproducts"][0]["annotations"]["metrics"]
    verdict = Verdict.from_json(reader.read_verdict(release))
    for judged in verdict.variants:
        if judged.passed:
            accuracy = metric_value(judged.checks, "accuracy")
            assert metrics[judged.variant]["accuracy"] == accuracy


def test_no_path_of_this_machine_leaves_with_a_release(workspace: Workspace) -> None:
    reader, release = served(workspace)
    for content in (reader.read_provenance(release), reader.read_verdict(release)):
        assert content is not None
        statement = json.loads(content)
        payload = base64.b64decode(statement.get("payload", "")) or content
        assert str(workspace.folder).encode() not in payload
        assert str(Path.home()).encode() + b"/" not in payload


def test_each_variant_brings_a_golden_pair_that_it_passes(workspace: Workspace) -> None:
    reader, release = served(workspace)
    images = Verdict.from_json(reader.read_verdict(release)).examples
    for variant in release.variants:
        golden, sketch = reader.read_golden(variant), reader.read_sketch(variant)
        assert golden is not None
        assert sketch is not None
        assert Sketch.from_json(sketch, classes=2).images == images
        model = PixelModel(
            reader.read_model(variant), height=32, width=32, classes=2, num_threads=2
        )
        check_golden(model, release.contract, Golden.from_json(golden))


def test_the_report_can_be_written_to_a_file(workspace: Workspace) -> None:
    done = command(workspace.folder, "report", "--config", "cells.toml", "--output", "cells.html")
    assert done.returncode == 0, done.stderr
    page = (workspace.folder / "cells.html").read_text()
    for word in ("float16", "int8", "defective", "cell_type", "trainer.epochs"):
        assert word in page
    dataset = json.loads((workspace.folder / "dataset" / "ingest_report.json").read_text())
    assert dataset["digest"] in page
    for when in ("judged", "data, written", "trained"):
        assert re.search(rf"<dt>{when}</dt><dd>20\d\d-\d\d-\d\d \d\d:\d\d UTC</dd>", page)
    assert str(workspace.folder) not in page


def test_the_calibration_images_are_on_record_and_balanced(workspace: Workspace) -> None:
    folder = workspace.artifact("TFLiteRewriter", "tflite_models")
    calibration = json.loads((folder / "calibration.json").read_text())
    assert calibration["split"] == "train"
    files = list(map(str, (workspace.folder / "dataset" / "train").iterdir()))
    labels = {
        feature(record, "image_id").decode(): feature(record, "label")
        for record in serialized_examples(files).as_numpy_iterator()
    }
    chosen = [labels[image_id] for image_id in calibration["image_ids"]]
    assert (chosen.count(b"defective"), chosen.count(b"functional")) == (20, 20)


def test_ingest_told_what_it_wrote(workspace: Workspace) -> None:
    assert "260 images found in 2 classes" in workspace.ingested.stdout
    report = json.loads((workspace.folder / "dataset" / "ingest_report.json").read_text())
    assert report["slice_keys"] == ["cell_type"]
    assert "tensorflow/" not in workspace.ingested.stdout + workspace.ingested.stderr


def test_a_person_promotes_what_the_pipeline_may_not(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a copy, as other tests look at this registry too."""
    registry, keys = str(tmp_path / "registry"), workspace.root.parent
    shutil.copytree(workspace.registry, registry)
    promote = ["registry", "promote", registry, "cells", "--from", "candidate"]
    promote += ["--to", "production", "--yes", "--root", str(workspace.root)]
    pipeline_s = ["--key", str(keys / "cells-ci.pem"), "--key", str(keys / "online.pem")]
    assert main([*promote, *pipeline_s]) == 3
    assert "cells-release" in capsys.readouterr().err
    person_s = ["--key", str(keys / "cells-release.pem"), "--key", str(keys / "online.pem")]
    assert main([*promote, *person_s]) == 0
    with Classifier.from_registry(
        registry, "cells", root=workspace.root, state=tmp_path / "state"
    ) as production:
        assert production.tag == "v1"


def releases(workspace: Workspace) -> list[tuple[str, str]]:
    reader = RegistryReader(open_store(str(workspace.registry)))
    opened = map(reader.open_version, reader.versions())
    return [(release.tag, release.digest) for release in opened]


def served(workspace: Workspace) -> tuple[RegistryReader, Release]:
    """What a device finds on the channel, which it trusts by the root alone."""
    store = open_store(str(workspace.registry))
    state = workspace.folder / "state"
    channels = TrustedChannels(store, root=workspace.root.read_bytes(), state=state)
    reader = RegistryReader(store)
    return reader, reader.open_channel(channels, "cells", "candidate")


def classifier(workspace: Workspace) -> Classifier:
    return Classifier.from_registry(
        workspace.registry,
        model="cells",
        channel="candidate",
        root=workspace.root,
        state=workspace.folder / "state",
        variant="float16",
    )


def saved_model(workspace: Workspace) -> tf.Module:
    return tf.saved_model.load(str(workspace.artifact("Trainer", "model") / "Format-Serving"))


def held_out_examples(workspace: Workspace) -> list[bytes]:
    files = sorted(map(str, Path(workspace.folder, "dataset", "test").iterdir()))
    return list(serialized_examples(files).as_numpy_iterator())


def feature(example: bytes, name: str) -> bytes:
    value: bytes = tf.train.Example.FromString(example).features.feature[name].bytes_list.value[0]
    return value
