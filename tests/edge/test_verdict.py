"""A release's verdict as the device package reads it: what the pipeline writes, and no more."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from components.verdict import Check, Deployed, Policy, VariantVerdict
from components.verdict import Verdict as Written
from edgeline._json import parse_object
from edgeline.errors import IntegrityError
from edgeline.publish.verdict import Verdict

INT8, FLOAT32 = "1" * 64, "2" * 64
WEIGHTS = {"int8": f"sha256:{INT8}", "float32": f"sha256:{FLOAT32}"}

ACCURATE = Check("accuracy", "overall", 0.9, 0.8, interval=(0.88, 0.92))
NEVER_SAID = Check("precision of bird", "overall", float("nan"))
WRITTEN = Written(
    split="test",
    examples=394,
    float_model=VariantVerdict("float", (ACCURATE,)),
    variants=(
        VariantVerdict("int8", (ACCURATE, NEVER_SAID), bytes=7, sha256=INT8, latency_ms={"p50": 1}),
        VariantVerdict("float32", (ACCURATE,), bytes=9, sha256=FLOAT32),
        VariantVerdict("int16x8", error="the converter crashed"),
    ),
    policy=Policy(require=("int8",)),
)


def test_the_agreement_that_is_promised_is_the_least_of_the_published_variants() -> None:
    def agrees(least: float) -> Check:
        return Check("agreement with v1 int8", "overall", 0.99, interval=(least, 1.0))

    int8, float32, failed = WRITTEN.variants
    written = replace(
        WRITTEN,
        deployed=Deployed("v1", "sha256:1"),
        variants=(
            replace(int8, checks=(*int8.checks, agrees(0.9))),
            replace(float32, checks=(*float32.checks, agrees(0.95))),
            replace(failed, checks=(agrees(0.1),)),
        ),
    )
    verdict = Verdict.from_json(written.to_json())
    assert verdict.promised_agreement("sha256:1") == 0.9
    assert verdict.promised_agreement("sha256:2") is None, "it was compared with another one"
    assert Verdict.from_json(WRITTEN.to_json()).promised_agreement("sha256:1") is None


def test_reads_what_the_pipeline_writes() -> None:
    verdict = Verdict.from_json(WRITTEN.to_json())
    assert (verdict.split, verdict.examples, verdict.deployed) == ("test", 394, None)
    assert verdict.published == WRITTEN.publishable == ("int8", "float32")
    assert verdict.policy.require == ("int8",)
    assert verdict.objections(WEIGHTS) == []
    metrics = verdict.metrics()
    assert metrics["int8", "accuracy", "overall"] == 0.9
    assert math.isnan(metrics["int8", "precision of bird", "overall"])
    assert {variant for variant, _, _ in metrics} == {"int8", "float32"}


def test_a_metric_that_is_not_defined_is_null_in_json_and_was_nan() -> None:
    content = WRITTEN.to_json()
    checks = parse_object(content)["variants"][0]["checks"]
    assert [check["value"] for check in checks] == [0.9, None]
    assert repr(Written.from_json(content)) == repr(WRITTEN)
    older = content.replace(b'"value": null', b'"value": NaN')
    assert older != content
    assert repr(Verdict.from_json(older)) == repr(Verdict.from_json(content))
    assert repr(Written.from_json(older)) == repr(WRITTEN)


def test_what_had_to_be_proved_and_was_not_is_an_objection() -> None:
    """Also where the evaluator is said to have passed it."""
    proved = replace(ACCURATE, unproven="refuse")
    doubtful = replace(proved, interval=(0.78, 0.95))
    for check, passes in ((proved, True), (doubtful, False)):
        first, *others = WRITTEN.variants
        verdict = replace(WRITTEN, variants=(replace(first, checks=(check,)), *others))
        content = verdict.to_json().replace(b'"passed": false', b'"passed": true')
        read = Verdict.from_json(content)
        assert (not read.objections(WEIGHTS)) is passes
    accepted = replace(doubtful, unproven="accept")
    verdict = replace(WRITTEN, float_model=VariantVerdict("float", (accepted,)))
    assert Verdict.from_json(verdict.to_json()).objections(WEIGHTS) == []


def test_a_latency_that_was_not_gated_on_is_no_objection() -> None:
    waived = Check("p50 latency in ms", "overall", 9.0, bound="max", waived=5.0)
    for check, passes in ((waived, True), (replace(waived, threshold=5.0, waived=None), False)):
        first, *others = WRITTEN.variants
        first = replace(first, checks=(*first.checks, check))
        content = replace(WRITTEN, variants=(first, *others)).to_json()
        assert (not Verdict.from_json(content).objections(WEIGHTS)) is passes
        assert repr(Written.from_json(content).variants[0]) == repr(first)


@pytest.mark.parametrize("interval", [[0.1], [0.1, 0.2, 0.3], ["0.1", 0.2], [True, 0.2], 7, {}])
def test_an_interval_that_is_none_is_malformed(interval: Any) -> None:
    document = parse_object(WRITTEN.to_json())
    document["variants"][0]["checks"][0]["interval"] = interval
    with pytest.raises(IntegrityError, match="interval: expected two numbers"):
        Verdict.from_json(json.dumps(document).encode())


def _without_float32(verdict: Written) -> Written:
    return replace(verdict, policy=Policy(require=("int8",), publish="required"))


def _inaccurate(verdict: Written) -> Written:
    inaccurate = replace(ACCURATE, value=0.7)
    first, *others = verdict.variants
    return replace(verdict, variants=(replace(first, checks=(inaccurate,)), *others))


def _inaccurate_float(verdict: Written) -> Written:
    return replace(verdict, float_model=VariantVerdict("float", (replace(ACCURATE, value=0.1),)))


@pytest.mark.parametrize(
    ("change", "weights", "objection"),
    [
        pytest.param(_inaccurate, {}, "int8: accuracy is 0.7000, 0.1000 below", id="missed"),
        pytest.param(_inaccurate_float, {}, "float model: accuracy is 0.1", id="float missed"),
        pytest.param(
            _without_float32, {}, "float32: it is not among those", id="was not to be published"
        ),
        pytest.param(
            lambda verdict: verdict,
            {"int8": f"sha256:{FLOAT32}"},
            f"int8: its weights are sha256:{FLOAT32}, but the verdict is on sha256:{INT8}",
            id="other weights",
        ),
        pytest.param(
            lambda verdict: verdict, {"int4": "sha256:x"}, "int4: the verdict is silent", id="new"
        ),
        pytest.param(
            lambda verdict: verdict,
            {"int16x8": "sha256:x"},
            "int16x8: the converter crashed",
            id="failed",
        ),
        pytest.param(
            lambda verdict: replace(verdict, policy=Policy(require=("int16x8",))),
            {},
            "int16x8: it is required, and missing",
            id="required",
        ),
    ],
)
def test_objects_to_a_release_that_did_not_pass(
    change: Callable[[Written], Written], weights: dict[str, str], objection: str
) -> None:
    objections = Verdict.from_json(change(WRITTEN).to_json()).objections({**WEIGHTS, **weights})
    assert any(each.startswith(objection) for each in objections), objections


def _lie(document: dict[str, Any]) -> None:
    document["variants"][0]["checks"][0]["value"] = 0.1


def _say_nothing(document: dict[str, Any]) -> None:
    document["variants"][0]["checks"] = []


def _keep_the_reason(document: dict[str, Any]) -> None:
    document["variants"][0]["passed"] = False


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        (_lie, "int8: it is said to pass, but accuracy (overall) is 0.1000 with a minimum of 0.8"),
        (_say_nothing, "int8: nothing was measured of it"),
        (_keep_the_reason, "int8: it did not pass, and no reason is recorded"),
    ],
)
def test_draws_its_own_conclusions(
    change: Callable[[dict[str, Any]], None], objection: str
) -> None:
    document = json.loads(WRITTEN.to_json())
    change(document)
    verdict = Verdict.from_json(json.dumps(document).encode())
    assert [each for each in verdict.objections(WEIGHTS) if each.startswith(objection)]


def _at(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_at("version", value=2), "Expected a verdict of version 1, got version 2"),
        (_at("version", value=True), "got version True"),
        (_at("variants", value={}), "variants: expected a list"),
        (_at("variants", value=[1]), "variants: 0: expected an object, got 1"),
        (_at("variants", 1, "variant", value="int8"), "names a variant twice"),
        (_at("variants", 0, "checks", value=[{}]), "variants: 0: checks: 0: expected metric"),
        (_at("variants", 0, "checks", 0, "value", value="1"), "value: expected a number"),
        (_at("variants", 0, "checks", 0, "value", value=True), "value: expected a number"),
        (_at("variants", 0, "checks", 0, "value", value=10**400), "value: expected a number"),
        (_at("variants", 0, "checks", 0, "bound", value="mid"), 'expected "min" or "max"'),
        (_at("variants", 0, "passed", value="yes"), "passed: expected true or false"),
        (_at("variants", 0, "sha256", value="../x"), "expected a SHA-256 in hex"),
        (_at("variants", 0, "reasons", value=[1]), "reasons: 0: expected text"),
        (_at("float", value=None), "float_model: expected an object, got None"),
        (_at("policy", value=[]), "policy: expected an object"),
        (_at("deployed", value={"tag": 7}), "deployed: expected tag, digest"),
        (_at("examples", value=-1), "examples: expected a count"),
        (_at("split", value="x" * 1001), "expected text of at most 1000 characters"),
    ],
)
def test_refuses_what_is_no_verdict(change: Callable[[dict[str, Any]], None], message: str) -> None:
    document = json.loads(WRITTEN.to_json())
    change(document)
    with pytest.raises(IntegrityError, match=message):
        Verdict.from_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"version": ' + b"1" * 5000 + b"}"]
)
def test_refuses_what_is_no_json_object(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        Verdict.from_json(content)
