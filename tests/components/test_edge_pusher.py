"""What the pusher publishes, and what it refuses to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.edge_pusher.push import GateNotPassed, push
from components.tflite_models import ModelFile, TFLiteModelsFolder, sha256_of
from components.verdict import Check, VariantVerdict, Verdict
from edgeline.contract import PreprocessingContract
from edgeline.registry.reader import LayoutReader

PASSED = Check("accuracy", "overall", 0.8, 0.7)
MISSED = Check("accuracy", "overall", 0.6, 0.7)


@pytest.fixture
def models(tmp_path: Path) -> TFLiteModelsFolder:
    contract = PreprocessingContract(height=32, width=32, max_side=512, labels=("cat", "dog"))
    made = []
    for variant in ("float32", "float16"):
        file = tmp_path / "models" / variant / "model.tflite"
        file.parent.mkdir(parents=True)
        file.write_bytes(variant.encode())
        relative = str(file.relative_to(tmp_path / "models"))
        made.append(ModelFile(variant, variant, "tf", 1.0, relative, sha256_of(file), 7))
    return TFLiteModelsFolder(tmp_path / "models", tuple(made), contract)


def verdict(models: TFLiteModelsFolder, float_check: Check, *checks: Check) -> Verdict:
    variants = (
        VariantVerdict(model.variant, (check,), bytes=model.bytes, sha256=model.sha256)
        for model, check in zip(models.models, checks, strict=True)
    )
    return Verdict("test", 100, VariantVerdict("float", (float_check,)), tuple(variants))


def pushed(models: TFLiteModelsFolder, judged: Verdict, blessed: bool = True) -> list[str]:
    """Pushes; returns the variants that the registry then serves."""
    registry = models.folder.parent / "registry"
    push(
        models,
        judged,
        b"<html>",
        blessed=blessed,
        registry=registry,
        model="pets",
        channel="candidate",
    )
    release = LayoutReader(registry).open_release("pets", "candidate")
    return [variant.name for variant in release.variants]


def test_only_the_variants_that_passed_are_published(models: TFLiteModelsFolder) -> None:
    assert pushed(models, verdict(models, PASSED, MISSED, PASSED)) == ["float16"]


def test_the_same_content_again_is_the_same_release(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, PASSED, PASSED)
    pushed(models, judged)
    pushed(models, judged)
    assert len(LayoutReader(models.folder.parent / "registry").releases()) == 1


REFUSED = {
    "no variant passed": ((PASSED, MISSED, MISSED), True, "float16: accuracy is 0.6000"),
    "the float model did not pass": ((MISSED, PASSED, PASSED), True, "float: accuracy is 0.6000"),
    "the Evaluator did not bless": ((PASSED, PASSED, PASSED), False, "did not bless"),
}


@pytest.mark.parametrize(("checks", "blessed", "reason"), REFUSED.values(), ids=REFUSED)
def test_nothing_is_published_when(
    checks: tuple[Check, Check, Check], blessed: bool, reason: str, models: TFLiteModelsFolder
) -> None:
    with pytest.raises(GateNotPassed) as caught:
        pushed(models, verdict(models, *checks), blessed)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 3
    assert not (models.folder.parent / "registry").exists()


def test_a_file_changed_after_it_was_measured_is_not_published(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, PASSED, PASSED)
    models.path(models.models[0]).write_bytes(b"another model")
    with pytest.raises(ValueError, match="it was changed after it was measured"):
        pushed(models, judged)
    assert not (models.folder.parent / "registry").exists()


def test_a_verdict_about_other_variants_publishes_nothing(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, PASSED, PASSED)
    strangers = tuple(replace(v, variant=f"{v.variant}_x") for v in judged.variants)
    with pytest.raises(GateNotPassed, match="none of the variants that passed"):
        pushed(models, replace(judged, variants=strangers))
