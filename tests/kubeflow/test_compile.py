"""What `kubeflow/compile.py` makes of the pipeline, and what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import Config, load_config, parse_config
from pipeline.errors import UserError
from pipeline.orchestration.kubeflow.checks import check
from pipeline.orchestration.kubeflow.compiler import ALONE, Compiled, compile_pipeline
from pipeline.orchestration.kubeflow.names import INPUTS_SPEC, SHARED, STEP
from pipeline.orchestration.kubeflow.step import _parse
from tests.conftest import odd_checkout
from tests.kubeflow.argo import tried_again
from tests.kubeflow.conftest import IMAGE, compiled

Document = dict[str, Any]
TRAINER = {
    "cpu": 4,
    "memory_gb": 8,
    "gpu_count": 2,
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "retries": 1,
}

TOLERATION = {"key": "a", "operator": "Exists", "value": "b"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trusted root; compiling only passes it on."""
    file = tmp_path_factory.mktemp("keys") / "root.json"
    file.write_text("{}")
    return file


def configuration(root: Path, **sections: dict[str, Any]) -> Config:
    document: Document = {
        "name": "cells",
        "data": {"path": "dataset"},
        "gate": {"min_accuracy": 0.9, "max_size_mb": 30.0, "min_recall": {"cat": 0.8}},
        "registry": {
            "location": "oci://registry.example/models",
            "root": str(root),
            **sections.pop("registry", {}),
        },
        "kubeflow": {
            "signing_keys": "signing-keys",
            "registry_login": "registry-login",
            "steps": {"Trainer": TRAINER},
            **sections.pop("kubeflow", {}),
        },
        **sections,
    }
    return parse_config(document, "cells.toml")


@pytest.fixture(scope="module")
def pipeline(root: Path) -> Compiled:
    return compile_pipeline(configuration(root), IMAGE)


@pytest.fixture(scope="module")
def searching(root: Path) -> Compiled:
    """With a search before the training."""
    config = configuration(
        root,
        tuner={"trials": 5},
        kubeflow={"steps": {"Tuner": TRAINER}},
        trainer={"base_weights": "/data/weights.h5"},
    )
    return compile_pipeline(config, IMAGE)


def task(pipeline: Compiled, name: str) -> Document:
    found: Document = pipeline.spec["root"]["dag"]["tasks"][name]
    return found


def container(pipeline: Compiled, name: str) -> Document:
    found: Document = pipeline.spec["deploymentSpec"]["executors"][f"{name}_executor"]["container"]
    return found


def kubernetes(pipeline: Compiled, name: str) -> Document:
    executors = pipeline.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found: Document = executors.get(f"{name}_executor", {})
    return found


def test_it_is_a_specification_of_version_2_1_in_two_documents(pipeline: Compiled) -> None:
    spec, platform = yaml.safe_load_all(pipeline.to_yaml())
    assert spec["schemaVersion"] == "2.1.0"
    assert spec["pipelineInfo"]["name"] == "cells"
    assert list(platform["platforms"]) == ["kubernetes"]
    assert pipeline.warnings == ()


def test_the_parameters_have_types_and_defaults_from_the_configuration(pipeline: Compiled) -> None:
    parameters = pipeline.spec["root"]["inputDefinitions"]["parameters"]
    assert {name: (p["parameterType"], p["defaultValue"]) for name, p in parameters.items()} == {
        "data_path": ("STRING", "/data/dataset"),
        "registry": ("STRING", "oci://registry.example/models"),
        "channel": ("STRING", "candidate"),
        "baseline_digest": ("STRING", ""),
        "epochs": ("NUMBER_INTEGER", 100),
        "min_accuracy": ("NUMBER_DOUBLE", 0.9),
        "max_drop": ("NUMBER_DOUBLE", 0.01),
        "max_drop_deployed": ("NUMBER_DOUBLE", 0.01),
        "max_size_mb": ("NUMBER_DOUBLE", 30.0),
        "min_recall": ("STRUCT", {"cat": 0.8}),
    }


def test_the_pipeline_root_is_in_the_specification(root: Path) -> None:
    config = configuration(root, kubeflow={"pipeline_root": "s3://bucket/edgeline"})
    assert compile_pipeline(config, IMAGE).spec["defaultPipelineRoot"] == "s3://bucket/edgeline"


