"""Refuses a compiled pipeline that Kubeflow would refuse, or that could not run there.

The rules are those of Kubeflow's API server, driver and launcher; each is said before anything is
uploaded, and all that are broken at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline.errors import UserError

SCHEMA_VERSION = "2.1.0"
# Kubernetes stores an object of at most 1.5 MiB, and the workflow that is made holds all of this.
MAX_BYTES = 1_000_000
# Linux takes no longer argument, and Kubeflow hands a step its settings in a single one.
MAX_TASK_BYTES = 100_000
# Kubernetes replaces these in a pod's command, where the launcher gets the step's settings.
REPLACED = re.compile(r".{0,20}\$[$(].{0,20}")
TASK_ID = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
MAX_TASK_ID = 60  # what Argo makes of it must be a label's value of at most 63
PIPELINE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

_TYPES: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}

Document = Mapping[str, Any]


def check(spec: Document, platform: Document) -> None:
    """Checks a specification and its platform specification.

    Raises:
        UserError: at least one rule is broken; a line for each.
    """
    problems = [*_message(spec), *_root(spec), *_platform(spec, platform), *_size(spec, platform)]
    for name, task in spec["root"]["dag"]["tasks"].items():
        problems += [f"task {name}: {problem}" for problem in _task(spec, name, task)]
    if problems:
        raise UserError("\n".join(problems))


def type_problem(value: Any, declared: str) -> str | None:
    """Says that a parameter's value is not of the declared type, or returns None."""
    fits = isinstance(value, _TYPES[declared])
    if declared == "NUMBER_INTEGER" and isinstance(value, float):
        fits = value.is_integer()  # the messages have one type for all numbers
    if fits and not (isinstance(value, bool) and declared != "BOOLEAN"):
        return None
    return f"expected a value of type {declared}; received {json.dumps(value)}"


def _message(spec: Document) -> Iterator[str]:
    try:
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        executors = spec["deploymentSpec"]
        json_format.ParseDict(executors, pipeline_spec_pb2.PipelineDeploymentConfig())
    except json_format.ParseError as error:
        yield f"not a pipeline specification: {error}"


def _root(spec: Document) -> Iterator[str]:
    if spec.get("schemaVersion") != SCHEMA_VERSION:
        yield f"schemaVersion: expected {SCHEMA_VERSION}; received {spec.get('schemaVersion')}"
    name = spec["pipelineInfo"]["name"]
    if not PIPELINE_NAME.fullmatch(name):
        yield f"pipeline name: expected lower-case letters, digits and dashes; received {name!r}"
    for name, parameter in spec["root"].get("inputDefinitions", {}).get("parameters", {}).items():
        problem = type_problem(parameter["defaultValue"], parameter["parameterType"])
        if problem:
            yield f"parameter {name}: {problem}"


def _task(spec: Document, name: str, task: Document) -> Iterator[str]:
    if not TASK_ID.fullmatch(name) or len(name) > MAX_TASK_ID:
        yield (
            f"illegal id; expected at most {MAX_TASK_ID} letters, digits and dashes, and no dash "
            "first"
        )
    component = spec["components"].get(task["componentRef"]["name"])
    if component is None:
        yield f"no component {task['componentRef']['name']}"
        return
    for field in ("triggerPolicy", "parameterIterator", "artifactIterator"):
        if field in task:
            yield f"has {field}; expected a step that runs once in every run"
    executor = spec["deploymentSpec"]["executors"].get(component.get("executorLabel"), {})
    if "container" not in executor:
        kind = next(iter(executor), "nothing")
        yield f"runs {kind}, expected a container: open-source Kubeflow has no resolvers"
    for dependency in task.get("dependentTasks", ()):
        if dependency not in spec["root"]["dag"]["tasks"]:
            yield f"depends on {dependency}, which is no task"
    inputs = task.get("inputs", {})
    for producer in sorted(_producers(inputs) - _before(spec, name)):
        yield f"does not wait for {producer}, whose output it takes"
    for key, artifact in inputs.get("artifacts", {}).items():
        yield from _artifact_input(spec, key, artifact)
    for key, parameter in inputs.get("parameters", {}).items():
        declared = component["inputDefinitions"]["parameters"].get(key)
        if declared is None:
            yield f"parameter {key}: component {task['componentRef']['name']} declares none"
            continue
        yield from _parameter_input(spec, key, parameter, declared["parameterType"])
    yield from _task_size(component, inputs)


