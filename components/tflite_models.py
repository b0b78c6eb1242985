"""The content of a TFLiteModels artifact: which variants there are, or why there is none.

models.json              a table: ModelFile a variant
preprocessing.json       the preprocessing contract, from the SavedModel
<variant>/model.tflite
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeline.contract import PreprocessingContract

MODELS_FILE = "models.json"
CONTRACT_FILE = "preprocessing.json"
MODEL_FILE = "model.tflite"


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
        return cls(folder, tuple(ModelFile(**row) for row in table["models"]), contract)

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


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