def test_a_step_gets_its_resources_nodes_and_retries(pipeline: Compiled) -> None:
    assert container(pipeline, "Trainer")["resources"] == {
        "cpuLimit": 4,
        "cpuRequest": 4,
        "memoryLimit": 8,
        "memoryRequest": 8,
        "accelerator": {"type": "nvidia.com/gpu", "count": "2"},
    }
    assert kubernetes(pipeline, "Trainer")["nodeSelector"] == {"labels": {"pool": "gpu"}}
    (toleration,) = kubernetes(pipeline, "Trainer")["tolerations"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert task(pipeline, "Trainer")["retryPolicy"]["maxRetryCount"] == 1
    assert task(pipeline, "Transform")["retryPolicy"]["maxRetryCount"] == 2


def test_what_fails_for_what_it_found_is_not_tried_again(pipeline: Compiled) -> None:
    tasks = pipeline.spec["root"]["dag"]["tasks"]
    assert [name for name in tasks if "retryPolicy" not in tasks[name]] == ["EdgePusher", "Plan"]


def test_a_step_that_failed_after_a_week_is_tried_again_as_well(pipeline: Compiled) -> None:
    policy = task(pipeline, "Transform")["retryPolicy"]
    week = 7 * 24 * 3600.0
    assert [tried_again(policy, tries, week) for tries in (1, 2, 3)] == [True, True, False]


def test_a_search_gets_what_a_training_gets(searching: Compiled, pipeline: Compiled) -> None:
    resources = container(pipeline, "Trainer")["resources"]
    assert container(searching, "Tuner")["resources"] == resources
    for kind in ("pvcMount", "nodeSelector", "tolerations"):
        assert kubernetes(searching, "Tuner")[kind] == kubernetes(pipeline, "Trainer")[kind]
    found = task(searching, "Trainer")["inputs"]["artifacts"]["hyperparameters"]
    assert found["taskOutputArtifact"]["producerTask"] == "Tuner"
    assert "Tuner" in task(searching, "Trainer")["dependentTasks"]
    assert "Tuner" not in pipeline.spec["root"]["dag"]["tasks"]


def test_what_depends_on_more_than_the_cache_knows_is_never_cached(pipeline: Compiled) -> None:
    tasks = pipeline.spec["root"]["dag"]["tasks"]
    assert [n for n in tasks if "cachingOptions" not in tasks[n]] == ["EdgePusher", "Plan"]


def test_the_steps_that_read_data_in_place_are_stale_when_it_changed(pipeline: Compiled) -> None:
    for name in ("ImportExampleGen", "ImportSchemaGen"):
        source = task(pipeline, name)["inputs"]["parameters"]["dataset_digest"]
        assert source["taskOutputParameter"]["producerTask"] == "Plan"


EXAMPLES_READERS = (
    "StatisticsGen",
    "Transform",
    "Trainer",
    "TFLiteRewriter",
    "TFLitePredictor",
)
DATASET_READERS = {"Plan", "ImportExampleGen", "ImportSchemaGen", *EXAMPLES_READERS}
FLINK = {"steps": {"Evaluator": ["--runner=FlinkRunner"]}}


def mounting(pipeline: Compiled, path: str) -> set[str]:
    """The steps that have a volume at a path."""
    return {
        name
        for name in pipeline.spec["root"]["dag"]["tasks"]
        for mount in kubernetes(pipeline, name).get("pvcMount", ())
        if mount["mountPath"] == path
    }


def test_who_takes_examples_mounts_the_dataset_and_gets_no_copy(pipeline: Compiled) -> None:
    assert mounting(pipeline, "/data") == DATASET_READERS
    recorder = "pipeline.orchestration.kubeflow.imports.record_examples"
    assert recorder in container(pipeline, "ImportExampleGen")["args"]


def test_a_step_without_tfx_is_told_of_every_input_that_it_has(pipeline: Compiled) -> None:
    for name in ALONE:
        args = container(pipeline, name)["args"]
        told = json.loads(args[args.index(INPUTS_SPEC) + 1])
        assert told["parameters"].keys() == task(pipeline, name)["inputs"]["parameters"].keys()


def test_workers_without_a_shared_volume_get_copies(root: Path) -> None:
    distributed = compile_pipeline(configuration(root, beam=FLINK), IMAGE)
    assert mounting(distributed, "/data") == {*DATASET_READERS} - {*EXAMPLES_READERS} | {"Trainer"}
    assert STEP not in container(distributed, "ImportExampleGen")["args"]


def test_a_shared_volume_is_for_the_steps_that_are_sent_to_an_engine(root: Path) -> None:
    volume = {"claim": "workers", "mount": "/workers"}
    shared = compile_pipeline(
        configuration(root, beam=FLINK, kubeflow={"beam_volume": volume}), IMAGE
    )
    assert mounting(shared, "/workers") == {"Evaluator"}
    assert container(shared, "Evaluator")["args"][-2:] == [SHARED, "/workers"]
    assert mounting(shared, "/data") == DATASET_READERS


def test_keys_and_logins_are_files_of_the_steps_that_need_them_and_no_others(
    pipeline: Compiled,
) -> None:
    mounted = {
        name: sorted(m["secretName"] for m in kubernetes(pipeline, name).get("secretAsVolume", ()))
        for name in pipeline.spec["root"]["dag"]["tasks"]
    }
    assert {name: secrets for name, secrets in mounted.items() if secrets} == {
        "Plan": ["registry-login", "signing-keys"],
        "TFLitePredictor": ["registry-login"],
        "EdgePusher": ["registry-login", "signing-keys"],
    }
    login = {"name": "DOCKER_CONFIG", "value": "/etc/edgeline/registry-login"}
    told = [name for name in mounted if login in container(pipeline, name)["env"]]
    assert sorted(told) == ["EdgePusher", "Plan", "TFLitePredictor"]


def test_tensorflow_complains_of_cuda_only_where_there_is_a_gpu(pipeline: Compiled) -> None:
    def level(name: str) -> str:
        variables = {each["name"]: each["value"] for each in container(pipeline, name)["env"]}
        return str(variables["TF_CPP_MIN_LOG_LEVEL"])

    assert (level("Trainer"), level("Transform")) == ("1", "3")


def test_the_signing_keys_are_named_as_they_are_in_the_cluster(pipeline: Compiled) -> None:
    config = task(pipeline, "Plan")["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
    assert json.loads(config)["registry"]["keys"] == [
        "/etc/edgeline/signing-keys/online.pem",
        "/etc/edgeline/signing-keys/cells-ci.pem",
    ]


def test_no_path_of_this_machine_is_in_the_outcome(pipeline: Compiled, root: Path) -> None:
    text = pipeline.to_yaml()
    assert str(root.parent) not in text
    assert str(Path.cwd()) not in text


def test_compiling_twice_gives_the_same_bytes(pipeline: Compiled, root: Path) -> None:
    assert compile_pipeline(configuration(root), IMAGE).to_yaml() == pipeline.to_yaml()


def test_an_image_without_a_digest_is_warned_about_and_nothing_is_cached(root: Path) -> None:
    outcome = compile_pipeline(configuration(root), "registry.example/edgeline:latest")
    (warning,) = outcome.warnings
    assert warning.startswith("--image: registry.example/edgeline:latest has no digest")
    assert "cachingOptions" not in str(outcome.spec["root"])


def test_a_server_without_a_login_is_warned_about(root: Path) -> None:
    config = configuration(root, kubeflow={"registry_login": None})
    (warning,) = compile_pipeline(config, IMAGE).warnings
    assert "without credentials" in warning


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown GPU type": (
        {"kubeflow": {"steps": {"Trainer": {"gpu_type": "nvidia.com/gpus"}}}},
        'kubeflow.steps.Trainer.gpu_type: expected "nvidia.com/gpu", "amd.com/gpu", '
        '"gpu.intel.com/i915" or "gpu.intel.com/xe"; received "nvidia.com/gpus"',
    ),
    "a GPU type for no GPU": (
        {"kubeflow": {"steps": {"Trainer": {"gpu_type": "amd.com/gpu"}}}},
        "kubeflow.steps.Trainer: expected gpu_count above 0 with gpu_type amd.com/gpu; received 0",
    ),
    "a toleration that Kubernetes refuses": (
        {"kubeflow": {"steps": {"Trainer": {"tolerations": [{"operator": "Equal"}]}}}},
        'Trainer.tolerations, item 1: expected a key with operator "Equal"; received none',
    ),
    "a toleration of any value that has one": (
        {"kubeflow": {"steps": {"Trainer": {"tolerations": [TOLERATION]}}}},
        'Trainer.tolerations, item 1: expected no value with operator "Exists"; received "b"',
    ),
    "a step that does not exist": (
        {"kubeflow": {"steps": {"Trainer2": {}}}},
        'received "Trainer2"; did you mean Trainer?',
    ),
    "an unknown setting of a step": (
        {"kubeflow": {"steps": {"Trainer": {"gpus": 1}}}},
        "kubeflow.steps.Trainer.gpus: unknown key; expected one of: cpu, memory_gb",
    ),
    "a secret's name that Kubernetes refuses": (
        {"kubeflow": {"signing_keys": "Signing_Keys"}},
        "kubeflow.signing_keys: expected small letters, digits and hyphens",
    ),
    "no secret with the signing keys": (
        {"kubeflow": {"signing_keys": None}},
        "kubeflow.signing_keys: missing; the last step signs with cells-ci.pem, online.pem: "
        "expected the name of a Secret that has these files",
    ),
    "resources of a search that there is not": (
        {"kubeflow": {"steps": {"Tuner": {"cpu": 4}}}},
        "kubeflow.steps.Tuner: there is no such step while tuner.trials is 0",
    ),
    "a key in a variable": (
        {"registry": {"keys": ["envvar:KEY"]}},
        "registry.keys: envvar:KEY is a variable of this machine",
    ),
    "certificates without a secret": (
        {"registry": {"ca_file": "ca.crt"}, "kubeflow": {"registry_login": None}},
        "kubeflow.registry_login: missing; ca.crt is of this machine",
    ),
    "a registry directory without a volume": (
        {"kubeflow": {"registry": "/registry"}},
        "kubeflow.registry_volume: missing; /registry is a directory",
    ),
    "a dataset outside its volume": (
        {"kubeflow": {"dataset": "/elsewhere"}},
        "kubeflow.dataset: expected a path below /data, where kubeflow.data_volume is mounted; "
        "received /elsewhere",
    ),
    "base weights that the cluster does not have": (
        {"trainer": {"base_weights": "weights.h5"}},
        "trainer.base_weights: expected a path below /data",
    ),
    "an earlier model that the cluster does not have": (
        {"trainer": {"warm_start": "runs/cells/Trainer/model/7/Format-Serving"}},
        "trainer.warm_start: expected a path below /data",
    ),
    "a pipeline root that is no object store": (
        {"kubeflow": {"pipeline_root": "/mnt/artifacts"}},
        "kubeflow.pipeline_root: expected an address such as",
    ),
    "a parameter of the wrong type": (
        {"trainer": {"epochs": "ten"}},
        'trainer.epochs: expected a whole number; received "ten"',
    ),
    "a volume and a secret of one name": (
        {"kubeflow": {"data_volume": {"claim": "signing-keys", "mount": "/data"}}},
        "Plan_executor: signing-keys is mounted twice",
    ),
}


