"""The first step of a run in the cluster: `python -m pipeline.orchestration.kubeflow.plan`.

It checks, before an hour of training, what the laptop's `python -m pipeline run` checks: that data,
settings, registry and keys fit together, with the secrets and volumes that the last step will have.
Then it settles what is only known now: the run's parameters are put into the configuration, the
channel is resolved to the release that it serves, and that becomes the settings that
`create_pipeline` gives the steps everywhere. So what a release states of its making
is what was done, and the cache can't hide that data, code or channel changed. TFX is not needed.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from components.settings_text import to_text
from pipeline.config import Config, GateConfig, parse_config
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.orchestration import preflight
from pipeline.orchestration.kubeflow.invocation import ExecutorInput, main_of
from pipeline.orchestration.kubeflow.names import (
    BASELINE,
    BUCKET,
    BUILDER,
    CONFIG,
    DATASET_DIGEST,
    EXAMPLE_GEN,
    NO_BASELINE,
    ROOT,
    SCHEMA_GEN,
    SETTINGS,
    TUNER,
    planned_output,
)
from pipeline.orchestration.kubeflow.staging import artifacts_of, unstaged
from pipeline.orchestration.settings import step_settings
from pipeline.release.deployed import baseline_digest

# Linux takes no longer argument, and Kubeflow hands a step its settings in a single one.
MAX_SETTINGS_BYTES = 100_000

_LOG = logging.getLogger(__name__)


def run(arguments: list[str]) -> None:
    """Checks what the run needs and writes the settings of its steps.

    Args:
        arguments: `--executor_input` and its value.

    Raises:
        UserError: the run could not succeed; what to do is in the message.
        edgeline.errors.RegistryError: the registry is not to be trusted.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.orchestration.kubeflow.plan")
    parser.add_argument("--executor_input", required=True)
    executor_input = ExecutorInput(parser.parse_args(arguments).executor_input)
    settled = plan(executor_input.parameters, bucket_of(executor_input))
    executor_input.write_output({"parameterValues": settled})


def plan(parameters: Mapping[str, Any], bucket: str) -> dict[str, Any]:
    """The planned settings of all steps, by output name.

    Args:
        parameters: the run's, and the specification's `config` and `root`.
        bucket: of the run, see `bucket_of`.

    Raises:
        UserError: as `run`.
        edgeline.errors.RegistryError: as `run`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root.json"
        root.write_text(parameters[ROOT])
        config = configured(parameters, root)
        dataset = Dataset.load(config.data.path)
        for warning in preflight.check(config, dataset):
            _LOG.warning("%s", warning)
        baseline = _baseline(parameters[BASELINE], config, dataset)
        _LOG.info("compared with: %s", baseline or "nothing, the channel serves no release")
        settings = planned_settings(config, dataset, baseline, bucket)
    return dict(_as_parameters(settings))


def planned_settings(
    config: Config, dataset: Dataset, baseline: str, bucket: str
) -> dict[str, Mapping[str, Any]]:
    """What is settled when a run starts, by step and setting; the rest is compiled in.

    Args:
        config: with the run's parameters in it.
        dataset: what the run reads.
        baseline: digest of the release to beat, or empty.
        bucket: of the run, see `bucket_of`.

    Raises:
        UserError: as `step_settings`.
    """
    settings = step_settings(config, dataset, baseline, BUILDER)
    if not config.tuner.trials:
        del settings[TUNER]
    # All other steps take what these two make.
    for step in (EXAMPLE_GEN, SCHEMA_GEN):
        settings[step] = {**settings[step], DATASET_DIGEST: dataset.digest, BUCKET: bucket}
    return settings


def bucket_of(executor_input: ExecutorInput) -> str:
    """The bucket of the run's artifacts, such as `s3://models`; empty where no driver tells it.

    The launcher opens other buckets without the credentials of the run's, so that it would fail on
    a result that is cached there.
    """
    # From 2.5 on the log is an artifact, and from 2.15 on the output file is beside the artifacts.
    named = [artifact["uri"] for artifact in artifacts_of(executor_input.outputs)]
    for uri in (*named, unstaged(executor_input.output_file)):
        scheme, found, path = uri.partition("://")
        if found:
            return f"{scheme}://{path.partition('/')[0]}"
    return ""


def configured(parameters: Mapping[str, Any], root: Path) -> Config:
    """The specification's configuration with the run's parameters in it.

    Raises:
        UserError: a parameter's value is no legal setting.
    """
    document = json.loads(parameters[CONFIG])
    document["registry"]["root"] = str(root)
    settings = {**{name: f"gate.{name}" for name in GateConfig.model_fields}, **SETTINGS}
    # Whatever else a driver hands over is no setting of ours.
    for name in settings.keys() & parameters.keys():
        section, _, key = settings[name].partition(".")
        document[section][key] = parameters[name]
    return parse_config(document, "parameters")


def _baseline(parameter: str, config: Config, dataset: Dataset) -> str:
    if parameter == NO_BASELINE:
        return ""
    return parameter or baseline_digest(config, dataset)


def _as_parameters(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The outputs of this step, and their values."""
    for step, of_step in settings.items():
        values = {name: _as_parameter(value) for name, value in of_step.items()}
        size = len(json.dumps(values))
        if size > MAX_SETTINGS_BYTES:
            raise UserError(
                f"the settings of {step} have {size:,} bytes, expected at most "
                f"{MAX_SETTINGS_BYTES:,}: Kubeflow hands them to the step as one argument"
            )
        for name, value in values.items():
            yield planned_output(step, name), value


def _as_parameter(value: Any) -> str | int | float:
    """A setting as a step takes it: what is neither text nor a number, as JSON."""
    if is_dataclass(value):
        return to_text(value)
    return value if isinstance(value, (str, int, float)) else json.dumps(value, sort_keys=True)


if __name__ == "__main__":
    main_of(run)
