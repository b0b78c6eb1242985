"""The folder of files that a run without a registry ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.edge_pusher.push import GateNotPassed
from components.tflite_models import ModelFile, TFLiteModelsFolder
from components.verdict import REPORT_FILE, VERDICT_FILE, Check, VariantVerdict, Verdict
from edgeline._files import sha256_of
from edgeline.contract import PreprocessingContract
from pipeline.errors import UserError
from pipeline.release.export import export

CONTRACT = PreprocessingContract(height=4, width=4, max_side=512, labels=("cat", "dog"))
PASSED = Check("accuracy", "overall", 0.8, 0.7)
MISSED = Check("accuracy", "overall", 0.6, 0.7)
OTHERS = {"preprocessing.json", "labels.txt", "verdict.json", "report.html"}


@pytest.fixture
def artifacts(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of TFLite models and of the verdict on them: float16 passed, and int8 did not."""
    models, judged = tmp_path / "models", tmp_path / "verdict"
    files, variants = [], []
    for name, check in (("float16", PASSED), ("int8", MISSED)):
        file = models / name / "model.tflite"
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
        digest = sha256_of(file)
        files.append(ModelFile(name, name, "tf", 1.0, f"{name}/model.tflite", digest, 1))
        variants.append(VariantVerdict(name, (check,), sha256=digest))
    TFLiteModelsFolder(models, tuple(files), CONTRACT).write()
    judged.mkdir()
    verdict = Verdict("test", 100, VariantVerdict("float", (PASSED,)), tuple(variants))
    (judged / VERDICT_FILE).write_bytes(verdict.to_json())
    (judged / REPORT_FILE).write_text("<html>")
    return models, judged


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_passed_is_written_with_what_belongs_to_it(
    artifacts: tuple[Path, Path], tmp_path: Path
) -> None:
    assert export(*artifacts, tmp_path / "out") == ("float16",)
    assert names(tmp_path / "out") == {"float16.tflite", *OTHERS}
    assert (tmp_path / "out" / "float16.tflite").read_bytes() == b"float16"
    assert (tmp_path / "out" / "labels.txt").read_text() == "cat\ndog\n"
    contract = (tmp_path / "out" / "preprocessing.json").read_bytes()
    assert PreprocessingContract.from_json(contract) == CONTRACT


def test_an_earlier_export_is_replaced_whole(artifacts: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(*artifacts, out, all_variants=True) == ("float16", "int8")
    assert names(out) == {"float16.tflite", "int8.tflite", *OTHERS}
    export(*artifacts, out)
    assert names(out) == {"float16.tflite", *OTHERS}
    assert names(tmp_path) == {"models", "verdict", "out"}


def test_a_model_that_is_not_blessed_stays_here(
    artifacts: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(GateNotPassed, match="the Evaluator did not bless the model"):
        export(*artifacts, tmp_path / "out", blessed=False)
    assert not (tmp_path / "out").exists()


def test_what_is_no_export_is_not_replaced(artifacts: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").touch()
    with pytest.raises(UserError, match=r"holds what an export did not write \(thesis.docx\)"):
        export(*artifacts, tmp_path / "out")
    assert names(tmp_path / "out") == {"thesis.docx"}


def test_a_file_that_was_changed_after_it_was_judged_is_refused(
    artifacts: tuple[Path, Path], tmp_path: Path
) -> None:
    (artifacts[0] / "float16" / "model.tflite").write_bytes(b"other")
    with pytest.raises(ValueError, match="it was changed after it was measured"):
        export(*artifacts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_earlier_export_stays_when_the_new_one_cannot_take_its_place(
    artifacts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(*artifacts, out, all_variants=True)
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == "made":
            raise OSError("the disk was pulled")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="pulled"):
        export(*artifacts, out)
    assert names(out) == {"float16.tflite", "int8.tflite", *OTHERS}
