"""What the pusher publishes, and what it refuses to."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.destination import Destination
from components.edge_pusher.origin import Origin
from components.edge_pusher.push import GateNotPassed, push
from components.settings_text import from_text, to_text
from components.tflite_models import ModelFile, TFLiteModelsFolder
from components.verdict import Check, VariantVerdict, Verdict
from edgeline._files import sha256_of
from edgeline.contract import PreprocessingContract
from edgeline.drift import Sketch
from edgeline.errors import RegistryError
from edgeline.golden import Golden, check
from edgeline.key_files import read_public_key
from edgeline.publish.provenance import Resource, verify
from edgeline.publish.release import Published
from edgeline.registry.format import ReleaseRef
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import Connection, open_store
from edgeline.registry.trust import TrustedChannels
from edgeline.runtime.interpreter import PixelModel
from tests.conftest import make_registry

SIDE = 4
CONTRACT = PreprocessingContract(height=SIDE, width=SIDE, max_side=512, labels=("cat", "dog"))
SKETCH = Sketch.of(
    np.array([0, 1]), np.ones(2, np.float32), np.ones((2, 3), np.float32), classes=2
).to_json()
PASSED = Check("accuracy", "overall", 0.8, 0.7)
MISSED = Check("accuracy", "overall", 0.6, 0.7)
ORIGIN = Origin(
    "https://builder.example", {"model": "pets"}, (Resource("dataset", {"sha256": "aa" * 32}),)
)


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Two tiny models that a device could run."""
    return {name: tiny_model(seed) for seed, name in enumerate(("float32", "float16"))}


def tiny_model(seed: int) -> bytes:
    module = tf.Module()
    drawn = np.random.default_rng(seed).normal(size=[SIDE * SIDE * 3, 2])
    module.weights = tf.Variable(drawn.astype(np.float32))
    pixels = tf.TensorSpec([1, SIDE, SIDE, 3], tf.float32, "pixels")

    def classify(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(tf.reshape(pixels, [1, -1]) @ module.weights)}

    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    return content


@pytest.fixture
def models(tmp_path: Path, contents: dict[str, bytes]) -> TFLiteModelsFolder:
    make_registry(tmp_path, "pets")
    made = []
    for variant, content in contents.items():
        file = tmp_path / "models" / variant / "model.tflite"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        relative = str(file.relative_to(tmp_path / "models"))
        made.append(ModelFile(variant, variant, "tf", 1.0, relative, sha256_of(file), len(content)))
    return TFLiteModelsFolder(tmp_path / "models", tuple(made), CONTRACT)


def verdict(models: TFLiteModelsFolder, float_check: Check, *checks: Check) -> Verdict:
    variants = (
        VariantVerdict(model.variant, (check,), bytes=model.bytes, sha256=model.sha256)
        for model, check in zip(models.models, checks, strict=True)
    )
    return Verdict("test", 100, VariantVerdict("float", (float_check,)), tuple(variants))


def registry(models: TFLiteModelsFolder) -> Path:
    return models.folder.parent / "registry"


def destination(models: TFLiteModelsFolder, *keys: str) -> Destination:
    folder = models.folder.parent / "keys"
    return Destination(
        location=str(registry(models)),
        model="pets",
        channel="candidate",
        trusted_root=(folder / "root.json").read_bytes(),
        keys=tuple(str(folder / f"{key}.pem") for key in keys or ("online", "pets-ci")),
        connection=Connection(),
    )


def pushed(
    models: TFLiteModelsFolder, judged: Verdict, blessed: bool = True, keys: tuple[str, ...] = ()
) -> Published:
    return push(
        models,
        judged,
        b"<html>",
        dict.fromkeys(("float32", "float16"), SKETCH),
        blessed=blessed,
        run="run 7",
        origin=ORIGIN,
        destination=destination(models, *keys),
    )


def served(models: TFLiteModelsFolder) -> tuple[RegistryReader, Release]:
    """What a device finds on the channel."""
    store = open_store(str(registry(models)))
    root = destination(models).trusted_root
    state = models.folder.parent / "state"
    reader = RegistryReader(store)
    channels = TrustedChannels(store, root=root, state=state)
    return reader, reader.open_channel(channels, "pets", "candidate")


def versions(models: TFLiteModelsFolder) -> list[int]:
    return RegistryReader(open_store(str(registry(models)))).versions()


def test_only_the_variants_that_passed_are_published(models: TFLiteModelsFolder) -> None:
    published = pushed(models, verdict(models, PASSED, MISSED, PASSED))
    _, release = served(models)
    assert [variant.name for variant in release.variants] == ["float16"]
    assert (published.tag, published.digest) == ("v1", release.digest)


def test_devices_whose_users_choose_none_are_to_run_the_fastest(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, PASSED, PASSED)
    latencies = ({"p50": 2.0}, {"p50": 1.0})
    timed = (
        replace(each, latency_ms=latency)
        for each, latency in zip(judged.variants, latencies, strict=True)
    )
    pushed(models, replace(judged, variants=tuple(timed)))
    _, release = served(models)
    assert [variant.name for variant in release.variants] == ["float16", "float32"]


