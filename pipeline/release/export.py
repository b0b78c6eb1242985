"""Files without a registry: the variants that passed, with all that belongs to them, in a folder.

FOLDER/
  <variant>.tflite     with labels and input normalization in its TFLite metadata
  preprocessing.json   how an image becomes the model's input, exactly
  labels.txt           the classes in the order of the model's output, a line each
  verdict.json         what was measured against which threshold
  report.html          the same for people
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from components.edge_pusher.push import GateNotPassed, checked_digests, refusal
from components.tflite_models import ModelFile, TFLiteModelsFolder
from components.trained_model import CONTRACT_FILE
from components.verdict import REPORT_FILE, VERDICT_FILE, Verdict
from pipeline.data.dataset import LABELS_FILE
from pipeline.errors import UserError
from pipeline.history.record import RunRecord

FOLDER = "export"  # below a run's root, where there is no registry
MODEL_SUFFIX = ".tflite"
_OTHERS = {CONTRACT_FILE, LABELS_FILE, VERDICT_FILE, REPORT_FILE}


def export(
    models_folder: Path,
    verdict_folder: Path,
    to: Path,
    *,
    blessed: bool = True,
    all_variants: bool = False,
) -> tuple[str, ...]:
    """Writes a folder of files; an earlier export in its place is replaced, whole.

    Args:
        models_folder: a TFLiteModels artifact.
        verdict_folder: a TFLiteVerdict artifact, on those models.
        to: the folder.
        blessed: whether TFX's Evaluator blessed the float model.
        all_variants: also those that did not pass.

    Returns:
        The variants that were written.

    Raises:
        GateNotPassed: there is nothing to write.
        UserError: in the folder is something else than an earlier export.
        ValueError: a file is not the one that was judged.
        OSError: the folder can't be written, or an artifact is gone.
    """
    verdict, models = Verdict.load(verdict_folder), TFLiteModelsFolder.load(models_folder)
    wanted = _wanted(models, verdict, blessed=blessed, all_variants=all_variants)
    files = {model.variant: models.path(model) for model in wanted}
    checked_digests(files, verdict)
    _check_place(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        for variant, file in files.items():
            shutil.copyfile(file, made / f"{variant}{MODEL_SUFFIX}")
        (made / CONTRACT_FILE).write_bytes(models.contract.to_json())
        labels = "".join(f"{label}\n" for label in models.contract.labels)
        (made / LABELS_FILE).write_text(labels, encoding="utf-8")
        for name in (VERDICT_FILE, REPORT_FILE):
            shutil.copyfile(verdict_folder / name, made / name)
        _replace(made, to, Path(scratch, "replaced"))
    return tuple(files)


def _replace(made: Path, to: Path, replaced: Path) -> None:
    """Puts one folder in another's place, which stays if that fails."""
    if to.exists():
        to.replace(replaced)
    try:
        made.replace(to)
    except BaseException:
        if replaced.exists():
            replaced.replace(to)
        raise


def export_run(run: RunRecord, root: Path, to: Path, *, all_variants: bool) -> tuple[str, ...]:
    """Writes the files of a run that is on record; as `export`.

    Args:
        run: that came to a verdict.
        root: its run root, absolute.
        to: the folder.
        all_variants: also those that did not pass.

    Raises:
        GateNotPassed: as `export`.
        UserError: the run came to no verdict, or its artifacts are gone; as `export`.
        OSError: as `export`.
    """
    if run.judgement is None or run.models is None:
        raise UserError(
            f"{run.id}: that run ended without a verdict on TFLite models; expected one of those "
            "with an ACCURACY in `python -m pipeline runs`"
        )
    blessed = run.outcome != "refused"
    try:
        return export(
            root / run.models,
            root / run.judgement.folder,
            to,
            blessed=blessed,
            all_variants=all_variants,
        )
    except FileNotFoundError as error:
        raise UserError(f"{run.id}: its artifacts are gone: {error.filename}") from error


def _wanted(
    models: TFLiteModelsFolder, verdict: Verdict, *, blessed: bool, all_variants: bool
) -> Sequence[ModelFile]:
    made = [model for model in models.models if model.error is None]
    if all_variants:
        return made
    if not blessed or not verdict.publishable:
        raise GateNotPassed(refusal(verdict, blessed=blessed))
    return [model for model in made if model.variant in verdict.publishable]


def _check_place(to: Path) -> None:
    if not to.exists():
        return
    if not to.is_dir():
        raise UserError(f"{to} exists and is not a folder")
    foreign = [
        path.name
        for path in to.iterdir()
        if path.name not in _OTHERS and path.suffix != MODEL_SUFFIX
    ]
    if foreign:
        raise UserError(
            f"{to} holds what an export did not write ({min(foreign)}): choose a new or "
            "empty folder"
        )
