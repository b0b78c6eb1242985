"""Digests change with what they stand for, and with nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import pipeline.orchestration.settings as definition
from pipeline.content_digest import (
    code_digest,
    file_digest,
    source_digest,
    tree_digest,
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "some_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "code.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_package_s_digest_changes_with_any_of_its_files(package: Path) -> None:
    before = source_digest("some_package")
    assert source_digest("some_package") == before
    (package / "template.jinja").write_text("a template")
    with_template = source_digest("some_package")
    assert with_template != before
    (package / "code.py").write_text("x = 2\n")
    assert source_digest("some_package") != with_template
    cached = package / "__pycache__" / "code.pyc"
    cached.parent.mkdir()
    before = source_digest("some_package")
    cached.write_bytes(b"1")
    assert source_digest("some_package") == before


def test_a_module_s_digest_is_its_own(package: Path) -> None:
    before = source_digest("some_package.code")
    (package / "other.py").write_text("y = 1\n")
    assert source_digest("some_package.code") == before


def test_a_module_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        source_digest("pipeline.nothing")


def test_a_file_s_digest_is_that_of_its_content(tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    assert file_digest(str(file)) == ""
    file.write_bytes(b"1")
    before = file_digest(str(file))
    file.write_bytes(b"2")
    assert file_digest(str(file)) != before


def test_a_folder_s_digest_is_that_of_all_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert tree_digest(str(folder)) == tree_digest("") == ""
    (folder / "variables").mkdir(parents=True)
    digests = set()
    for name, content in (("a", b"1"), ("a", b"2"), ("variables/a", b"2")):
        (folder / name).write_bytes(content)
        digests.add(tree_digest(str(folder)))
    assert len(digests) == 3


STEPS = {
    "StatisticsGen": ("components.statistics_gen.executor",),
    "ExampleValidator": ("components.example_validator.step",),
    "Transform": ("pipeline.data.preprocessing",),
    "Trainer": ("pipeline.training.trainer", "pipeline.training.tuner"),
    "Evaluator": ("pipeline.release.evaluation",),
    "TFLiteRewriter": ("components.tflite_rewriter.step", "components.tflite_rewriter.worker"),
    "TFLitePredictor": ("components.tflite_predictor.executor",),
    "TFLiteEvaluator": ("components.tflite_evaluator.executor",),
}
LOADED = """
import sys, importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
ours = ("pipeline", "components", "edgeline")
print("loaded", *(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ours))
"""


@pytest.mark.parametrize(
    "step", ["Trainer", "TFLiteRewriter", "TFLitePredictor", "TFLiteEvaluator"]
)
def test_whatever_module_or_template_of_a_step_changes_its_results_are_stale(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all modules that it really loads, and what lies beside them."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *STEPS[step]], capture_output=True, text=True, check=True
    )
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("loaded ")]
    loaded = [Path(file) for file in line.split()[1:]]
    beside = [
        file
        for folder in {file.parent for file in loaded}
        for file in folder.iterdir()
        if file.is_file() and file.suffix != ".py"
    ]
    monkeypatch.setattr("pipeline.content_digest.library_versions", dict)
    known = cache(file_digest)
    changed = ""
    monkeypatch.setattr(
        "pipeline.content_digest.file_digest",
        lambda path: "other" if path == changed else known(path),
    )
    before = code_digest(*STEPS[step])
    for file in (*loaded, *beside):
        changed = str(file)
        assert code_digest(*STEPS[step]) != before, file


def test_every_module_and_template_of_a_step_makes_its_results_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {step: code_digest(*modules) for step, modules in STEPS.items()}
    files = {
        "pipeline/config.py": {"Trainer"},
        "pipeline/training/base_weights.py": {"Trainer"},
        "edgeline/contract.py": {"Transform", "Trainer", "TFLiteRewriter"}
        | {"TFLitePredictor", "TFLiteEvaluator"},
        "components/report/report.html.jinja": {"TFLiteEvaluator"},
        "components/report/charts.py": {"TFLiteEvaluator"},
        "components/intervals.py": {"TFLiteEvaluator"},
        "components/metrics.py": {"Evaluator"},
        "components/tflite_predictor/models.py": {"TFLitePredictor"},
        "components/tflite_rewriter/convert.py": {"TFLiteRewriter"},
        "components/tflite_rewriter/mixed.py": {"TFLiteRewriter"},
        "pipeline/training/recipe.py": {"Trainer"},
    }
    for changed, steps in files.items():

        def digest(path: str, changed: str = changed) -> str:
            return "other" if path.endswith(changed) else file_digest(path)

        with monkeypatch.context() as patch:
            patch.setattr("pipeline.content_digest.file_digest", digest)
            stale = {
                step for step, modules in STEPS.items() if code_digest(*modules) != before[step]
            }
        assert stale == steps, changed


def test_the_pipeline_s_steps_are_those_of_these_tests() -> None:
    source = Path(definition.__file__).read_text()
    named = {
        tuple(re.findall(r'"([^"]+)"', call))
        for call in re.findall(r"code_digest\(([^)]*)\)", source)
    }
    assert named == set(STEPS.values())
