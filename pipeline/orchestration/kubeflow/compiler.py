"""Turns the pipeline into the two documents that Kubeflow Pipelines v2 runs.

TFX compiles `create_pipeline`'s result; what it leaves out is added to the outcome: a first step
that settles what depends on the run's parameters (`plan`, beside this), a step that reports,
parameters with defaults, resources, retries, volumes and secrets. Names of fields are those that
every Kubeflow Pipelines from 2.3 on knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import (
    KubeflowV2DagRunner,
    KubeflowV2DagRunnerConfig,
)

from components.artifacts import Predictions, TFLiteVerdict
from pipeline.config import Config, GateConfig, KubeflowConfig, KubeflowStepConfig
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.errors import UserError
from pipeline.orchestration.dag import create_pipeline
from pipeline.orchestration.kubeflow.checks import check
from pipeline.orchestration.kubeflow.cluster import in_cluster
from pipeline.orchestration.kubeflow.names import (
    BASELINE,
    BUCKET,
    BUILDER,
    CONFIG,
    DATASET_DIGEST,
    EXAMPLE_GEN,
    INPUTS_SPEC,
    OUTPUTS_SPEC,
    PLAN,
    PUSHER,
    REGISTRY_LOGIN,
    REPORT,
    ROOT,
    SCHEMA_GEN,
    SETTINGS,
    SHARED,
    SIGNING_KEYS,
    STEP,
    planned_output,
)
from pipeline.orchestration.kubeflow.plan import planned_settings
from pipeline.orchestration.kubeflow.step import distributed_runner
from pipeline.orchestration.run import BEAM_ARGS
from pipeline.release.registry import destination

# Their result is not a function of what the cache's key holds: data, registry and keys.
NEVER_CACHED = (PLAN, PUSHER)
# They fail because of what they find wrong with data, settings or model: the same another time.
REFUSES = (PLAN, PUSHER)
RETRIES = 2
# Argo counts it from the start of the first try, and stops the last one when it has passed: it must
# be longer than any step takes.
RETRIED_FOR = "2592000s"  # 30 days
READS_DATA = (PLAN, EXAMPLE_GEN, SCHEMA_GEN, "Tuner", "Trainer")
READS_REGISTRY = (PLAN, "TFLitePredictor", PUSHER)
SIGNS = (PLAN, PUSHER)
# The steps that need no TensorFlow, as functions of folders: they start in a second. That of
# TFLiteRewriter's workers which needs it loads it.
ALONE = {
    EXAMPLE_GEN: "pipeline.orchestration.kubeflow.imports.record_examples",
    SCHEMA_GEN: "pipeline.orchestration.kubeflow.imports.import_schema",
    "ExampleValidator": "components.example_validator.step.find_anomalies",
    "TFLiteRewriter": "components.tflite_rewriter.step.convert",
    "TFLiteEvaluator": "components.tflite_evaluator.step.judge",
    PUSHER: "components.edge_pusher.step.publish",
}
# What the step that reports leaves for Kubeflow's pages.
REPORTED = {
    "report": "HTML",
    "metrics": "Metrics",
    "float_model": "ClassificationMetrics",
    "variant": "ClassificationMetrics",
}

_IMAGE = re.compile(r"[a-z0-9]([\w.:/-]*[\w-])?(@sha256:[0-9a-f]{64})?", re.ASCII)
_TYPES = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", dict: "STRUCT"}

Document = dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline.

    Attributes:
        spec: the PipelineSpec message, as JSON.
        platform: the PlatformSpec message, as JSON.
        warnings: a line each.
    """

    spec: Document
    platform: Document
    warnings: tuple[str, ...]

    def to_yaml(self) -> str:
        """The file that Kubeflow takes: two documents."""
        return yaml.safe_dump_all([self.spec, self.platform], sort_keys=True, allow_unicode=True)


