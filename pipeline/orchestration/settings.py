"""The settings of steps that depend on data, code, registry, or what can differ from run to run.

`create_pipeline` gives them to the components. In a cluster the first step of a run makes them anew
from what it finds there, and needs neither TFX nor TensorFlow for that.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from typing import Any

from components.tflite_evaluator.gate import Gate
from components.tflite_evaluator.settings import Settings as EvaluatorSettings
from components.tflite_predictor.settings import ReleaseReference
from components.tflite_predictor.settings import Settings as PredictorSettings
from components.tflite_rewriter.settings import Settings as RewriterSettings
from components.verdict import Policy
from pipeline.config import Config
from pipeline.content_digest import code_digest, file_digest, tree_digest
from pipeline.data.dataset import Dataset
from pipeline.release.deployed import inputs_digest
from pipeline.release.eval_settings import eval_settings
from pipeline.release.lineage import made_from, origin
from pipeline.release.registry import destination

CHECKPOINTS = "checkpoints"  # folder below the run's: what a training that was killed leaves


def step_settings(
    config: Config, dataset: Dataset, baseline_digest: str, builder: str
) -> dict[str, Mapping[str, Any]]:
    """The settings by step and by the name that the step has for them.

    Args:
        config: all the settings.
        dataset: what `config.data.path` holds.
        baseline_digest: of the release that the new variants are compared with; empty if there is
            none, see `pipeline.release.deployed`.
        builder: URI of what runs the pipeline, for the record.

    Returns:
        Of EdgePusher, too, where there is a registry.

    Raises:
        UserError: the registry's trusted root can't be read.
    """
    gate = config.gate
    size = {"height": config.image.height, "width": config.image.width}
    training = {
        **size,
        "max_side": dataset.max_side,
        "trainer": config.trainer.model_dump(mode="json"),
        "checkpoints": str(config.run.root / config.name / CHECKPOINTS),
        "base_weights_digest": file_digest(config.trainer.base_weights),
        "warm_start_digest": tree_digest(config.trainer.warm_start or ""),
        "code_digest": code_digest("pipeline.training.trainer", "pipeline.training.tuner"),
    }
    settings: dict[str, Mapping[str, Any]] = {
        # What the driver and the step append to it is a pattern, and so this is one, too.
        "ImportExampleGen": {"input_base": glob.escape(str(dataset.path))},
        "ImportSchemaGen": {"schema_file": str(dataset.schema_path)},
        "StatisticsGen": {"code_digest": code_digest("components.statistics_gen.executor")},
        "ExampleValidator": {"code_digest": code_digest("components.example_validator.step")},
        "Transform": {
            "custom_config": {**size, "code_digest": code_digest("pipeline.data.preprocessing")}
        },
        "Tuner": {"custom_config": {**training, "trials": config.tuner.trials}},
        "Trainer": {"custom_config": training},
        "Evaluator": {
            "eval_config": eval_settings(
                gate, dataset.slice_keys, code_digest("pipeline.release.evaluation")
            )
        },
        "TFLiteRewriter": {
            "settings": _rewritten_by(config),
            "code_digest": code_digest(
                "components.tflite_rewriter.step", "components.tflite_rewriter.worker"
            ),
        },
        "TFLitePredictor": {
            "settings": _predicted_by(config, dataset, baseline_digest),
            "code_digest": code_digest("components.tflite_predictor.executor"),
        },
        "TFLiteEvaluator": {
            "settings": _judged_by(config, dataset),
            "code_digest": code_digest("components.tflite_evaluator.executor"),
        },
    }
    if config.registry:
        settings["EdgePusher"] = {
            "destination": destination(config),
            "origin": origin(config, dataset, builder),
        }
    return settings


def _rewritten_by(config: Config) -> RewriterSettings:
    asked = config.rewriter
    return RewriterSettings(asked.variants, asked.calibration_images, asked.timeout, config.search)


def _predicted_by(config: Config, dataset: Dataset, baseline_digest: str) -> PredictorSettings:
    # Without a release to read, where the registry is concerns nobody.
    registry = config.registry if baseline_digest else None
    deployed = (
        ReleaseReference(registry.location, registry.connection, baseline_digest)
        if registry
        else None
    )
    return PredictorSettings(config.gate.split, tuple(dataset.slice_keys), deployed)


def _judged_by(config: Config, dataset: Dataset) -> EvaluatorSettings:
    gate = config.gate
    lineage = made_from(config, dataset)
    return EvaluatorSettings(
        split=gate.split,
        gate=Gate(**gate.model_dump(exclude={"split", "require", "publish"})),
        policy=Policy(gate.require, gate.publish),
        model_name=config.name,
        inputs_digest=inputs_digest(config, dataset),
        facts=lineage["facts"],
        made_with=lineage["settings"],
    )
