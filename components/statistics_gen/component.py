"""The StatisticsGen component: its inputs, output and setting."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts
from tfx.types.standard_component_specs import StatisticsGenSpec

from components.statistics_gen.executor import Executor


class ImageStatisticsGenSpec(component_spec.ComponentSpec):
    """Interface of StatisticsGen: TFX's own, but for the settings."""

    INPUTS = StatisticsGenSpec.INPUTS
    OUTPUTS = StatisticsGenSpec.OUTPUTS
    PARAMETERS = {
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class StatisticsGen(base_beam_component.BaseBeamComponent):
    """Makes TFDV's statistics of each split, for ExampleValidator and people; see `describe`.

    TFX's own can't: it counts every string, which an image is to it, and holds all of them in
    memory for that (5.3 GB for 1 GB of images). Told by the schema that the images are bytes, it
    counts them no longer, but still reads them into Beam, and has the size in pixels only by
    decoding. What describes them otherwise, a generator of one's own, can't be among its settings.
    """

    SPEC_CLASS = ImageStatisticsGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, *, examples: BaseChannel, schema: BaseChannel, code_digest: str) -> None:
        """Declares the step.

        Args:
            examples: raw examples.
            schema: of them.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            ImageStatisticsGenSpec(
                examples=examples,
                schema=schema,
                code_digest=code_digest,
                statistics=channel_utils.as_channel([standard_artifacts.ExampleStatistics()]),
            )
        )