def compile_pipeline(config: Config, image: str) -> Compiled:
    """Compiles the pipeline for Kubeflow; neither data nor a registry need to be at hand.

    Args:
        config: all the settings; `[kubeflow]` says where things are in the cluster.
        image: of `kubeflow/Dockerfile`, with its digest.

    Raises:
        UserError: a setting can't work in the cluster, the registry's trusted root can't be read,
            or Kubeflow would refuse the outcome; a line for each problem.
    """
    if not _IMAGE.fullmatch(image):
        raise UserError(
            f"--image: expected an image such as registry.example/edgeline@sha256:...; received "
            f"{image!r}"
        )
    config_there = in_cluster(config)
    spec = _tfx_spec(config_there, image)
    _add_plan(spec, config_there, image)
    _tell_inputs(spec)
    _add_report(spec, image)
    if config.kubeflow.pipeline_root:
        spec["defaultPipelineRoot"] = config.kubeflow.pipeline_root
    pinned = "@sha256:" in image
    for name in _tasks(spec):
        _configure(spec, name, config.kubeflow, pinned)
    platform = _platform(config, spec)
    check(spec, platform)
    return Compiled(spec, platform, tuple(_warnings(config_there, image, pinned)))


def _tfx_spec(config: Config, image: str) -> Document:
    runner = KubeflowV2DagRunner(
        KubeflowV2DagRunnerConfig(
            default_image=image,
            default_commands=_command("step"),
            use_pipeline_spec_2_1=True,
        )
    )
    definition = create_pipeline(
        config,
        _any_dataset(config),
        pipeline_root="",
        # Named, lest every step packs TFX up for workers of a distributed runner.
        beam_pipeline_args=[*BEAM_ARGS, f"--sdk_container_image={image}", *config.beam.args],
        builder=BUILDER,
    )
    spec: Document = runner.run(definition, write_out=False)["pipelineSpec"]
    for name, component in spec["components"].items():
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        outputs = json.dumps(component.get("outputDefinitions", {}), sort_keys=True)
        container["args"] += [OUTPUTS_SPEC, outputs]
        if name in ALONE and not (name == EXAMPLE_GEN and _distributes(config)):
            container["args"] += [STEP, ALONE[name]]
        elif config.kubeflow.beam_volume and distributed_runner(container["args"]):
            container["args"] += [SHARED, config.kubeflow.beam_volume.mount]
    return spec


def _distributes(config: Config) -> bool:
    """Whether a step's work goes to other machines, which see no volume of the pods."""
    if config.kubeflow.beam_volume:
        return False
    arguments = [config.beam.args, *config.beam.steps.values()]
    return any(distributed_runner(each) for each in arguments)


def _any_dataset(config: Config) -> Dataset:
    """Stands for the dataset that `Plan` will find: whatever depends on it is settled there."""
    path = config.data.path
    counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    return Dataset(path, (), (), path / "schema.pbtxt", 1, counts, {}, "")


def _add_plan(spec: Document, config: Config, image: str) -> None:
    """Adds the first step, and has the others take from it what it settles."""
    parameters = run_parameters(config)
    constants = {
        CONFIG: config.model_dump_json(exclude={"kubeflow": True, "registry": {"root"}}),
        ROOT: destination(config).trusted_root.decode(),
    }
    inputs = {name: {"componentInputParameter": name} for name in parameters} | {
        name: {"runtimeValue": {"constant": text}} for name, text in constants.items()
    }
    types = {name: _TYPES[type(value)] for name, value in {**parameters, **constants}.items()}
    component = {
        "inputDefinitions": {
            "parameters": {name: {"parameterType": kind} for name, kind in types.items()}
        },
        "outputDefinitions": {"parameters": dict(_take_planned(spec, config))},
    }
    _add_task(spec, PLAN, image, component, {"parameters": inputs})
    spec["root"]["inputDefinitions"] = {
        "parameters": {
            name: {"parameterType": types[name], "defaultValue": value, "isOptional": True}
            for name, value in parameters.items()
        }
    }


def _tell_inputs(spec: Document) -> None:
    """Tells the steps that run without TFX of the inputs that TFX's compiler did not know of."""
    for component in spec["components"].values():
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        args = container["args"]
        if STEP in args:
            inputs = json.dumps(component["inputDefinitions"], sort_keys=True)
            args[args.index(INPUTS_SPEC) + 1] = inputs


