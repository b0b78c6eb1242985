"""The content of a TFLiteModels artifact: which variants there are, or why there is none.

models.json              a table: ModelFile a variant
calibration.json         which images of which split integer ranges and parity come from
preprocessing.json       the preprocessing contract, from the SavedModel
<variant>/model.tflite
mixed/frontier.json      the recipes that `mixed` was chosen from, and what was measured of each
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.trained_model import CONTRACT_FILE
from edgeline.contract import PreprocessingContract

MODELS_FILE = "models.json"
CALIBRATION_FILE = "calibration.json"
MODEL_FILE = "model.tflite"
FRONTIER_FILE = "frontier.json"


@dataclass(frozen=True)
class Parity:
    """How far a file's probabilities are from the float model's, on calibration images."""

    images: int
    max_difference: float
    mean_difference: float


@dataclass(frozen=True)
class FrontierPoint:
    """A way to quantize that no other measured one beats in size, latency and accuracy at once."""

    name: str  # in words; the recipe itself is in FRONTIER_FILE
    bytes: int
    accuracy: float  # on the images that were searched with
    latency_ms: float  # median of one image, all recipes in turns
    answers: tuple[str, ...]  # the questions that it answers: "smallest" and so on


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output is from the float model's, on some calibration images.

    Attributes:
        name: of the layer's output tensor.
        error: root mean square of the difference, as a share of that of the float model's output.
        before: the same of what goes into the layer; of several inputs, the largest.
    """

    name: str
    error: float
    before: float


@dataclass(frozen=True)
class ModelFile:
    """One variant: a file and its facts, or the error that stopped its conversion."""

    variant: str
    quantization: str  # what the converter was asked for, in words
    converter: str  # name and version
    seconds: float  # that the conversion took
    file: str | None = None  # relative to the artifact
    sha256: str | None = None  # hex
    bytes: int | None = None
    error: str | None = None
    parity: Parity | None = None
    frontier: tuple[FrontierPoint, ...] = ()  # what `mixed` was chosen from, by size
    layers: tuple[LayerError, ...] = ()  # those that bring most of the difference from float
    note: str = ""  # what `mixed` is and by what it was chosen, in words

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ModelFile:
        """Reads a row of models.json."""
        parity = row.get("parity")
        frontier = tuple(
            FrontierPoint(**{**point, "answers": tuple(point["answers"])})
            for point in row.get("frontier", ())
        )
        layers = tuple(LayerError(**layer) for layer in row.get("layers", ()))
        return cls(
            **{
                **row,
                "parity": Parity(**parity) if parity else None,
                "frontier": frontier,
                "layers": layers,
            }
        )


@dataclass(frozen=True)
class TFLiteModelsFolder:
    """A TFLiteModels artifact on disk."""

    folder: Path
    models: tuple[ModelFile, ...]
    contract: PreprocessingContract

    @classmethod
    def load(cls, folder: Path) -> TFLiteModelsFolder:
        """Reads an artifact.

        Raises:
            OSError: a file is missing.
            edgeline.errors.ContractError: the preprocessing contract is malformed.
        """
        table = json.loads((folder / MODELS_FILE).read_text(encoding="utf-8"))
        contract = PreprocessingContract.from_json((folder / CONTRACT_FILE).read_bytes())
        return cls(folder, tuple(ModelFile.from_row(row) for row in table["models"]), contract)

    def path(self, model: ModelFile) -> Path:
        """Where a variant's file is.

        Raises:
            ValueError: the variant has none, because its conversion failed.
        """
        if model.file is None:
            raise ValueError(f"variant {model.variant!r} was not converted: {model.error}")
        return self.folder / model.file

    def write(self) -> None:
        """Writes the table and the contract; the model files are in place already."""
        table = {"models": [asdict(model) for model in self.models]}
        (self.folder / MODELS_FILE).write_text(json.dumps(table, indent=2) + "\n")
        (self.folder / CONTRACT_FILE).write_bytes(self.contract.to_json())


def variant_names(models: Sequence[ModelFile]) -> list[str]:
    """The variants that were converted, in order."""
    return [model.variant for model in models if model.error is None]
