"""Promotion and rollback: what may be signed, what is refused, and that nothing is signed then."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from securesystemslib.signer import Key

from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.publish import provenance
from edgeline.publish.channels import Change, Metric, Outcome, promote, rollback
from edgeline.publish.keys import Signers
from edgeline.publish.repository import Repository
from edgeline.publish.store import open_for_writing
from edgeline.registry.bundle import Channel
from tests.edge.judged import judged

if TYPE_CHECKING:
    from tests.edge.conftest import Store


def _publish(store: "Store", content: bytes, accuracy: float = 0.9, **layers: Any) -> None:
    variants = {"float32": content, "int8": content + b", smaller"}
    store.publish(variants, verdict=judged(variants, accuracy), **layers)


def _promote(store: "Store", *, names: tuple[str, ...] = (), **options: object) -> Change:
    writer = open_for_writing(store.location)
    signers = store.authority.signers_of(*names) if names else store.authority.signers
    repository = Repository(writer, root=store.root, signers=signers)
    arguments = {"source": "candidate", "target": "production", **options}
    return promote(repository, "pets", **arguments)  # type: ignore[arg-type]


def _rollback(store: "Store", version: int | None = None) -> Change:
    return rollback(store.repository(), "pets", "production", version)


def _production(store: "Store") -> Channel | None:
    return store.channels.channel("pets", "production")


def test_promotes_a_release_that_passed(store: "Store") -> None:
    _publish(store, b"first")
    change = _promote(store, names=("release", "online"))
    assert change.outcome is Outcome.DONE
    assert change.replaced is None
    served = _production(store)
    assert served is not None
    assert served.release == change.release.ref
    assert store.serving("pets", "production").tag == "v1"


def test_compares_with_what_the_channel_serves(store: "Store") -> None:
    _publish(store, b"first", 0.9)
    _promote(store)
    _publish(store, b"second", 0.95)
    change = _promote(store)
    assert change.replaced is not None
    assert (change.replaced.version, change.release.version) == (1, 2)
    of_int8 = [metric for metric in change.metrics if metric.variant == "int8"]
    assert [(each.metric, each.slice) for each in of_int8] == [
        ("accuracy", "overall"),
        ("precision of bird", "overall"),
        ("accuracy", "camera=\x1b[31mleft"),
    ]
    expected = Metric("int8", "accuracy", "overall", 0.9, 0.95, interval=(0.91, 0.98))
    assert of_int8[0] == expected
    assert of_int8[0].difference == pytest.approx(0.05)
    assert [each.differs for each in of_int8] == [True, False, True]


@pytest.mark.parametrize(
    ("old", "new", "best", "interval", "worse"),
    [
        pytest.param(0.9, 0.8, "max", (0.7, 0.85), True, id="less than chance explains"),
        pytest.param(0.9, 0.8, "max", (0.7, 0.95), False, id="it may be chance"),
        pytest.param(0.9, 0.95, "max", (0.93, 0.97), False, id="better"),
        pytest.param(0.9, 0.8, "max", None, False, id="nobody knows"),
        pytest.param(0.01, 0.05, "min", (0.02, 0.09), True, id="a drop that grew"),
        pytest.param(0.05, 0.01, "min", (0.0, 0.02), False, id="a drop that shrank"),
        pytest.param(None, 0.8, "max", (0.7, 0.85), False, id="new"),
    ],
)
def test_what_got_worse_is_beyond_its_interval(
    old: float | None,
    new: float,
    best: str,
    interval: tuple[float, float] | None,
    worse: bool,
) -> None:
    assert Metric("int8", "x", "overall", old, new, best, interval).is_worse is worse


def test_what_only_one_release_has_is_compared_with_nothing(store: "Store") -> None:
    store.publish({"int8": b"old"}, verdict=judged({"int8": b"old"}))
    _promote(store)
    store.publish({"dynamic": b"new"}, verdict=judged({"dynamic": b"new"}))
    change = _promote(store)
    assert change.gone == ("int8",)
    metrics = change.metrics
    assert [(each.variant, each.old is None, each.new is None) for each in metrics[::3]] == [
        ("dynamic", True, False),
        ("int8", False, True),
    ]
    assert {each.difference for each in metrics} == {None}
    assert all(each.differs for each in metrics)


def test_a_release_without_verdict_in_the_channel_is_no_obstacle(store: "Store") -> None:
    store.publish(channel="production")
    _publish(store, b"second")
    change = _promote(store)
    assert change.outcome is Outcome.DONE
    assert any("v1 cannot be compared" in remark for remark in change.remarks)


def test_promoting_again_signs_nothing(store: "Store") -> None:
    _publish(store, b"first")
    _promote(store)
    before = store.path.joinpath("index.json").read_bytes()
    change = _promote(store, names=("targets",))
    assert change.outcome is Outcome.UNCHANGED
    assert store.path.joinpath("index.json").read_bytes() == before


def test_nothing_is_signed_when_the_person_declines(store: "Store") -> None:
    _publish(store, b"first")
    shown: list[Change] = []

    def decline(change: Change) -> bool:
        shown.append(change)
        return False

    assert _promote(store, confirm=decline).outcome is Outcome.DECLINED
    assert shown[0].outcome is Outcome.PROPOSED
    assert len(shown[0].metrics) == 6
    assert _production(store) is None


def test_the_reading_is_told(store: "Store") -> None:
    _publish(store, b"first")
    lines: list[str] = []
    _promote(store, notify=lines.append)
    assert lines[0] == "v1: read 0 of 0 MB"


def _miss_the_threshold(store: "Store") -> None:
    _publish(store, b"first", 0.5)


def _publish_other_weights(store: "Store") -> None:
    store.publish({"int8": b"other"}, verdict=judged({"int8": b"those that were judged"}))


def _publish_unjudged(store: "Store") -> None:
    store.publish()


def _change_a_model(store: "Store") -> None:
    _publish(store, b"first")
    path = store.blob(store.serving().variant("int8").model.digest)
    path.write_bytes(path.read_bytes()[::-1])


def _change_the_report(store: "Store") -> None:
    _publish(store, b"first", report=b"<html>good</html>")
    report = store.serving().report
    assert report is not None
    store.blob(report.digest).write_bytes(b"<html>best</html>")


def _lose_the_golden_pair(store: "Store") -> None:
    variants = {"int8": b"first"}
    store.publish(variants, verdict=judged(variants), golden=b"{}")
    golden = store.serving().variants[0].golden
    assert golden is not None
    store.blob(golden.digest).unlink()


_FIRST = {"float32": b"first", "int8": b"first, smaller"}


def signed_provenance(
    store: "Store", key: Key, weights: Mapping[str, bytes] | None = None
) -> bytes:
    """Where a release of `weights`, by default that of `_publish(store, b"first")`, comes from."""
    facts = provenance.Build("https://ci.example", "run-1", {}, {}, [], [])
    contents = _FIRST if weights is None else weights
    subjects = {name: sha256(content).hexdigest() for name, content in contents.items()}
    signer = store.authority.signers.for_key(key)
    assert signer is not None
    return provenance.sign(provenance.build(subjects, facts), signer)


def _say_that_it_was_made_otherwise(store: "Store") -> None:
    key = store.authority.keys.models["pets"].ci
    others = {"float32": b"other", "int8": b"weights"}
    _publish(store, b"first", provenance=signed_provenance(store, key, others))


def _forge_the_provenance(store: "Store") -> None:
    stranger, posing = store.authority.keys.targets, store.authority.keys.models["pets"].ci
    envelope = signed_provenance(store, stranger)
    forged = envelope.replace(stranger.keyid.encode(), posing.keyid.encode())
    _publish(store, b"first", provenance=forged)


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (_miss_the_threshold, RegistryError, "not a pass: float32: accuracy is 0.5000, 0.3000 bel"),
        (_publish_other_weights, RegistryError, "int8: its weights are sha256:"),
        (_publish_unjudged, IntegrityError, "Expected a verdict of version 1"),
        (_change_a_model, IntegrityError, "was changed or damaged"),
        (_change_the_report, IntegrityError, "was changed or damaged"),
        (_lose_the_golden_pair, NotFoundError, "does not exist"),
        (_say_that_it_was_made_otherwise, IntegrityError, "provenance of v1 is not about this"),
        (_forge_the_provenance, IntegrityError, "provenance of v1 was changed: .* not signed by"),
    ],
)
def test_refuses_to_promote(
    prepare: Callable[["Store"], None], error: type[Exception], message: str, store: "Store"
) -> None:
    prepare(store)
    with pytest.raises(error, match=message):
        _promote(store)
    assert _production(store) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("ci", "online")}, "Role 'pets-release' is signed by"),
        ({"names": ("release",)}, "Role 'snapshot' is signed by"),
        ({"source": "canary"}, "in channel 'canary'; of that model it has candidate"),
        ({"target": "staging"}, "There is no channel 'staging'"),
        ({"target": "candidate"}, "Expected two channels, got 'candidate'"),
        ({"source": "../x"}, "A channel is named by"),
    ],
)
def test_says_what_is_wrong_with_the_request(
    options: dict[str, object], message: str, store: "Store"
) -> None:
    _publish(store, b"first")
    with pytest.raises(RegistryError, match=message):
        _promote(store, **options)  # type: ignore[arg-type]
    assert _production(store) is None


def test_keys_are_asked_for_before_anything_is_read(store: "Store") -> None:
    _change_a_model(store)
    with pytest.raises(RegistryError, match="'pets-release'"):
        _promote(store, names=("ci", "online"))


def test_provenance_signed_with_a_retired_key_is_a_remark(store: "Store") -> None:
    _publish(store, b"first", provenance=signed_provenance(store, store.authority.keys.targets))
    change = _promote(store)
    assert change.outcome is Outcome.DONE
    assert "not signed with a key the model has today" in change.remarks[0]


@pytest.fixture
def history(store: "Store") -> "Store":
    """A registry in which production served v1, v2 and v3, one after the other."""
    for content in (b"first", b"second", b"third"):
        _publish(store, content)
        _promote(store)
    return store


def test_rolls_back_step_by_step(history: "Store") -> None:
    for version in (2, 1):
        change = _rollback(history)
        assert change.outcome is Outcome.DONE
        assert history.serving("pets", "production").version == version
    with pytest.raises(NotFoundError, match="did not serve anything else before v1"):
        _rollback(history)


def test_a_rollback_can_be_promoted_over(history: "Store") -> None:
    _rollback(history)
    assert _promote(history).release.version == 3
    assert history.serving("pets", "production").version == 3


def test_rolls_back_to_a_version(history: "Store") -> None:
    assert _rollback(history, 1).release.version == 1
    served = _production(history)
    assert served is not None
    assert served.release.version == 1


def test_rolling_back_to_what_is_served_signs_nothing(history: "Store") -> None:
    assert _rollback(history, 3).outcome is Outcome.UNCHANGED


def test_a_rollback_needs_nojudged(store: "Store") -> None:
    store.publish(channel="production")
    _publish(store, b"second")
    _promote(store)
    change = _rollback(store)
    assert change.outcome is Outcome.DONE
    assert change.remarks[0].startswith("v1 cannot be compared")


def test_does_not_roll_back_to_a_damaged_release(history: "Store") -> None:
    blob = history.reader.open_version(2).variant("int8").model
    history.blob(blob.digest).write_bytes(b"x" * blob.size)
    with pytest.raises(IntegrityError, match="was changed or damaged"):
        _rollback(history)
    assert _rollback(history, 1).outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("version", "message"), [(7, "did not serve v7 before v3; its history has v2, v1")]
)
def test_does_not_roll_back_to_what_was_never_served(
    version: int, message: str, history: "Store"
) -> None:
    with pytest.raises(NotFoundError, match=message):
        _rollback(history, version)


def test_a_channel_without_release_has_nothing_to_go_back_to(store: "Store") -> None:
    with pytest.raises(NotFoundError, match="it served none yet"):
        _rollback(store)


def test_a_rollback_needs_the_key_of_the_channel(history: "Store") -> None:
    writer = open_for_writing(history.location)
    for signers in (Signers(), history.authority.signers_of("ci", "online")):
        repository = Repository(writer, root=history.root, signers=signers)
        with pytest.raises(RegistryError, match="Role 'pets-release' is signed by"):
            rollback(repository, "pets", "production")
