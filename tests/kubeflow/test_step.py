"""The entry point's translation between Kubeflow and TFX."""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor
from tfx.types.artifact import Artifact

from pipeline.errors import UserError
from pipeline.orchestration.kubeflow import invocation, staging, step
from pipeline.orchestration.kubeflow.invocation import ExecutorInput, main_of
from pipeline.orchestration.kubeflow.names import OUTPUTS_SPEC, SHARED
from pipeline.orchestration.kubeflow.plan import configured
from pipeline.orchestration.kubeflow.staging import map_artifacts, staged, unstaged

RUN = "8c7a0104-cd0d-4bb9-9748-be89be4bb6db"
SALT = "0f0f0f0f-0000-4000-8000-000000000000"

URIS = {
    "minio://mlpipeline/v2/x": "/minio/mlpipeline/v2/x",
    "s3://bucket/x": "/s3/bucket/x",
    "gs://bucket/x": "/gcs/bucket/x",
}


@pytest.mark.parametrize(("uri", "folder"), URIS.items())
def test_a_uri_becomes_the_launcher_s_folder_and_back(uri: str, folder: str) -> None:
    assert staged(uri) == folder
    assert unstaged(folder) == uri


@pytest.mark.parametrize("text", ["", "oci://host/x", "/data/x", "minio", "a minio://b"])
def test_any_other_string_is_left_alone(text: str) -> None:
    assert staged(text) == text
    assert unstaged(text) == text


def test_metadata_is_mapped_too_and_loses_its_nulls() -> None:
    artifacts = {
        "blessing": {
            "artifacts": [
                {
                    "uri": "/s3/b/blessing",
                    "metadata": {
                        "current_model": "/s3/b/model",
                        "baseline_model": None,
                        "blessed": 1,
                        "nested": {"uris": ["/s3/b/x"], "nothing": None},
                    },
                }
            ]
        }
    }
    map_artifacts(artifacts, unstaged)
    (artifact,) = artifacts["blessing"]["artifacts"]
    assert artifact == {
        "uri": "s3://b/blessing",
        "metadata": {
            "current_model": "s3://b/model",
            "blessed": 1,
            "nested": {"uris": ["s3://b/x"]},
        },
    }


def executor_input(output: str) -> ExecutorInput:
    return ExecutorInput(
        json.dumps(
            {"outputs": {"artifacts": {"model": {"artifacts": [{"name": "model", "uri": output}]}}}}
        )
    )


@pytest.mark.parametrize(
    "uri",
    [
        f"minio://mlpipeline/v2/artifacts/cells/{RUN}/Trainer/{SALT}/model",
        f"minio://mlpipeline/v2/artifacts/cells/{RUN}/Trainer/model",  # before 2.4
    ],
)
def test_the_run_s_id_is_in_the_uris_of_its_artifacts(uri: str) -> None:
    assert executor_input(uri).run_id == RUN


def test_without_one_there_is_none() -> None:
    assert executor_input("s3://bucket/model").run_id is None


@pytest.mark.parametrize("blank", [{}, {"type": {}}, {"type": {"instanceSchema": ""}}])
def test_a_blank_type_is_filled_from_the_component(blank: dict[str, Any]) -> None:
    declared = {"instanceSchema": "title: tfx.Model"}
    artifacts = {"model": {"artifacts": [copy.deepcopy(blank)]}}
    step._fill_types(artifacts, {"artifacts": {"model": {"artifactType": declared}}})
    assert artifacts["model"]["artifacts"][0]["type"] == declared


def test_a_type_that_is_there_stays() -> None:
    artifacts = {"model": {"artifacts": [{"type": {"schemaTitle": "tfx.Model"}}]}}
    step._fill_types(artifacts, {})
    assert artifacts["model"]["artifacts"][0]["type"] == {"schemaTitle": "tfx.Model"}


def test_on_vertex_tfx_s_own_entry_point_gets_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"outputs": {"outputFile": "gs://bucket/job/executor_output.json"}})
    arguments = ["--executor_class_path", "a.B", "--json_serialized_invocation_args", text]
    arguments += ["--json_serialized_inputs_spec_args", "{}", OUTPUTS_SPEC, "{}"]
    arguments += ["--runner=DataflowRunner"]
    handed: list[Any] = []
    monkeypatch.setattr(kubeflow_v2_run_executor, "main", handed.append)
    step.run(arguments)
    ((options, beam_args),) = handed
    assert options.json_serialized_invocation_args == text
    assert beam_args == ["--runner=DataflowRunner"]


