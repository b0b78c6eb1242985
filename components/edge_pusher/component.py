"""The EdgePusher component: its inputs, output and settings."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import TFLiteModels, TFLiteVerdict
from components.destination import Destination
from components.edge_pusher import executor
from components.edge_pusher.origin import Origin
from components.settings_text import to_text


class EdgePusherSpec(component_spec.ComponentSpec):
    """Interface of EdgePusher."""

    INPUTS = {
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
        "verdict": component_spec.ChannelParameter(type=TFLiteVerdict),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
    }
    PARAMETERS = {
        "destination": component_spec.ExecutionParameter(type=str),
        "origin": component_spec.ExecutionParameter(type=str),
    }


class EdgePusher(base_component.BaseComponent):
    """Publishes every variant that passed, as one signed release; fails if none did.

    Pushing the same content again is no new release, so the step need never be cached: what it
    depends on, the registry, is not among its inputs.
    """

    SPEC_CLASS = EdgePusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        tflite_models: BaseChannel,
        verdict: BaseChannel,
        model_blessing: BaseChannel,
        destination: Destination,
        origin: Origin,
    ) -> None:
        """Declares the step.

        Args:
            tflite_models: the variants.
            verdict: on them.
            model_blessing: the Evaluator's, on the float model.
            destination: the registry, the model's name there, the channel that will serve the
                release, and where the keys are to sign that with.
            origin: what goes on record of where the models come from, besides what is in the
                inputs.
        """
        super().__init__(
            EdgePusherSpec(
                tflite_models=tflite_models,
                verdict=verdict,
                model_blessing=model_blessing,
                destination=to_text(destination),
                origin=to_text(origin),
                pushed_model=channel_utils.as_channel([standard_artifacts.PushedModel()]),
            )
        )
