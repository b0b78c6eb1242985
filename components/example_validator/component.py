"""The ExampleValidator component: its inputs, output and setting."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts
from tfx.types.standard_component_specs import ExampleValidatorSpec

from components.example_validator.executor import Executor


class LeanExampleValidatorSpec(component_spec.ComponentSpec):
    """Interface of ExampleValidator: TFX's own, but for the settings."""

    INPUTS = ExampleValidatorSpec.INPUTS
    OUTPUTS = ExampleValidatorSpec.OUTPUTS
    PARAMETERS = {
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class ExampleValidator(base_component.BaseComponent):
    """Finds what TFX's own finds, by the same code of TFDV's, and says it in the step's log.

    TFX's own imports TFX, Beam and TensorFlow for a comparison of two small messages, which takes
    a hundred times as long as that.
    """

    SPEC_CLASS = LeanExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, *, statistics: BaseChannel, schema: BaseChannel, code_digest: str) -> None:
        """Declares the step.

        Args:
            statistics: of each split.
            schema: of the examples.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            LeanExampleValidatorSpec(
                statistics=statistics,
                schema=schema,
                code_digest=code_digest,
                anomalies=channel_utils.as_channel([standard_artifacts.ExampleAnomalies()]),
            )
        )