class Recorder(BaseExecutor):
    """A step that writes down what it is given."""

    def Do(  # noqa: N802 - TFX's name
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        ((base,), (model,)) = input_dict["base"], output_dict["model"]
        files = {file.name: file.read_text() for file in Path(base.uri).glob("*")}
        given = [sorted(input_dict), sorted(output_dict), exec_properties, files, model.uri]
        model.set_string_custom_property("base", base.uri)
        Path(model.uri, "given.json").write_text(json.dumps(given))


def artifact(path: Path, **fields: Any) -> dict[str, Any]:
    title = {"instanceSchema": "title: tfx.Model"}
    return {"artifacts": [{"uri": str(path), "type": title, **fields}]}


def run_recorder(message: dict[str, Any], *arguments: str) -> None:
    """Runs a step that declares `base`, `epochs` and `model`."""
    model = {"artifactType": {"instanceSchema": "title: tfx.Model"}}
    epochs = {"epochs": {"parameterType": "NUMBER_INTEGER"}}
    inputs = {"artifacts": {"base": model}, "parameters": epochs}
    step.run(
        [
            *("--executor_class_path", f"{__name__}.{Recorder.__name__}"),
            *("--json_serialized_invocation_args", json.dumps(message)),
            *("--json_serialized_inputs_spec_args", json.dumps(inputs)),
            *(OUTPUTS_SPEC, json.dumps({"artifacts": {"model": model}})),
            *arguments,
        ]
    )


def given_to(folder: Path, message: dict[str, Any]) -> list[Any]:
    """Runs that step; returns the names of its inputs and outputs, and its settings."""
    run_recorder(message)
    output = json.loads((folder / "output.json").read_text())
    assert list(output["artifacts"]) == ["model"]
    given: list[Any] = json.loads((folder / "model" / "given.json").read_text())
    return given[:3]


@pytest.fixture
def message(tmp_path: Path) -> dict[str, Any]:
    """What Kubeflow hands over as it is installed, with the log that nobody declares."""
    log = artifact(tmp_path / "executor-logs-0", type={"schemaTitle": "system.Artifact"})
    return {
        "inputs": {
            "artifacts": {"base": artifact(tmp_path / "base", type={"instanceSchema": ""})},
            "parameterValues": {"epochs": 3},
        },
        "outputs": {
            "artifacts": {"model": artifact(tmp_path / "model"), "executor-logs": log},
            "outputFile": str(tmp_path / "output.json"),
        },
    }


def test_the_log_that_the_launcher_has_open_is_left_alone(
    message: dict[str, Any], tmp_path: Path
) -> None:
    log = tmp_path / "executor-logs-0"
    log.write_text("so far")
    assert given_to(tmp_path, message) == [["base"], ["model"], {"epochs": 3}]
    assert log.read_text() == "so far"


def test_whatever_a_later_driver_adds_is_ignored(message: dict[str, Any], tmp_path: Path) -> None:
    later = artifact(tmp_path / "later", type={"instanceSchema": ""})
    inputs, outputs = message["inputs"], message["outputs"]
    inputs["artifacts"] |= {"later": later, "none": {}}
    inputs["parameterValues"]["later"] = "value"
    outputs["artifacts"] |= {"later": later, "none": {}}
    outputs["parameters"] = {"later": {"outputFile": str(tmp_path / "parameter")}}
    model = outputs["artifacts"]["model"]
    for each in (message, inputs, outputs, model, model["artifacts"][0]):
        each["field"] = {"later": 1}
    assert given_to(tmp_path, message) == [["base"], ["model"], {"epochs": 3}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "output.json"]


def test_a_distributed_runner_s_workers_find_everything_on_the_shared_volume(
    message: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, volume = tmp_path / "store", tmp_path / "volume"
    monkeypatch.setattr(staging, "_FOLDERS", {"minio://": f"{store}/"})
    (store / "base").mkdir(parents=True)
    (store / "base" / "weights").write_text("weights")
    volume.mkdir()
    (base,) = message["inputs"]["artifacts"]["base"]["artifacts"]
    (model,) = message["outputs"]["artifacts"]["model"]["artifacts"]
    base["uri"], model["uri"] = "minio://base", "minio://model"
    run_recorder(message, "--runner=FlinkRunner", SHARED, str(volume))
    output = json.loads((tmp_path / "output.json").read_text())
    (made,) = output["artifacts"]["model"]["artifacts"]
    assert made["uri"] == "minio://model"
    assert made["metadata"]["base"] == "minio://base"
    found = json.loads((store / "model" / "given.json").read_text())
    assert found[3] == {"weights": "weights"}
    assert Path(found[4]).is_relative_to(volume)
    assert list(volume.iterdir()) == [], "nothing is left there"


def test_the_output_message_s_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "kfp_outputs" / "output_metadata.json"
    ExecutorInput(json.dumps({"outputs": {"outputFile": str(file)}})).write_output({"a": 1})
    assert json.loads(file.read_text()) == {"a": 1}


def test_our_own_errors_are_a_message_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def work(arguments: list[str]) -> None:
        raise UserError("the gate is closed")

    with pytest.raises(SystemExit) as caught:
        main_of(work)
    assert caught.value.code == UserError.exit_code
    assert capsys.readouterr().err == "the gate is closed\n"


def test_other_errors_have_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    def work(arguments: list[str]) -> None:
        raise RuntimeError("bug")

    with pytest.raises(SystemExit) as caught:
        main_of(work)
    assert caught.value.code == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_log_has_what_the_step_says_and_the_warnings_of_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(arguments: list[str]) -> None:
        for name in ("absl", "tensorflow", "components.tflite_rewriter"):
            logging.getLogger(name).setLevel(logging.INFO)  # as TFX does
            logging.getLogger(name).info("done")
            logging.getLogger(name).warning("odd")

    root, tensorflow = logging.getLogger(), logging.getLogger("tensorflow")
    before = root.handlers[:], root.level, tensorflow.handlers[:]
    # As libraries leave them.
    root.handlers = [logging.StreamHandler()]
    tensorflow.handlers = [logging.StreamHandler()]
    try:
        main_of(work)
    finally:
        root.handlers, root.level, tensorflow.handlers = before
    assert capsys.readouterr().err.splitlines() == [
        "WARNING absl: odd",
        "WARNING tensorflow: odd",
        "INFO components.tflite_rewriter: done",
        "WARNING components.tflite_rewriter: odd",
    ]


def test_a_passphrase_is_read_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "passphrase").write_text("correct horse\n")
    monkeypatch.setattr(invocation, "PASSPHRASE_FILE", tmp_path / "passphrase")
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(sys, "argv", ["step"])
    main_of(lambda arguments: None)
    assert os.environ == {"EDGELINE_PASSPHRASE": "correct horse"}


def test_parameters_replace_settings_and_are_checked_as_such(tmp_path: Path) -> None:
    document = {
        "name": "cells",
        "data": {"path": "/data/dataset"},
        "gate": {"min_accuracy": 0.9},
        "registry": {},
        "trainer": {},
    }
    given = {
        "config": json.dumps(document),
        "root": "{}",
        "baseline_digest": "",
        "data_path": "/data/new",
        "registry": "oci://host/models",
        "channel": "canary",
        "epochs": 3,
        "min_accuracy": 0.5,
        "max_drop": 0.02,
        "what a later driver adds": 1,
    }
    config = configured(given, tmp_path / "root.json")
    assert (config.data.path, config.trainer.epochs) == (Path("/data/new"), 3)
    assert (config.publishing.location, config.publishing.channel) == (
        "oci://host/models",
        "canary",
    )
    assert (config.gate.min_accuracy, config.gate.max_drop) == (0.5, 0.02)
    with pytest.raises(UserError, match=r"parameters: gate\.min_accuracy: expected .*received 2"):
        configured({**given, "min_accuracy": 2}, tmp_path / "root.json")


REACHABLE = {
    "an object store that TFX can't read": ("s3://bucket/model", "tfx.components.Evaluator", False),
    "a step of ours, which works on folders": ("gs://b/model", "components.x.Executor", False),
    "a step of TFX's on gs://": ("gs://b/model", "tfx.components.Evaluator", True),
}


@pytest.mark.parametrize(("uri", "executor", "fits"), REACHABLE.values(), ids=REACHABLE)
def test_a_distributed_runner_needs_artifacts_that_its_workers_see(
    uri: str, executor: str, fits: bool
) -> None:
    runner = step.distributed_runner(["--runner=FnApiRunner", "--runner=FlinkRunner"])
    assert runner == "FlinkRunner"
    if fits:
        step._check_reachable(runner, executor, executor_input(uri))
        return
    with pytest.raises(UserError, match=r"^--runner=FlinkRunner: its workers can't see"):
        step._check_reachable(runner, executor, executor_input(uri))


@pytest.mark.parametrize("arguments", [[], ["--runner=FnApiRunner"], ["--runner=DirectRunner"]])
def test_by_default_the_pod_does_the_work(arguments: list[str]) -> None:
    assert step.distributed_runner(arguments) is None
