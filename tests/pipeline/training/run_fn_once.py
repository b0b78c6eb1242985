"""Calls the Trainer's `run_fn` in a process of its own, as TFX does.

    python -m tests.pipeline.training.run_fn_once FOLDER SETTINGS

FOLDER holds `train.gz`, `eval.gz` and the transform graph, and is given `model` and `run`; SETTINGS
are those of `[trainer]`, in JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tfx.components.trainer.fn_args_utils import FnArgs

from pipeline.config import TrainerConfig
from pipeline.trainer import run_fn
from tests.pipeline.training.conftest import SIDE


def main(folder: Path, settings: str) -> None:
    """Trains and saves."""
    (folder / "run").mkdir()
    custom_config = {
        "height": SIDE,
        "width": SIDE,
        "max_side": 512,
        "checkpoints": str(folder / "checkpoints"),
        "trainer": TrainerConfig(**json.loads(settings)).model_dump(mode="json"),
    }
    run_fn(
        FnArgs(
            train_files=[str(folder / "train.gz")],
            eval_files=[str(folder / "eval.gz")],
            transform_graph_path=str(folder / "graph"),
            serving_model_dir=str(folder / "model"),
            model_run_dir=str(folder / "run"),
            custom_config=custom_config,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