def test_the_same_content_again_is_the_same_release(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, PASSED, PASSED)
    first, again = pushed(models, judged), pushed(models, judged)
    assert (again.tag, again.digest, again.created) == (first.tag, first.digest, False)
    assert versions(models) == [1]


def test_a_push_that_broke_off_leaves_no_release_and_is_made_up_for_with_the_same_bytes(
    models: TFLiteModelsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its provenance has no time of its own: the second attempt makes no manifest of its own."""
    from edgeline.publish.repository import Repository

    begun: list[str] = []

    def interrupt(repository: object, model: str, channel: str, release: ReleaseRef) -> None:
        begun.append(release.index.digest)
        raise KeyboardInterrupt

    judged = verdict(models, PASSED, PASSED, PASSED)
    with monkeypatch.context() as broken:
        broken.setattr(Repository, "point", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pushed(models, judged)
    assert versions(models) == []
    pushed(models, judged)
    assert versions(models) == [1]
    assert [served(models)[1].digest] == begun


def test_the_release_says_where_it_comes_from(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, MISSED, PASSED)
    pushed(models, judged)
    reader, release = served(models)
    envelope = reader.read_provenance(release)
    assert envelope is not None
    ci = read_public_key(models.folder.parent / "keys" / "pets-ci.pub")
    provenance = verify(envelope, [ci])
    (variant,) = release.variants
    assert provenance.subjects == {"float16": variant.model.digest.removeprefix("sha256:")}
    predicate = provenance.statement["predicate"]
    assert predicate["runDetails"]["metadata"] == {"invocationId": "run 7"}
    assert predicate["runDetails"]["builder"] == {"id": "https://builder.example"}
    definition = predicate["buildDefinition"]
    assert definition["externalParameters"] == {"model": "pets"}
    assert definition["resolvedDependencies"][0]["name"] == "dataset"
    assert {"python", "tfx", "tensorflow"} <= definition["internalParameters"]["libraries"].keys()
    (verdict_file, report) = predicate["runDetails"]["byproducts"]
    assert verdict_file["digest"] == {"sha256": hashlib.sha256(judged.to_json()).hexdigest()}
    assert verdict_file["annotations"] == {"metrics": {"float16": {"accuracy": 0.8}}}
    assert report["digest"] == {"sha256": hashlib.sha256(b"<html>").hexdigest()}


def test_a_metric_that_is_not_defined_does_not_break_the_record(
    models: TFLiteModelsFolder,
) -> None:
    undefined = Check("precision", "overall", float("nan"))
    judged = verdict(models, PASSED, PASSED, PASSED)
    variants = tuple(replace(v, checks=(*v.checks, undefined)) for v in judged.variants)
    pushed(models, replace(judged, variants=variants))
    assert served(models)[1].provenance is not None


def test_each_variant_brings_a_golden_pair_that_it_passes(models: TFLiteModelsFolder) -> None:
    pushed(models, verdict(models, PASSED, PASSED, PASSED))
    reader, release = served(models)
    for variant in release.variants:
        golden = reader.read_golden(variant)
        assert reader.read_sketch(variant) == SKETCH
        assert golden is not None
        model = PixelModel(
            reader.read_model(variant), height=SIDE, width=SIDE, classes=2, num_threads=1
        )
        check(model, release.contract, Golden.from_json(golden))


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
    assert versions(models) == []


def test_a_file_changed_after_it_was_measured_is_not_published(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, PASSED, PASSED)
    models.path(models.models[0]).write_bytes(b"another model")
    with pytest.raises(ValueError, match="it was changed after it was measured"):
        pushed(models, judged)
    assert versions(models) == []


def test_a_verdict_about_other_variants_publishes_nothing(models: TFLiteModelsFolder) -> None:
    judged = verdict(models, PASSED, PASSED, PASSED)
    strangers = tuple(replace(v, variant=f"{v.variant}_x") for v in judged.variants)
    with pytest.raises(GateNotPassed, match="none of the variants that passed"):
        pushed(models, replace(judged, variants=strangers))


@pytest.mark.parametrize("keys", [("online",), ("pets-ci",), ("online", "pets-release")], ids=str)
def test_without_the_keys_nothing_is_written(
    keys: tuple[str, ...], models: TFLiteModelsFolder
) -> None:
    before = sorted(registry(models).rglob("*"))
    with pytest.raises(RegistryError, match="is signed by 1 of the keys"):
        pushed(models, verdict(models, PASSED, PASSED, PASSED), keys=keys)
    assert sorted(registry(models).rglob("*")) == before


def test_a_destination_travels_as_text() -> None:
    connection = Connection(Path("ca.pem"), None, Path("key.pem"), insecure=True)
    to = Destination("registry", "cells", "canary", b'{"root": "\xc3\xa9"}\n', ("key",), connection)
    assert from_text(Destination, to_text(to)) == to
