"""What TFX hands to a training or a search, in our own terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx.components.trainer.fn_args_utils import FnArgs

from components.examples import TransformedExamples
from pipeline.config import TrainerConfig
from pipeline.training.devices import ONE_DEVICE, Devices
from pipeline.training.features import LabelledExamples
from pipeline.training.inputs import Job

NO_FINE_TUNING = "none"


@dataclass(frozen=True)
class Setup:
    """The data and the settings of a step.

    Attributes:
        config: the recipe.
        train: the split to fit.
        evaluation: the split that early stopping looks at.
    """

    config: TrainerConfig
    train: TransformedExamples
    evaluation: TransformedExamples

    @classmethod
    def of(cls, fn_args: FnArgs) -> Setup:
        """Reads what the DAG put into `custom_config`, and opens the splits."""
        custom = fn_args.custom_config
        return cls(
            config=TrainerConfig(**custom["trainer"]),
            train=TransformedExamples(fn_args.train_files, fn_args.transform_graph_path),
            evaluation=TransformedExamples(fn_args.eval_files, fn_args.transform_graph_path),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return self.train.labels

    @property
    def files(self) -> list[str]:
        """All that is read."""
        return [*self.train.files, *self.evaluation.files]

    def job(
        self,
        config: TrainerConfig,
        log_dir: Path,
        state_dir: Path,
        devices: Devices = ONE_DEVICE,
    ) -> Job:
        """A training of these splits, whose labels it reads."""
        return Job(
            config=config,
            labels=self.labels,
            train=LabelledExamples.read(self.train),
            evaluation=LabelledExamples.read(self.evaluation),
            log_dir=log_dir,
            state_dir=state_dir,
            devices=devices,
        )


def tuned(config: TrainerConfig, values: Mapping[str, Any]) -> TrainerConfig:
    """A recipe with values that a search has found; `tuner`, beside this, says which there are."""
    settings = {**config.model_dump(), **values}
    if "fine_tune_from" in values:
        settings["fine_tune_layers"] = None
        if values["fine_tune_from"] == NO_FINE_TUNING:
            settings |= {"fine_tune_from": None, "fine_tune_epochs": 0}
    return TrainerConfig(**settings)
