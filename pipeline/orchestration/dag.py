"""The whole pipeline on one page: from raw examples to a release in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Not from tfx.v1, which imports Google Cloud's clients: 10 seconds for nothing used here.
from tfx.components import (
    Evaluator,
    Trainer,
    Transform,
    Tuner,
)
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2, trainer_pb2

from components.edge_pusher.component import EdgePusher
from components.example_validator.component import ExampleValidator
from components.import_example_gen.component import ImportExampleGen
from components.statistics_gen.component import StatisticsGen
from components.tflite_evaluator.component import TFLiteEvaluator
from components.tflite_predictor.component import TFLitePredictor
from components.tflite_rewriter.component import TFLiteRewriter
from pipeline.config import Config
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.orchestration.settings import step_settings
from pipeline.release import evaluation
from pipeline.release.lineage import LOCAL_BUILDER

PREPROCESSING_FN = "pipeline.data.preprocessing.preprocessing_fn"
RUN_FN = "pipeline.training.trainer.run_fn"
TUNER_FN = "pipeline.training.tuner.tuner_fn"


def create_pipeline(
    config: Config,
    dataset: Dataset,
    pipeline_root: str,
    baseline_digest: str = "",
    metadata_connection_config: Any = None,
    beam_pipeline_args: Sequence[str] = (),
    builder: str = LOCAL_BUILDER,
) -> Pipeline:
    """Builds the pipeline; the same definition for every orchestrator.

    Args:
        config: all the settings.
        dataset: what `config.data.path` holds.
        pipeline_root: folder or URI of the artifacts.
        baseline_digest: of the release that the new variants are compared with; empty if there is
            none, see `pipeline.release.deployed`.
        metadata_connection_config: of the local metadata store; None where the orchestrator has
            its own.
        beam_pipeline_args: for the data-parallel steps.
        builder: URI of what runs the pipeline, for the record.

    Raises:
        UserError: the registry's trusted root can't be read.
    """
    settings = step_settings(config, dataset, baseline_digest, builder)

    example_gen = ImportExampleGen(**settings["ImportExampleGen"], input_config=_splits())
    schema_gen = ImportSchemaGen(**settings["ImportSchemaGen"])
    statistics_gen = StatisticsGen(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        **settings["StatisticsGen"],
    )
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        **settings["ExampleValidator"],
    )
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn=PREPROCESSING_FN,
        materialize=False,
        # They would decode every image once more to describe pixels.
        disable_statistics=True,
        **settings["Transform"],
    )
    training = {
        "examples": example_gen.outputs["examples"],
        "schema": schema_gen.outputs["schema"],
        "transform_graph": transform.outputs["transform_graph"],
        "train_args": trainer_pb2.TrainArgs(splits=["train"]),
        "eval_args": trainer_pb2.EvalArgs(splits=["eval"]),
    }
    tuner = Tuner(
        tuner_fn=TUNER_FN,
        **training,
        **settings["Tuner"],
    )
    trainer = Trainer(
        run_fn=RUN_FN,
        **training,
        hyperparameters=tuner.outputs["best_hyperparameters"] if config.tuner.trials else None,
        **settings["Trainer"],
    )
    rewriter = TFLiteRewriter(
        model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        **settings["TFLiteRewriter"],
    )
    predictor = TFLitePredictor(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        tflite_models=rewriter.outputs["tflite_models"],
        **settings["TFLitePredictor"],
    )
    evaluator = Evaluator(
        examples=predictor.outputs["float_examples"],
        model=trainer.outputs["model"],
        eval_config=evaluation.eval_config(settings["Evaluator"]["eval_config"]),
        example_splits=[config.gate.split],
    )
    tflite_evaluator = TFLiteEvaluator(
        predictions=predictor.outputs["predictions"],
        tflite_models=rewriter.outputs["tflite_models"],
        model_run=trainer.outputs["model_run"],
        **settings["TFLiteEvaluator"],
    )
    pusher = (
        EdgePusher(
            tflite_models=rewriter.outputs["tflite_models"],
            verdict=tflite_evaluator.outputs["verdict"],
            model_blessing=evaluator.outputs["blessing"],
            **settings["EdgePusher"],
        )
        if config.registry
        else None
    )
    steps: list[BaseComponent] = [
        example_gen,
        schema_gen,
        statistics_gen,
        example_validator,
        transform,
        *([tuner] if config.tuner.trials else []),
        trainer,
        rewriter,
        predictor,
        evaluator,
        tflite_evaluator,
        *([pusher] if pusher else []),
    ]
    beam_steps = {step.id: step for step in steps}
    for name, arguments in config.beam.steps.items():
        beam_steps[name].with_beam_pipeline_args(list(arguments))
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=steps,
        enable_cache=True,
        metadata_connection_config=metadata_connection_config,
        beam_pipeline_args=list(beam_pipeline_args),
    )


def _splits() -> example_gen_pb2.Input:
    return example_gen_pb2.Input(
        splits=[example_gen_pb2.Input.Split(name=name, pattern=f"{name}/*") for name in SPLITS]
    )
