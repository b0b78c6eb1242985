"""A classifier from a registry: what it does when an update is to be had, and when it is not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeline import Classifier
from edgeline.errors import EdgelineError, ImageError, NotFoundError, RejectedError, TrustError
from tests.edge.devices import device, release

if TYPE_CHECKING:
    from tests.edge.conftest import Store

IMAGE = np.full((20, 30, 3), 128, np.uint8)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "device"


def _open(store: Store, state: Path, **options: Any) -> Classifier:
    return Classifier.from_registry(
        store.path, "pets", root=store.root, state=state, num_threads=1, **options
    )


def _away(store: Store) -> None:
    store.path.rename(store.path.with_name("away"))


@pytest.mark.parametrize("update", ["try", "require"])
def test_an_update_that_is_to_be_had_is_taken(
    update: str, store: Store, models: Path, state: Path
) -> None:
    for number in (1, 2):
        release(store, models, number)
        assert _open(store, state, update=update).version == number
    assert _open(store, state, update="never").version == 2


def test_never_asks_nobody(store: Store, models: Path, state: Path) -> None:
    release(store, models, 1)
    with pytest.raises(NotFoundError, match=r"no model in .* yet. Get one with `edgeline pull`"):
        _open(store, state, update="never")
    _open(store, state)
    release(store, models, 2)
    _away(store)
    assert _open(store, state, update="never").version == 1


def test_trying_goes_on_with_what_is_installed(
    store: Store, models: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release(store, models, 1)
    _open(store, state)
    release(store, models, 2, ["nan"])
    with caplog.at_level(logging.WARNING):
        assert _open(store, state).version == 1
    assert "failed its trial on this device" in caplog.text
    with pytest.raises(RejectedError):
        _open(store, state, update="require")
    _away(store)
    assert _open(store, state).version == 1
    with pytest.raises(NotFoundError, match="not a model registry"):
        _open(store, state, update="require")


def test_with_nothing_installed_the_reason_is_raised(
    store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1, ["nan"])
    with pytest.raises(RejectedError, match="finite"):
        _open(store, state)
    _away(store)
    with pytest.raises(NotFoundError, match="not a model registry"):
        _open(store, state)


def test_a_variant_that_was_asked_for_is_not_exchanged_for_another(
    store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1, ["float32", "int8_io"])
    assert _open(store, state, variant="int8_io").variant == "int8_io"
    assert _open(store, state).variant == "int8_io", "it was remembered"
    with pytest.raises(NotFoundError, match="no variant 'int4'"):
        _open(store, state, variant="int4")
    with pytest.raises(NotFoundError, match="The installed model is v1 int8_io; expected float32"):
        _open(store, state, variant="float32", update="never")
    assert _open(store, state, variant="float32,int8_io").variant == "float32"


def test_another_root_does_not_open_what_was_trusted_before(
    store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1)
    _open(store, state)
    for update in ("try", "never"):
        with pytest.raises(TrustError):
            Classifier.from_registry(
                store.path, "pets", root=b"{}", state=state, update=update
            )  # fmt: skip


def test_a_damaged_model_is_repaired_or_the_previous_one_steps_in(
    store: Store, models: Path, state: Path
) -> None:
    for number in (1, 2):
        release(store, models, number)
        _open(store, state)
    folder = device(store, state).folder
    active = folder.read().active
    assert active is not None
    folder.file(active, "model.tflite").write_bytes(b"damaged")
    assert _open(store, state, update="never").version == 1
    assert _open(store, state).version == 2
    folder.file(active, "model.tflite").write_bytes(b"damaged")
    _away(store)
    assert _open(store, state).version == 1


def test_it_does_not_wait_for_another_process_that_updates(
    store: Store, models: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release(store, models, 1)
    _open(store, state)
    with device(store, state).folder.locked(), caplog.at_level(logging.WARNING):
        assert _open(store, state).version == 1
    assert "Another process is updating" in caplog.text


def test_an_unknown_way_to_update_is_refused(store: Store, state: Path) -> None:
    with pytest.raises(ValueError, match='expected "try", "never" or "require"'):
        _open(store, state, update="always")


# Batches.


def test_a_batch_takes_images_as_there_is_work(models: Path, store: Store) -> None:
    taken = 0

    def images() -> Iterator[Any]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield b"no image" if number % 3 == 1 else IMAGE

    with Classifier.from_file(models / "float32.tflite", store.contract) as classifier:
        expected = classifier.predict(IMAGE).probabilities
        found = classifier.predict_batch(images(), workers=2)
        for number in range(10):
            one = next(found)
            if isinstance(one, ImageError):
                assert number % 3 == 1
            else:
                np.testing.assert_allclose(one.probabilities, expected, atol=1e-6)
        assert taken < 50
        threads = threading.active_count()
        found.close()  # type: ignore[attr-defined]
        assert threading.active_count() < threads
        with pytest.raises(ValueError, match="at least 1"):
            next(classifier.predict_batch([IMAGE], workers=-1))


def test_what_the_images_come_from_may_fail(models: Path, store: Store) -> None:
    def images() -> Iterator[Any]:
        yield IMAGE
        raise KeyError("the camera is gone")

    with (
        Classifier.from_file(models / "float32.tflite", store.contract) as classifier,
        pytest.raises(KeyError, match="camera"),
    ):
        list(classifier.predict_batch(images()))


def test_a_closed_classifier_ends_a_batch(models: Path, store: Store) -> None:
    classifier = Classifier.from_file(models / "float32.tflite", store.contract)
    found = classifier.predict_batch([IMAGE] * 100)
    next(found)
    classifier.close()
    with pytest.raises(EdgelineError, match="is closed"):
        list(found)
