"""The printed tables: all of a few classes and slices, what matters of thousands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.tflite_evaluator.record import images_by_slice, recorded
from components.verdict import OVERALL, Check, VariantVerdict, Verdict
from pipeline.data.dataset import IngestReport
from pipeline.orchestration.kubeflow.report import MOST_METRICS, metrics_of
from pipeline.orchestration.summary import ingest_outcome, metrics_table, verdict_tables
from tests.components.many import many


def ingested(classes: int, warnings: int = 0) -> IngestReport:
    labels = tuple(f"class {i}" for i in range(classes))
    return IngestReport(
        source="photos",
        options={},
        labels=labels,
        schema="schema.pbtxt",
        slice_keys=(),
        counts={
            split: {label: images + i for i, label in enumerate(labels)}
            for split, images in {"train": 1000, "eval": 20, "test": 10}.items()
        },
        found=1,
        left_out=0,
        quarantined=(),
        duplicates=0,
        near_duplicates=0,
        ignored={},
        notes=(),
        re_encoded={},
        warnings=tuple(f"number {i}" for i in range(warnings)),
        files={},
        fingerprint="",
        digest="",
    )


def test_an_ingest_of_few_classes_lists_each() -> None:
    assert ingest_outcome(ingested(3), Path("data")).splitlines() == [
        "data: 3,099 images, written",
        "              train    eval    test",
        "  class 0     1,000      20      10",
        "  class 1     1,001      21      11",
        "  class 2     1,002      22      12",
        "  together    3,003      63      33",
        "a look at the data: data/data.html",
    ]


def test_an_ingest_says_what_it_did_to_pictures() -> None:
    changed = {"transparency": 12, "format WEBP": 3, "alpha channel": 1}
    lines = ingest_outcome(replace(ingested(3), re_encoded=changed), Path("data")).splitlines()
    assert lines[-5:-1] == [
        "encoded anew, as a device decodes it:",
        "  12 for transparency: laid over white",
        "  3 for format WEBP: encoded as JPEG or PNG",
        "  1 for alpha channel",
    ]


def test_an_ingest_of_many_classes_lists_the_smallest_and_the_largest() -> None:
    lines = ingest_outcome(ingested(1000, warnings=1000), Path("data")).splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) < 80
    assert lines[2].split() == ["class", "0", "1,000", "20", "10"]
    assert "  985 classes between them" in lines[12]
    assert lines[-23].split()[0] == "together"
    assert lines[-2:] == [
        "980 more warnings in data/ingest_report.json",
        "a look at the data: data/data.html",
    ]


def test_a_verdict_on_many_classes_and_slices_is_a_page_of_text() -> None:
    data = many(min_slice_accuracy=0.05)
    verdict = recorded(data.verdict, images_by_slice(data.slices))
    lines = verdict_tables(verdict).splitlines()
    assert len(lines) < 200
    assert max(map(len, lines)) < 150
    assert lines[2].split()[0] == "accuracy"
    # Each of those that were missed comes before any that was kept.
    assert all("site 00000" in line and "0.0000 !" in line for line in lines[3:23])
    assert "more, of which 0 missed: see the report" in "\n".join(lines)
    assert "9,002 other checks of classes and slices are not counted here" in "\n".join(lines)


def test_a_verdict_on_few_slices_keeps_their_order() -> None:
    checks = (
        Check("accuracy", OVERALL, 0.9, 0.5),
        Check("accuracy", "line=a", 0.9, 0.5),
        Check("accuracy", "line=b", 0.1, 0.5),
    )
    verdict = Verdict("test", 100, VariantVerdict("float", checks), ())
    assert metrics_table(verdict).splitlines() == [
        "                       float       gate",
        "  accuracy            0.9000  >= 0.5000",
        "  accuracy, line=a    0.9000  >= 0.5000",
        "  accuracy, line=b  0.1000 !  >= 0.5000",
    ]


def test_a_cluster_is_shown_the_metrics_of_few_classes_and_not_of_many() -> None:
    few = metrics_of(many(classes=10, keys=1, values=3, variants=1, examples=100).verdict)
    assert "float_recall_of_class_number_3" in few
    large = metrics_of(many(keys=1, values=3, variants=2).verdict)
    assert len(large) <= MOST_METRICS
    assert large.keys() >= {"float_accuracy", "float16_auc"}