def _producers(inputs: Document) -> set[str]:
    """The tasks whose outputs are taken."""
    artifacts = (each.get("taskOutputArtifact") for each in inputs.get("artifacts", {}).values())
    parameters = (each.get("taskOutputParameter") for each in inputs.get("parameters", {}).values())
    return {source["producerTask"] for source in (*artifacts, *parameters) if source}


def _before(spec: Document, name: str) -> set[str]:
    """The tasks that Argo has run before a task: it knows of `dependentTasks` alone."""
    task = spec["root"]["dag"]["tasks"].get(name, {})
    needed = set(task.get("dependentTasks", ()))
    return needed.union(*(_before(spec, each) for each in needed))


def _artifact_input(spec: Document, key: str, artifact: Document) -> Iterator[str]:
    source = artifact["taskOutputArtifact"]
    outputs = _outputs(spec, source["producerTask"], "artifacts")
    if source["outputArtifactKey"] not in outputs:
        yield f"input {key}: nobody makes {source['producerTask']}.{source['outputArtifactKey']}"


def _parameter_input(spec: Document, key: str, parameter: Document, declared: str) -> Iterator[str]:
    if "runtimeValue" in parameter:
        constant = parameter["runtimeValue"]["constant"]
        if problem := type_problem(constant, declared):
            yield f"parameter {key}: {problem}"
        if found := REPLACED.search(json.dumps(constant)):
            yield f"parameter {key}: Kubernetes would replace $$ and $( in {found[0]!r}"
        return
    if "taskOutputParameter" in parameter:
        source = parameter["taskOutputParameter"]
        name = f"{source['producerTask']}.{source['outputParameterKey']}"
        given = _outputs(spec, source["producerTask"], "parameters").get(
            source["outputParameterKey"]
        )
    else:
        name = parameter["componentInputParameter"]
        given = spec["root"].get("inputDefinitions", {}).get("parameters", {}).get(name)
    if given is None:
        yield f"parameter {key}: nobody makes {name}"
    elif given["parameterType"] != declared:
        yield f"parameter {key}: expected type {declared}; {name} is of {given['parameterType']}"


def _outputs(spec: Document, task: str, kind: str) -> Document:
    component = spec["root"]["dag"]["tasks"].get(task, {}).get("componentRef", {}).get("name")
    outputs: Document = (
        spec["components"].get(component, {}).get("outputDefinitions", {}).get(kind, {})
    )
    return outputs


def _task_size(component: Document, inputs: Document) -> Iterator[str]:
    size = len(json.dumps(inputs)) + len(json.dumps(component))
    if size > MAX_TASK_BYTES:
        yield (
            f"its settings have {size:,} bytes, expected at most {MAX_TASK_BYTES:,}: Kubeflow "
            "hands them to the step as one argument"
        )


def _platform(spec: Document, platform: Document) -> Iterator[str]:
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, settings in executors.items():
        if label not in spec["deploymentSpec"]["executors"]:
            yield f"platform specification: no executor {label}"
        # Kubernetes names a pod's volumes by these, and each only once.
        volumes = [mount["constant"] for mount in settings.get("pvcMount", ())]
        volumes += [mount["secretName"] for mount in settings.get("secretAsVolume", ())]
        for name in sorted({name for name in volumes if volumes.count(name) > 1}):
            yield f"{label}: {name} is mounted twice; claims and secrets need names of their own"


def _size(spec: Document, platform: Document) -> Iterator[str]:
    size = len(json.dumps(spec)) + len(json.dumps(platform))
    if size > MAX_BYTES:
        yield f"the specification has {size:,} bytes, expected at most {MAX_BYTES:,}"
