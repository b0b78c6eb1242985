"""What is refused or warned about before the first step runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edgeline.cli import main
from edgeline.publish.store import open_for_writing
from pipeline.config import Config, parse_config
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.orchestration.preflight import check, check_root
from tests.conftest import make_registry

COUNTS = {
    "train": {"cat": 60, "dog": 40},
    "eval": {"cat": 5, "dog": 5},
    "test": {"cat": 1200, "dog": 800},
}
DATASET = Dataset(
    path=Path("dataset"),
    labels=("cat", "dog"),
    slice_keys=("camera",),
    schema_path=Path("dataset/schema.pbtxt"),
    max_side=512,
    counts=COUNTS,
    options={"max_side": 512, "labels": "/home/somebody/labels.txt"},
    digest="bb",
)


@pytest.fixture(autouse=True, scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to run in with a registry and keys in the usual places; nobody writes to it."""
    folder = tmp_path_factory.mktemp("preflight")
    make_registry(folder, "pets")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def config(name: str = "pets", **sections: dict[str, Any]) -> Config:
    document = {
        "name": name,
        "data": {"path": "dataset"},
        "gate": {"min_accuracy": 0.9, **sections.pop("gate", {})},
        "trainer": {"base_weights": "random", **sections.pop("trainer", {})},
        **sections,
    }
    return parse_config(document, "test")


def checked(
    dataset: Dataset = DATASET, name: str = "pets", **sections: dict[str, Any]
) -> list[str]:
    return check(config(name, **sections), dataset)


def test_nothing_is_said_when_nothing_is_wrong() -> None:
    assert checked() == []


@pytest.mark.parametrize("name", ["runs[1]", "what?", "all*", "c:\\runs", "[work]/runs"])
def test_a_run_root_that_tfx_takes_for_a_pattern_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^run\.root: TFX can't read files in .*: expected a fol"):
        check_root(config(run={"root": name}))


def test_a_run_root_may_have_other_odd_characters() -> None:
    check_root(config(run={"root": "my {runs} ] #1 & 100%"}))


def test_more_classes_than_devices_load_are_refused_before_training() -> None:
    many = replace(DATASET, labels=tuple(f"class {number}" for number in range(11_000)))
    with pytest.raises(UserError, match="11,000 classes; expected at most 10,000, which devices"):
        checked(many)


@pytest.mark.parametrize("split", ["train", "eval", "test"])
def test_a_split_without_a_class_is_refused(split: str) -> None:
    lacking = replace(DATASET, counts={**COUNTS, split: {"cat": 10, "dog": 0}})
    with pytest.raises(UserError, match=f"split '{split}' has no image of dog"):
        checked(lacking)


def test_a_slice_key_that_the_data_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="has no such slice key; it has: camera"):
        checked(gate={"min_slice_accuracy": {"cell_type": 0.5}})


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"at most the train split's 100 images; received 128"):
        checked(trainer={"batch_size": 128})


def test_a_model_to_go_on_from_must_be_there() -> None:
    with pytest.raises(UserError, match=r"trainer\.warm_start: no such file or folder: none"):
        checked(trainer={"warm_start": "none"})


def test_a_file_of_weights_must_be_there() -> None:
    with pytest.raises(UserError, match=r"trainer\.base_weights: no such file: none\.h5"):
        checked(trainer={"base_weights": "none.h5"})


def test_a_model_to_go_on_from_needs_no_imagenet_weights(tmp_path: Path) -> None:
    assert checked(trainer={"base_weights": "imagenet", "warm_start": str(tmp_path)}) == []


def refused(name: str = "pets", **settings: Any) -> str:
    """What is said of settings of the registry, for a run that could not publish."""
    with pytest.raises(UserError) as caught:
        checked(name=name, registry=settings)
    return str(caught.value)


def test_without_a_registry_the_command_that_makes_it_is_told(tmp_path: Path) -> None:
    said = refused(root=str(tmp_path / "keys" / "root.json"), location="oci://127.0.0.1:1/pets")
    assert said.startswith(f"registry.root: {tmp_path}/keys/root.json can't be read: No such file")
    command = f"registry init oci://127.0.0.1:1/pets --model pets --keys {tmp_path}/keys"
    assert said.splitlines()[1] == f"  edgeline {command}"