def run_parameters(config: Config) -> dict[str, Any]:
    """The run's parameters with their defaults, from the configuration.

    Every threshold of the gate that is set can be changed when a run starts: a number, or numbers
    by class or slice key.
    """
    settings = config.model_dump(mode="json")
    parameters = {
        name: settings[key.partition(".")[0]][key.partition(".")[2]]
        for name, key in SETTINGS.items()
    }
    thresholds = {
        name: value
        for name in GateConfig.model_fields
        if isinstance(value := settings["gate"][name], float) or (value and isinstance(value, dict))
    }
    return {**parameters, **thresholds, BASELINE: ""}


def _take_planned(spec: Document, config: Config) -> Iterator[tuple[str, Document]]:
    """Makes the planned settings inputs from `Plan`; yields its outputs with their types."""
    for step, names in planned_settings(config, _any_dataset(config), "", "").items():
        task, component = _tasks(spec)[step], spec["components"][step]
        declared = component["inputDefinitions"]["parameters"]
        for name in names:
            if name in (DATASET_DIGEST, BUCKET):  # which TFX's compiler does not know of
                declared[name] = {"parameterType": "STRING"}
            output = planned_output(step, name)
            task["inputs"]["parameters"][name] = {
                "taskOutputParameter": {"producerTask": PLAN, "outputParameterKey": output}
            }
            yield output, declared[name]
        task["dependentTasks"] = sorted({*task.get("dependentTasks", ()), PLAN})


def _add_report(spec: Document, image: str) -> None:
    """Adds the step that reports; the last one waits for it, as its failure would stop it."""
    makers = {"verdict": "TFLiteEvaluator", "predictions": "TFLitePredictor"}
    types = {"verdict": TFLiteVerdict, "predictions": Predictions}
    component = {
        "inputDefinitions": {
            "artifacts": {
                name: {"artifactType": {"instanceSchema": compiler_utils.get_artifact_schema(made)}}
                for name, made in types.items()
            }
        },
        "outputDefinitions": {
            "artifacts": {
                name: {"artifactType": {"schemaTitle": f"system.{title}", "schemaVersion": "0.0.1"}}
                for name, title in REPORTED.items()
            }
        },
    }
    inputs = {
        name: {"taskOutputArtifact": {"producerTask": maker, "outputArtifactKey": name}}
        for name, maker in makers.items()
    }
    _add_task(spec, REPORT, image, component, {"artifacts": inputs})
    _tasks(spec)[REPORT]["dependentTasks"] = sorted(makers.values())
    pusher = _tasks(spec)[PUSHER]
    pusher["dependentTasks"] = sorted({*pusher["dependentTasks"], REPORT})


def _add_task(spec: Document, name: str, image: str, component: Document, inputs: Document) -> None:
    """Adds a step of our own, whose module is named as the step."""
    label = f"{name}_executor"
    spec["components"][name] = {"executorLabel": label, **component}
    spec["deploymentSpec"]["executors"][label] = {
        "container": {
            "image": image,
            "command": list(_command(name.lower())),
            "args": ["--executor_input", "{{$}}"],
        }
    }
    _tasks(spec)[name] = {
        "taskInfo": {"name": name},
        "componentRef": {"name": name},
        "inputs": inputs,
        "cachingOptions": {"enableCache": True},
    }


def _configure(spec: Document, name: str, kubeflow: KubeflowConfig, pinned: bool) -> None:
    """Sets a step's caching, retries, resources and environment."""
    task, settings = _tasks(spec)[name], kubeflow.step(name)
    if name in NEVER_CACHED or not pinned:
        task.pop("cachingOptions", None)
    by_default = 0 if name in REFUSES else RETRIES
    if retries := by_default if settings.retries is None else settings.retries:
        task["retryPolicy"] = {
            "maxRetryCount": retries,
            "backoffDuration": "30s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": RETRIED_FOR,
        }
    container = spec["deploymentSpec"]["executors"][f"{name}_executor"]["container"]
    # TFX's hook for Vertex AI, which open-source Kubeflow ignores: the step runs the driver.
    container.pop("lifecycle", None)
    if resources := _resources(settings):
        container["resources"] = resources
    environment = _quiet(settings)
    if kubeflow.registry_login and name in READS_REGISTRY:
        environment["DOCKER_CONFIG"] = str(REGISTRY_LOGIN)
    container["env"] = [{"name": key, "value": value} for key, value in environment.items()]