@pytest.mark.parametrize(("sections", "message"), SETTINGS.values(), ids=SETTINGS)
def test_a_setting_that_can_not_work_is_one_line(
    sections: dict[str, Any], message: str, root: Path
) -> None:
    with pytest.raises(UserError) as caught:
        compile_pipeline(configuration(root, **sections), IMAGE)
    (line,) = str(caught.value).splitlines()
    assert message in line


@pytest.mark.parametrize("image", ["", "Edgeline:latest", "a b", "edgeline@sha256:12"])
def test_an_image_that_is_none_is_refused(image: str, root: Path) -> None:
    with pytest.raises(UserError, match=r"^--image: expected an image such as .*; received"):
        compile_pipeline(configuration(root), image)


def _rename(spec: Document) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    tasks["Example.Validator"] = tasks.pop("ExampleValidator")


def _orphan(spec: Document) -> None:
    del spec["root"]["dag"]["tasks"]["StatisticsGen"]


def _resolver(spec: Document) -> None:
    spec["deploymentSpec"]["executors"]["Trainer_executor"] = {"resolver": {}}


def _wrong_constant(spec: Document) -> None:
    parameters = spec["root"]["dag"]["tasks"]["ImportExampleGen"]["inputs"]["parameters"]
    parameters["output_data_format"]["runtimeValue"]["constant"] = "6"


