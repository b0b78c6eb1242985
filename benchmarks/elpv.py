"""ELPV's solar cells as examples, split by label and type of cell, for benchmarks on real images.

Buerhop-Lux et al. 2018; CC BY-NC-SA 4.0; from the package elpv-dataset. A cell counts as defective
where the experts' probability is above 0.5, as everywhere in this project.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from benchmarks.examples import write_examples, write_transform_graph
from components.examples import TransformedExamples
from pipeline.demo import DEFECTIVE_ABOVE
from pipeline.training.features import LabelledExamples

LABELS = ("defective", "functional")
EVAL_SHARE = 0.25

Row = tuple[Path, str, str]  # path, label, type of cell


@dataclass(frozen=True)
class Elpv:
    """The splits.

    Attributes:
        train: to fit.
        stopping: for early stopping: a share of the train split, or the eval split itself.
        evaluation: 25% of the images.
        cell_types: of the eval split's images, "mono" or "poly", in their order.
        graph: the transform graph.
    """

    train: LabelledExamples
    stopping: LabelledExamples
    evaluation: LabelledExamples
    cell_types: NDArray[np.str_]
    graph: Path


def load(folder: Path, side: int, seed: int = 0, stopping_share: float = 0.0) -> Elpv:
    """Writes ELPV as TFRecords for images of a side in pixels.

    Args:
        folder: for the files.
        side: in pixels.
        seed: of the split, which is stratified by label and type of cell.
        stopping_share: of the train split, kept out of it for early stopping; 0 has the eval split
            stop early, too, which flatters its accuracy.
    """
    graph = folder / f"transform-{side}"
    if not graph.exists():
        write_transform_graph(graph, side, LABELS)
    train, held_out = _split(_rows(), EVAL_SHARE, seed)
    rows = {"train": train, "eval": held_out}
    if stopping_share:
        rows["train"], rows["stopping"] = _split(train, stopping_share, seed)
    splits = {}
    for name, chosen in rows.items():
        examples = ((path.read_bytes(), label) for path, label, _ in chosen)
        files = write_examples(folder / f"{name}-{seed}.gz", examples)
        read = TransformedExamples(files, graph / "graph")
        splits[name] = LabelledExamples.read(read)
    return Elpv(
        train=splits["train"],
        stopping=splits.get("stopping", splits["eval"]),
        evaluation=splits["eval"],
        cell_types=np.array([cell_type for _, _, cell_type in held_out]),
        graph=graph / "graph",
    )


def _split(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    strata = [label + cell_type for _, label, cell_type in rows]
    train, rest = train_test_split(rows, test_size=share, stratify=strata, random_state=seed)
    return train, rest


def _rows() -> list[Row]:
    """Every cell."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SystemExit("these benchmarks need elpv-dataset: pip install elpv-dataset")
    source = Path(spec.origin).parent / "data"
    rows = []
    for line in (source / "labels.csv").read_text(encoding="utf-8").splitlines():
        path, probability, cell_type = line.split()
        label = LABELS[0] if float(probability) > DEFECTIVE_ABOVE else LABELS[1]
        rows.append((source / path, label, cell_type))
    return rows