def _quiet(settings: KubeflowStepConfig) -> dict[str, str]:
    """What keeps a log to the step's own: libraries read it before any code of ours can run.

    TensorFlow complains of a missing CUDA, as errors too; that says something with a GPU alone.
    """
    return {
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "TF_CPP_MIN_LOG_LEVEL": "1" if settings.gpu_count else "3",
    }


def _resources(settings: KubeflowStepConfig) -> Document:
    resources: Document = {}
    if settings.cpu:
        resources |= {"cpuLimit": settings.cpu, "cpuRequest": settings.cpu}
    if settings.memory_gb:
        resources |= {"memoryLimit": settings.memory_gb, "memoryRequest": settings.memory_gb}
    if settings.gpu_count:
        resources["accelerator"] = {
            "type": settings.gpu_type,
            "count": str(settings.gpu_count),
        }
    return resources


def _platform(config: Config, spec: Document) -> Document:
    executors = {
        f"{name}_executor": dict(
            _kubernetes(config, name, _reads_data(config, name, task), _shares(spec, name))
        )
        for name, task in sorted(_tasks(spec).items())
    }
    configured = {label: settings for label, settings in executors.items() if settings}
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": configured}}}}


def _shares(spec: Document, name: str) -> bool:
    """Whether a step has its artifacts on the volume of a Beam runner's workers."""
    return SHARED in spec["deploymentSpec"]["executors"][f"{name}_executor"]["container"]["args"]


def _reads_data(config: Config, name: str, task: Document) -> bool:
    """Whether a step mounts the dataset: where examples are a record, also all that take it."""
    given = task["inputs"].get("artifacts", {}).get("examples", {})
    takes_record = given.get("taskOutputArtifact", {}).get("producerTask") == EXAMPLE_GEN
    return name in READS_DATA or (takes_record and not _distributes(config))


def _kubernetes(
    config: Config, name: str, reads_data: bool, shares: bool
) -> Iterator[tuple[str, Any]]:
    """What a step gets from Kubernetes besides resources: a KubernetesExecutorConfig message."""
    kubeflow = config.kubeflow
    claims = [kubeflow.data_volume] if reads_data else []
    if kubeflow.registry_volume and name in READS_REGISTRY:
        claims.append(kubeflow.registry_volume)
    if kubeflow.beam_volume and shares:
        claims.append(kubeflow.beam_volume)
    if claims:
        yield "pvcMount", [{"constant": c.claim, "mountPath": c.mount} for c in claims]
    secrets: dict[str, Path] = {}
    if kubeflow.signing_keys and name in SIGNS:
        secrets[kubeflow.signing_keys] = SIGNING_KEYS
    if kubeflow.registry_login and name in READS_REGISTRY:
        secrets[kubeflow.registry_login] = REGISTRY_LOGIN
    if secrets:
        yield (
            "secretAsVolume",
            [
                {"secretName": secret, "mountPath": str(path), "optional": False}
                for secret, path in secrets.items()
            ],
        )
    if kubeflow.image_pull_secret:
        yield "imagePullSecret", [{"secretName": kubeflow.image_pull_secret}]
    settings = kubeflow.step(name)
    if settings.node_selector:
        yield "nodeSelector", {"labels": dict(settings.node_selector)}
    if settings.tolerations:
        yield "tolerations", [t.model_dump(exclude_defaults=True) for t in settings.tolerations]


def _warnings(config: Config, image: str, pinned: bool) -> Iterator[str]:
    if not pinned:
        yield (
            f"--image: {image} has no digest, so that the code can change under the run: no step "
            "is cached; give it as NAME@sha256:..."
        )
    if config.publishing.location.startswith("oci://") and not config.kubeflow.registry_login:
        yield (
            f"kubeflow.registry_login: not set, so that steps reach {config.publishing.location} "
            "without credentials"
        )


def _tasks(spec: Document) -> Document:
    tasks: Document = spec["root"]["dag"]["tasks"]
    return tasks


def _command(module: str) -> tuple[str, ...]:
    return ("python", "-m", f"pipeline.orchestration.kubeflow.{module}")