def test_that_command_makes_what_the_check_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = refused().splitlines()[1]
    assert main([*shlex.split(command)[1:], "--no-passphrase"]) == 0
    assert checked() == []


def test_a_directory_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("not a registry")
    said = refused(location=str(tmp_path))
    assert said.startswith(f"registry.location: {tmp_path}")


def test_a_registry_that_was_never_signed_is_refused(tmp_path: Path) -> None:
    store = open_for_writing(str(tmp_path / "registry"))
    with store.exclusive():
        pass
    said = refused(location=store.location)
    assert "holds no signed metadata: it has no tag 'tuf'" in said
    assert f"edgeline registry init {store.location} --model pets --keys NEW-FOLDER" in said


def test_a_registry_of_another_root_is_refused(tmp_path: Path) -> None:
    make_registry(tmp_path, "pets")
    said = refused(location=str(tmp_path / "registry"))
    assert said.startswith("registry.location: ")
    assert "is another registry than the one that the given root belongs to" in said


def test_a_server_that_does_not_answer_is_one_clear_line() -> None:
    said = refused(location="oci://127.0.0.1:1/pets")
    assert said.startswith("registry.location: ")
    assert len(said.splitlines()) == 1


def test_a_model_that_the_registry_does_not_know_is_refused() -> None:
    said = refused(name="birds", keys=["keys/pets-ci.pem"])
    assert said.startswith("name: registry has no model 'birds'; it has pets.")


def test_the_commands_that_add_the_model_do_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_registry(tmp_path, "pets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELINE_PASSPHRASE", "correct horse")
    for command in refused(name="birds", keys=["keys"]).splitlines()[1:]:
        assert main(shlex.split(command)[1:]) == 0
    assert checked(name="birds") == []


KEYS = {
    "a file that is not there": ("keys/none.pem", "keys/none.pem cannot be read: No such file"),
    "a variable that is not set": ("envvar:NO_SUCH_KEY", "'NO_SUCH_KEY' is not set"),
    "another role's": ("keys/pets-release.pem", "Role 'pets-ci' is signed by 1 of the keys"),
}


@pytest.mark.parametrize(("key", "message"), KEYS.values(), ids=KEYS)
def test_a_key_that_cannot_sign_the_channel_is_refused(key: str, message: str) -> None:
    said = refused(keys=["keys/online.pem", key])
    assert said.startswith("registry.keys: ")
    assert message in said


