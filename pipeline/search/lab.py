"""Trains, converts and measures candidates, by the code that a run trains and converts with."""

from __future__ import annotations

import glob
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tensorflow_metadata.proto.v0 import schema_pb2

from components.examples import TransformedExamples
from components.tflite_models import TFLiteModelsFolder
from components.tflite_rewriter.choose import balanced_images
from components.tflite_rewriter.rewrite import rewrite
from components.timing import time_in_turns
from edgeline.runtime.interpreter import PixelModel
from edgeline.runtime.threads import default_threads
from pipeline.config import Config, TrainerConfig
from pipeline.data.dataset import Dataset
from pipeline.data.preprocessing import PIXELS, contract
from pipeline.search.graph import write_transform_graph
from pipeline.search.notes import Costs, Judged
from pipeline.search.plan import Candidate, Cost, Plan
from pipeline.training.features import LabelledExamples, go_on_with
from pipeline.training.inputs import Job
from pipeline.training.model import build_base, build_head, join
from pipeline.training.recipe import MONITORED, best
from pipeline.training.trainer import save, train_network

BATCH = 32  # images
TIMED = 30  # inferences that a latency is the median of

_LOG = logging.getLogger(__name__)


class TrainingLab:
    """Does a search's work on this machine."""

    def __init__(self, config: Config, dataset: Dataset, plan: Plan, folder: Path) -> None:
        """Args: all settings, the data, what is searched among, and where the work lies."""
        self._config = config
        self._dataset = dataset
        self._plan = plan
        self._folder = folder
        content = dataset.schema_path.read_text(encoding="utf-8")
        self._splits: dict[tuple[int, str], TransformedExamples] = {}  # by side and split
        self._schema = text_format.Parse(content, schema_pb2.Schema())

    def costs(self, candidate: Candidate) -> Costs:
        """What the files of an untrained candidate cost, by variant."""
        keras.utils.set_random_seed(self._config.trainer.seed)
        base = build_base(candidate.side, candidate.side, "random", candidate.base)
        recipe = self._recipe(candidate)
        classes = len(self._dataset.labels)
        head = build_head(recipe.head, base.output_shape[1:], classes, recipe.dropout)
        made = self._convert(candidate, join(base, head))
        return {name: cost for name, (cost, _) in self._measure(candidate, made).items()}

    def score(self, candidate: Candidate, share: float) -> float:
        """What is monitored on the eval split, negative where more is better."""
        recipe = self._recipe(candidate)
        _, curves = train_network(candidate.side, candidate.side, self._job(candidate, share))
        keras.backend.clear_session()
        reached = best(curves, recipe)
        assert reached is not None
        return reached if MONITORED[recipe.early_stopping].mode == "min" else -reached

    def judge(self, candidate: Candidate) -> Judged:
        """Costs and accuracies on the eval split of what was trained on all images, by variant."""
        # Trained before: the weights are read.
        model, _ = train_network(candidate.side, candidate.side, self._job(candidate, 1.0))
        made = self._convert(candidate, model)
        pixels, label_ids = self._evaluation(candidate)
        judged = {}
        for name, (cost, run) in self._measure(candidate, made).items():
            said = [int(run(image).argmax()) for image in pixels]
            judged[name] = (cost, float(np.mean(said == label_ids)))
        shutil.rmtree(self._folder / candidate.name)
        return judged

    def _recipe(self, candidate: Candidate) -> TrainerConfig:
        """The configured recipe on another base, without fine-tuning, which a run adds."""
        settings = self._config.trainer.model_dump() | {
            "base": candidate.base,
            "fine_tune_epochs": 0,
            "fine_tune_from": None,
            "fine_tune_layers": None,
        }
        return TrainerConfig(**settings)

    def _job(self, candidate: Candidate, share: float) -> Job:
        """A training on the first images of the train split: ids are hashes, so a fair sample."""
        folder = self._folder / candidate.name
        train = LabelledExamples.read(self._examples(candidate, "train"))
        images = max(1, round(share * len(train)))
        recipe = self._recipe(candidate)
        recipe = recipe.model_copy(update={"batch_size": min(recipe.batch_size, images)})
        job = Job(
            config=recipe,
            labels=self._dataset.labels,
            train=LabelledExamples(train.examples, train.label_ids[:images]),
            evaluation=LabelledExamples.read(self._examples(candidate, "eval")),
            log_dir=folder / "log",
            state_dir=folder / f"share-{share}",
            shared_cache_dir=folder / "features",
        )
        job.state_dir.mkdir(parents=True, exist_ok=True)
        rows = images * job.augmentation.rows
        go_on_with(folder / "features", f"features-{recipe.head}-train", rows)
        return job

    def _examples(self, candidate: Candidate, split: str) -> TransformedExamples:
        key = (candidate.side, split)
        if key not in self._splits:
            files = str(Path(glob.escape(str(self._dataset.path)), split, "*"))
            self._splits[key] = TransformedExamples([files], self._graph(candidate.side))
        return self._splits[key]

    def _graph(self, side: int) -> Path:
        folder = self._folder / f"transform-{side}"
        if not (folder / "graph").is_dir():
            scratch = folder.with_suffix(".part")
            shutil.rmtree(scratch, ignore_errors=True)
            write_transform_graph(scratch, self._schema, side, side)
            scratch.replace(folder)
        return folder / "graph"

    def _convert(self, candidate: Candidate, model: keras.Model) -> TFLiteModelsFolder:
        examples = self._examples(candidate, "train")
        folder = self._folder / candidate.name
        for name in ("saved", "models"):
            shutil.rmtree(folder / name, ignore_errors=True)
        labels, side = self._dataset.labels, candidate.side
        how = contract(side, side, self._dataset.max_side, labels)
        save(model, examples.transform, how, folder / "saved")
        keras.backend.clear_session()
        settings = self._config.rewriter
        images = balanced_images(examples.files, settings.calibration_images)
        return rewrite(
            folder / "saved",
            folder / "models",
            self._plan.variants,
            calibration=images,
            timeout=settings.timeout,
        )

    def _measure(
        self, candidate: Candidate, made: TFLiteModelsFolder
    ) -> dict[str, tuple[Cost, PixelModel]]:
        """Costs of the files that could be made, and what runs them."""
        files = {model.variant: made.path(model) for model in made.models if not model.error}
        side, classes = candidate.side, len(self._dataset.labels)
        models = {
            name: PixelModel(
                file.read_bytes(),
                height=side,
                width=side,
                classes=classes,
                num_threads=default_threads(),
            )
            for name, file in files.items()
        }
        taken = latencies(models, side, side)
        slower = self._plan.slower
        return {
            name: (Cost(files[name].stat().st_size, taken[name] * slower.get(name, 1.0)), model)
            for name, model in models.items()
            if name in taken
        }

    def _evaluation(self, candidate: Candidate) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        examples = self._examples(candidate, "eval")
        pixels = np.concatenate([batch[PIXELS].numpy() for batch in examples.batches(BATCH)])
        return pixels, LabelledExamples.read(examples).label_ids


def latencies(models: Mapping[str, PixelModel], height: int, width: int) -> dict[str, float]:
    """Median milliseconds of an image, by model that runs.

    Args:
        models: by name.
        height: of their inputs, in pixels.
        width: likewise.
    """
    image = np.random.default_rng(0).random((height, width, 3), np.float32)
    errors: dict[str, str] = {}
    seconds = time_in_turns(models, [image] * TIMED, errors)
    for name, error in errors.items():
        _LOG.warning("%s is left out: %s", name, error)
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