def _wrong_default(spec: Document) -> None:
    spec["root"]["inputDefinitions"]["parameters"]["epochs"]["defaultValue"] = 1.5


def _large(spec: Document) -> None:
    parameters = spec["root"]["dag"]["tasks"]["Plan"]["inputs"]["parameters"]
    parameters["root"]["runtimeValue"]["constant"] = "x" * 200_000


def _replaced(spec: Document) -> None:
    parameters = spec["root"]["dag"]["tasks"]["Plan"]["inputs"]["parameters"]
    parameters["config"]["runtimeValue"]["constant"] = '{"data": {"path": "/data/$(HOME)/a"}}'


def _impatient(spec: Document) -> None:
    spec["root"]["dag"]["tasks"]["Trainer"]["dependentTasks"] = ["Transform"]
    spec["root"]["dag"]["tasks"]["Transform"]["dependentTasks"] = ["ImportExampleGen"]


def _conditional(spec: Document) -> None:
    spec["root"]["dag"]["tasks"]["EdgePusher"]["triggerPolicy"] = {"condition": "1 == 1"}


def _unknown_field(spec: Document) -> None:
    spec["root"]["dag"]["tasks"]["Plan"]["retries"] = 3


def _old(spec: Document) -> None:
    spec["schemaVersion"] = "2.0.0"