@pytest.mark.parametrize(
    ("passphrase", "message"),
    [(None, "a run does not stop to ask for it: set EDGELINE_PASSPHRASE"), ("no", "is wrong")],
    ids=["missing", "wrong"],
)
def test_a_passphrase_is_tried_before_the_run(
    passphrase: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELINE_PASSPHRASE", "correct horse")
    command = ["registry", "init", str(tmp_path / "r"), "--model", "pets", "--keys"]
    assert main([*command, str(tmp_path / "keys")]) == 0
    settings = {"location": str(tmp_path / "r"), "root": str(tmp_path / "keys" / "root.json")}
    assert checked(registry=settings) == []
    if passphrase is None:
        monkeypatch.delenv("EDGELINE_PASSPHRASE")
    else:
        monkeypatch.setenv("EDGELINE_PASSPHRASE", passphrase)
    assert message in refused(**settings)


def test_signatures_that_expire_soon_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_registry(tmp_path, "pets")
    settings = {
        "location": str(tmp_path / "registry"),
        "root": str(tmp_path / "keys" / "root.json"),
    }
    in_25_days = datetime.now(timezone.utc) + timedelta(days=25)
    monkeypatch.setattr("edgeline.publish.signatures.now", lambda: in_25_days)
    (warning,) = checked(registry=settings)
    said, command = warning.split(" expire: ")
    assert "devices refuse it from" in said
    assert "when signatures of snapshot, timestamp" in said
    assert main(shlex.split(command)[1:]) == 0
    assert checked(registry=settings) == []


FEW = replace(DATASET, counts={**COUNTS, "test": {"cat": 40, "dog": 25}})


def test_what_too_few_images_cannot_prove_is_warned_about() -> None:
    gate = {"min_recall": {"dog": 0.9}, "min_accuracy": 0.93}
    warnings = checked(FEW, gate=gate, rewriter={"variants": ["float32"]}, registry={})
    assert warnings == [
        "gate.max_drop and gate.max_drop_deployed = 0.01 can't be proved with 65 images: a variant "
        "that never differs on them may still drop by 0.0558; it takes 381",
        "gate.min_recall.dog = 0.9 can't be proved with 25 images: a model that is right on all of "
        "them may still be so in 0.8668 only; it takes 35",
    ]


def test_a_run_that_could_only_lack_proof_is_refused() -> None:
    with pytest.raises(UserError, match=r"(?s)max_drop_deployed = 0.01 can't be proved.*refuse"):
        checked(FEW, gate={"unproven": "refuse", "max_drop": 0.5}, registry={})


def test_without_a_registry_no_drop_against_a_release_is_to_be_proved() -> None:
    assert checked(FEW, gate={"unproven": "refuse", "max_drop": 0.5, "min_accuracy": 0.7}) == []


def test_where_figures_decide_a_budget_of_less_than_an_image_is_warned_about() -> None:
    assert checked(FEW, gate={"unproven": "refuse", "evidence": "point"}, registry={}) == [
        "gate.max_drop and gate.max_drop_deployed = 0.01 is less than one of 65 images: a variant "
        "may lose none"
    ]
    allowed = {"evidence": "point", "max_drop": 0.02, "max_drop_deployed": 0.0}
    assert checked(FEW, gate=allowed) == []


def test_classes_of_few_images_are_warned_about() -> None:
    counts = {"cat": 40, **{f"dog {i}": 3 + i for i in range(8)}}
    dataset = replace(
        DATASET, labels=tuple(counts), counts=dict.fromkeys(("train", "eval", "test"), counts)
    )
    gate = {"evidence": "point", "max_drop": 0.05, "max_drop_deployed": 0.05}
    (warning,) = checked(dataset, gate=gate)
    assert warning == (
        "the test split has fewer than 10 images of dog 0 (3), dog 1 (4), dog 2 (5), dog 3 (6), "
        "dog 4 (7) and 2 more classes: with 3, a recall of 1 proves no more than 0.44"
    )


def test_another_split_than_test_is_warned_about() -> None:
    (warning, *_) = checked(gate={"split": "eval", "min_accuracy": 0.6})
    assert "trained or chosen with these images" in warning


def test_a_gate_that_always_passes_is_warned_about() -> None:
    (warning,) = checked(gate={"min_accuracy": 0.6})
    assert "always saying 'cat' reaches 0.600 on the test split" in warning


GATES = {
    "the split that a variant is chosen by": (
        {"split": "eval"},
        {"variants": ["float32", "mixed"]},
        'gate.split: "eval" is what mixed is searched by',
    ),
    "the most accurate within no size": (
        {},
        {"variants": ["float32", "mixed"], "mixed": "most_accurate"},
        'rewriter.mixed: "most_accurate" is that within gate.max_size_mb; expected it to be set',
    ),
    "a class that does not exist": (
        {"min_recall": {"mouse": 0.5}},
        {},
        "gate.min_recall.mouse: dataset has no such class; it has: cat, dog",
    ),
    "a required variant that is not made": (
        {"require": ["int8"]},
        {},
        "int8 is required but not made; rewriter.variants has: float32, float16",
    ),
    "publishing only what is required, when nothing is": (
        {"publish": "required"},
        {},
        "publishes nothing when gate.require is empty",
    ),
    "a latency against a variant that is not made": (
        {"max_latency_ratio": 0.5},
        {"variants": "speed"},
        "relative to float32, which rewriter.variants does not have",
    ),
}


@pytest.mark.parametrize(("gate", "rewriter", "message"), GATES.values(), ids=GATES)
def test_a_gate_that_cannot_be_measured_is_refused(
    gate: dict[str, Any], rewriter: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        checked(gate=gate, rewriter=rewriter)
    assert message in str(caught.value)