DAMAGE: dict[str, tuple[Callable[[Document], None], str]] = {
    "an illegal task id": (_rename, "task Example.Validator: illegal id; expected at most 60"),
    "a dangling producer": (_orphan, "nobody makes StatisticsGen.statistics"),
    "a resolver": (_resolver, "task Trainer: runs resolver, expected a container"),
    "a constant of another type": (
        _wrong_constant,
        "task ImportExampleGen: parameter output_data_format: expected a value of type "
        'NUMBER_INTEGER; received "6"',
    ),
    "a default of another type": (
        _wrong_default,
        "parameter epochs: expected a value of type NUMBER_INTEGER; received 1.5",
    ),
    "settings too large for an argument": (_large, "task Plan: its settings have 20"),
    "what Kubernetes takes for a variable": (
        _replaced,
        "task Plan: parameter config: Kubernetes would replace $$ and $( in ",
    ),
    "a step that does not wait for what it takes": (
        _impatient,
        "task Trainer: does not wait for ImportSchemaGen, whose output it takes",
    ),
    "a condition": (_conditional, "task EdgePusher: has triggerPolicy; expected a step that runs"),
    "an unknown field": (_unknown_field, "not a pipeline specification"),
    "an old schema": (_old, "schemaVersion: expected 2.1.0; received 2.0.0"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_what_kubeflow_would_refuse_is_refused_before(
    damage: Callable[[Document], None], message: str, pipeline: Compiled
) -> None:
    spec = copy.deepcopy(pipeline.spec)
    damage(spec)
    with pytest.raises(UserError) as caught:
        check(spec, pipeline.platform)
    assert message in str(caught.value)


def test_every_output_of_the_plan_is_the_setting_of_a_step(searching: Compiled) -> None:
    outputs = searching.spec["components"]["Plan"]["outputDefinitions"]["parameters"]
    assert {"ImportExampleGen-bucket", "Tuner-custom_config", "EdgePusher-origin"} < set(outputs)
    for output in outputs:
        step, _, name = output.partition("-")
        assert task(searching, step)["inputs"]["parameters"][name] == {
            "taskOutputParameter": {"producerTask": "Plan", "outputParameterKey": output}
        }


def test_the_command_line_writes_the_file_and_says_mistakes_in_one_line(
    root: Path, tmp_path: Path
) -> None:
    config = tmp_path / "cells.toml"
    config.write_text(
        'name = "cells"\n[data]\npath = "dataset"\n[gate]\nmin_accuracy = 0.9\n'
        f'[registry]\nlocation = "oci://registry.example/models"\nroot = "{root}"\n'
        '[kubeflow]\nsigning_keys = "signing-keys"\n'
    )
    output = tmp_path / "pipeline.yaml"
    # Where the code is makes no difference.
    checkout, environment = odd_checkout(tmp_path)
    done = compiled(config, output, checkout=checkout, environment=environment)
    assert (done.returncode, done.stdout) == (0, f"{output}\n")
    assert done.stderr.startswith("warning: kubeflow.registry_login: not set")
    assert output.read_text() == compile_pipeline(load_config(config), IMAGE).to_yaml()

    refused = compiled(config, output, "--set", "trainer.epochs=ten")
    assert refused.returncode == 2
    assert refused.stderr == (
        f'{config}: trainer.epochs: expected a whole number; received "ten"\n'
    )


def test_a_step_of_tfx_s_is_told_what_its_component_declares(searching: Compiled) -> None:
    components = dict(searching.spec["components"])
    del components["Plan"], components["Report"]
    for name, component in components.items():
        options, _ = _parse(container(searching, name)["args"])
        outputs = json.loads(options.json_serialized_outputs_spec_args)
        assert outputs == component["outputDefinitions"]
        assert outputs["artifacts"]
