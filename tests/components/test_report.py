"""The report, rendered from made-up predictions and read back with an HTML parser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray

from components.predictions import THUMBNAILS, Neighbour, lost_examples, mistakes
from components.report.charts import Axis, Chart, Mark
from components.report.figures import frontier_charts
from components.report.measures import (
    Group,
    SuspectedLabel,
    calibration,
    confusion,
    curves_by_class,
    suspected_labels,
)
from components.report.report import ReportData, render
from components.report.tables import worst_first
from components.tflite_models import FrontierPoint, ModelFile, Parity
from components.verdict import OVERALL, Check, Policy, VariantVerdict, Verdict
from tests.components.many import many

HOSTILE = "<script>alert(1)</script>"
PNG = b"\x89PNG\r\n\x1a\n and then some"


def saying(said: NDArray[np.int64], classes: int, confidence: float = 0.9) -> NDArray[np.float32]:
    """Probabilities of a model that says these classes."""
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.eye(classes)[said] == 1, confidence, rest).astype(np.float32)


def judged(name: str, accuracy: float, drop: float = 0.0) -> VariantVerdict:
    checks = (
        Check("accuracy", OVERALL, accuracy, 0.9),
        Check("accuracy drop", OVERALL, drop, 0.02, "max", (drop - 0.01, drop + 0.01)),
        Check("accuracy", "line=a", accuracy),
    )
    return VariantVerdict(name, checks, None, 14_100_000, "aa", {"p50": 2.5, "p95": 3.25}, 2)


def report(classes: int = 2, lost: int = 3) -> ReportData:
    """A float model that is always right, an equal variant, one that loses images, one not made."""
    label_ids = np.arange(100) % classes
    said = label_ids.copy()
    said[:lost] = (said[:lost] + 1) % classes
    error = "the conversion ended with signal 6"
    return ReportData(
        name="cells",
        labels=tuple(f"class {i}" for i in range(classes)),
        verdict=Verdict(
            split="test",
            examples=100,
            float_model=judged("float", 1.0),
            variants=(
                judged("float16", 1.0),
                judged("int8", 1 - lost / 100, lost / 100),
                VariantVerdict("int16x8", error=error),
            ),
        ),
        models=(
            ModelFile(
                "float16", "float16 weights", "tensorflow 2.16.2", 20.0, "f", "aa", 14_100_000
            ),
            ModelFile("int8", "int8", "tensorflow 2.16.2", 30.0, "f", "bb", 14_100_000),
            ModelFile("int16x8", "int16x8", "tensorflow 2.16.2", 4.0, error=error),
        ),
        label_ids=label_ids,
        image_ids=tuple(f"{i:064x}" for i in range(100)),
        sources=tuple(f"photos/{i}.jpg" for i in range(100)),
        slices={"line": np.array(["a"] * 30 + ["b"] * 70)},
        probabilities={
            "float": saying(label_ids, classes),
            "float16": saying(label_ids, classes),
            "int8": saying(said, classes),
        },
        thumbnails=dict.fromkeys(range(100), PNG),
        curves={"head/loss": [1.0, 0.5], "head/val_loss": [1.1, float("nan")]},
        data_summary={"train": {"class 0": 1200, "class 1": 800}, "test": {"class 0": 50}},
        lineage={"baseline": "none yet"},
        settings={"trainer.epochs": "20"},
        nearest={},
    )


class Page(HTMLParser):
    """What a browser would see: text by section and table, and that every element is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] = []
        self._caption = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "table":
            self._table, self._caption = [], ""
        if tag == "tr":
            self._table.append([])
        if tag in ("th", "td"):
            self._table[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._table

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "caption" in self.open:
            self._caption += data
        elif "th" in self.open or "td" in self.open:
            self._table[-1][-1] = f"{self._table[-1][-1]} {data.strip()}".strip()


def page(data: ReportData) -> Page:
    parsed = Page(render(data))
    assert parsed.open == []
    return parsed


def test_every_model_is_in_the_table_with_its_numbers() -> None:
    _, *rows = page(report()).tables["The models side by side"]
    assert [row[0] for row in rows] == ["float", "float16", "int8", "int16x8"]
    assert rows[1][:5] == [
        "float16",
        "✓ passed",
        "1.0000 0.9630 to 1.0000",
        "✓ 0.0000 -0.0100 to 0.0100",
        "14.1 MB",
    ]
    assert rows[1][5:7] == ["2.5 ms 2 threads", "3.2 ms 2 threads"]
    assert rows[2][3] == "✗ 0.0300 0.0200 to 0.0400"
    assert rows[3][1] == "✗ failed"


def test_the_outcome_is_told_in_words() -> None:
    text = page(report()).text
    assert "1 of 3 variants passed" in text
    assert "The release consists of float16." in text
    assert "accuracy drop is 0.0300, 0.0100 above the maximum of 0.0200" in text
    assert "the conversion ended with signal 6" in text


def test_a_variant_of_a_float_model_that_failed_did_not_pass() -> None:
    data = report()
    verdict = replace(data.verdict, float_model=judged("float", 0.8))
    parsed = page(replace(data, verdict=verdict))
    assert "None of 3 variants passed" in parsed.text
    assert "Nothing is released." in parsed.text
    assert parsed.tables["The models side by side"][2][1] == "✗ failed"


def test_what_the_float_model_missed_is_said_once() -> None:
    data = report()
    failed = replace(
        data.verdict,
        float_model=judged("float", 0.8),
        variants=(judged("float16", 0.8), judged("int8", 0.7, 0.1)),
    )
    text = page(replace(data, verdict=failed)).text
    assert text.count("below the minimum of 0.9000") == 1
    assert text.count("1 of the thresholds that the float model missed, too") == 2
    assert text.count("accuracy drop is 0.1000, 0.0800 above the maximum of 0.0200") == 1


def test_what_passed_without_proof_is_told_at_once() -> None:
    data = report()
    drop = Check("accuracy drop", OVERALL, 0.0, 0.01, "max", (-0.02, 0.02), "accept")
    doubtful = replace(data.verdict.variants[0], checks=(drop, replace(drop, slice="line=a")))
    text = page(replace(data, verdict=replace(data.verdict, variants=(doubtful,)))).text
    assert "float passed" in text
    assert "float16 passed (not proved: accuracy drop)" in text


def test_a_class_that_is_never_said_is_told_at_once() -> None:
    data = report()
    never = Check("precision of class 1", OVERALL, float("nan"))
    of_float = replace(data.verdict.float_model, checks=(*data.verdict.float_model.checks, never))
    told = page(replace(data, verdict=replace(data.verdict, float_model=of_float))).text
    assert "(never says class 1)" in told


def test_a_required_variant_that_did_not_pass_is_named() -> None:
    data = report()
    verdict = replace(data.verdict, policy=Policy(require=("int8",)))
    assert (
        "Nothing is released: int8 must pass for that." in page(replace(data, verdict=verdict)).text
    )


def test_every_check_stands_beside_its_threshold() -> None:
    tables = page(report()).tables
    assert tables["Metrics with a threshold"][1:] == [
        ["accuracy", "≥ 0.9000", "✓ 1.0000", "✓ 1.0000", "✓ 0.9700", "–"],  # noqa: RUF001
        [
            "accuracy drop",
            "≤ 0.0200",
            *["✓ 0.0000 -0.0100 to 0.0100"] * 2,
            "✗ 0.0300 0.0200 to 0.0400",
            "–",  # noqa: RUF001
        ],
    ]
    assert tables["Metrics without a threshold"][1][0] == "accuracy line=a"


def test_a_latency_that_is_not_gated_on_stands_beside_its_threshold() -> None:
    data = report()
    fast = Check("p50 latency in ms", OVERALL, 2.5, 5.0, "max")
    noisy = Check("p50 latency in ms", OVERALL, 9.5, bound="max", waived=5.0)
    first, second, *others = data.verdict.variants
    variants = (
        replace(first, checks=(*first.checks, fast)),
        replace(second, checks=(*second.checks, noisy), noisy=True),
    )
    verdict = replace(data.verdict, variants=(*variants, *others))
    assert verdict.passed == data.verdict.passed
    tables = page(replace(data, verdict=verdict)).tables
    (row,) = [row for row in tables["Metrics with a threshold"] if row[0] == fast.metric]
    assert row[1:5] == [
        "\u2264 5.0000",
        "\u2013",
        "\u2713 2.5000",
        "9.5000 not gated on: the machine was busy",
    ]


def test_slices_come_with_their_counts() -> None:
    rows = page(report()).tables["Accuracy by line"]
    assert [row[:2] for row in rows[1:]] == [["a", "30"], ["b", "70"]]
    assert rows[1][4].startswith("0.9000 ")


def test_what_mixed_was_chosen_from_is_drawn_and_listed() -> None:
    data = report()
    mixed = ModelFile(
        variant="mixed",
        quantization="for each layer what a search chose",
        converter="tensorflow 2.16.2",
        seconds=90.0,
        sha256="cc",
        parity=Parity(images=64, max_difference=0.25, mean_difference=0.0125),
        frontier=(
            FrontierPoint("dynamic_int4", 3_700_000, 0.775, 12.8, ("smallest",)),
            FrontierPoint("dynamic_int4, 9 layers dynamic", 4_900_000, 0.8, 9.1, ()),
            FrontierPoint("int8", 7_300_000, 0.8, 2.3, ("fastest", "most_accurate")),
        ),
        note="the smallest of three",
    )
    parsed = page(replace(data, models=(*data.models, mixed)))
    assert parsed.tables["What mixed was chosen from"][1:] == [
        ["1", "dynamic_int4", "3.7 MB", "0.7750", "12.8 ms", "smallest"],
        ["2", "dynamic_int4, 9 layers dynamic", "4.9 MB", "0.8000", "9.1 ms", "–"],  # noqa: RUF001
        ["3", "int8", "7.3 MB", "0.8000", "2.3 ms", "fastest, most accurate"],
    ]
    assert parsed.tables["How the variants were made"][-1][2] == "0.2500 mean 0.0125"
    for text in ("This is the smallest of three.", "Recipes: accuracy against latency"):
        assert text in parsed.text
    size, latency = frontier_charts(mixed.frontier)
    assert size.lines[0].points == [(3.7, 0.775), (4.9, 0.8)]
    assert latency.lines[0].points == [(2.3, 0.8)]


def test_the_data_is_summed_up() -> None:
    assert page(report()).tables["Images by label and split"] == [
        ["label", "train", "test", "together"],
        ["class 0", "1,200", "50", "1,250"],
        ["class 1", "800", "0", "800"],
        ["together", "2,000", "50", "2,050"],
    ]


def test_lost_images_are_shown_and_the_rest_counted() -> None:
    parsed = page(report(lost=THUMBNAILS + 8))
    assert len(parsed.images) == THUMBNAILS
    assert parsed.images[0]["alt"] == "class 0, taken for class 1"
    assert str(parsed.images[0]["src"]).startswith("data:image/png;base64,")
    assert "And 8 more." in parsed.text


def wrong(examples: int) -> ReportData:
    """A float model that is wrong about the first examples, the later the surer."""
    data = report()
    said = saying(data.label_ids, 2)
    for index in range(examples):
        said[index, data.label_ids[index]] = 0.4 - index / 1000
        said[index, 1 - data.label_ids[index]] = 0.6 + index / 1000
    return replace(data, probabilities={**data.probabilities, "float": said})


def test_the_float_model_s_mistakes_are_shown_by_class_with_their_files() -> None:
    """Even examples are of class 0, odd ones of class 1."""
    parsed = page(wrong(30))
    section = parsed.text.partition("Mistakes of the float model")[2].partition("Images lost")[0]
    shown = re.findall(r"photos/(\d+)\.jpg", section)
    assert shown == [str(i) for i in (*range(28, 5, -2), *range(29, 6, -2))]
    assert section.count("And 3 more.") == 2
    assert "None." in page(report()).text.partition("Mistakes of the float model")[2][:400]


def test_mistakes_on_classes_that_there_is_no_room_for_are_counted() -> None:
    data = report(classes=50)
    said = saying((data.label_ids + 1) % 50, 50)
    text = page(replace(data, probabilities={"float": said})).text
    assert "And 52 of other classes." in text


def test_models_of_which_the_same_is_said_are_named_together() -> None:
    text = " ".join(page(report()).text.split())
    assert "✓float, float16 passed" in text


def test_training_images_like_a_mistake_stand_below_it() -> None:
    data = report()
    wrong = saying(np.roll(data.label_ids, 1), 2)
    near = [Neighbour(f"photos/like{i}.jpg", "aa", "class 1", PNG) for i in range(3)]
    data = replace(data, probabilities={**data.probabilities, "float": wrong}, nearest={0: near})
    parsed = page(data)
    pictures = [image for image in parsed.images if image["alt"] == "a training image of class 1"]
    assert len(pictures) == 3
    assert "like 3 class 1" in parsed.text
    assert "look whether the image's own is right" in parsed.text
    assert "look whether the image's own is right" not in page(report()).text


def test_labels_that_are_probably_wrong_are_listed() -> None:
    data = wrong(0)
    data.probabilities["float"][7] = (0.98, 0.02)  # example 7 is labelled class 1
    ((*_, row),) = [page(data).tables["Labels to look at"]]
    assert row == ["photos/7.jpg", "class 1", "class 0", "0.9800"]
    assert "Labels to look at" not in page(report()).tables


def test_confident_learning_needs_confidence() -> None:
    """By the paper: as sure of another class as the model is of that class's own images."""
    label_ids = np.array([0, 0, 0, 1, 1, 1])
    sure, unsure = (0.95, 0.05), (0.55, 0.45)
    of_class_1 = (0.1, 0.9)
    said = np.array([sure, sure, of_class_1, of_class_1, of_class_1, unsure], np.float32)
    # Class 0's own images have 0.667 of it on average, class 1's 0.75.
    assert suspected_labels(label_ids, said) == [
        SuspectedLabel(2, 1, pytest.approx(0.8)),  # type: ignore[arg-type]
    ]
    three = np.pad(said, ((0, 0), (0, 1)))
    assert [each.index for each in suspected_labels(label_ids, three)] == [2]


def test_a_lost_image_without_a_thumbnail_is_still_listed() -> None:
    parsed = page(replace(report(), thumbnails={}))
    assert parsed.text.count("no picture") == 3


def test_a_thumbnail_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a PNG or JPEG thumbnail"):
        render(replace(report(), thumbnails={0: b"<svg onload=alert(1)>"}))


def test_the_same_data_gives_the_same_bytes() -> None:
    assert render(report()) == render(report())


def test_what_comes_from_the_data_is_escaped() -> None:
    data = report()
    failed = VariantVerdict(HOSTILE, error=HOSTILE)
    hostile = replace(
        data,
        name=HOSTILE,
        labels=(HOSTILE, '" onload="alert(1)'),
        verdict=replace(data.verdict, variants=(*data.verdict.variants, failed)),
        image_ids=(HOSTILE,) * 100,
        slices={HOSTILE: np.array([HOSTILE] * 100)},
        curves={f"{HOSTILE}/loss": [1.0]},
        data_summary={HOSTILE: {HOSTILE: 1}},
        lineage={HOSTILE: HOSTILE},
        settings={HOSTILE: HOSTILE},
    )
    content = render(hostile)
    assert "<script" not in content
    assert 'onload="' not in content
    assert HOSTILE in page(hostile).text


CASES: dict[str, ReportData] = {
    "two classes": report(),
    "twenty classes": report(classes=20),
    "nothing lost": report(lost=0),
    "no history": replace(report(), curves={}),
    "one epoch": replace(report(), curves={"loss": [0.5]}),
    "a loss that is never a number": replace(report(), curves={"loss": [float("inf")]}),
    "no slices": replace(report(), slices={}),
    "one slice value": replace(report(), slices={"line": np.array(["a"] * 100)}),
    "no summary, no lineage": replace(
        report(), data_summary={}, lineage={}, settings={}
    ),
    "only the float model was measured": replace(
        report(), probabilities={"float": report().probabilities["float"]}
    ),
    "nothing was measured": replace(report(), probabilities={}),
    "a class without an example": replace(report(), labels=("class 0", "class 1", "none"),
        probabilities={"float": saying(np.zeros(100, int), 3)}),
    "no variants": replace(
        report(),
        models=(),
        probabilities={},
        verdict=Verdict("test", 100, VariantVerdict("float", error="it returned NaN"), ()),
    ),
    "variants that are all errors": replace(
        report(),
        verdict=replace(
            report().verdict,
            variants=tuple(VariantVerdict(name, error="no") for name in ("float16", "int8")),
        ),
    ),
    "predictions that are not numbers": replace(
        report(), probabilities={"int8": np.full((100, 2), np.nan, np.float32)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_it_renders(data: ReportData) -> None:
    parsed = page(data)
    assert parsed.tags.count("h2") == 12
    assert "nan" not in parsed.text.replace("NaN", "")


@pytest.fixture(scope="module")
def many_classes() -> ReportData:
    return many()


@pytest.fixture(scope="module")
def many_page(many_classes: ReportData) -> str:
    return render(many_classes)


def test_many_classes_and_slices_make_a_page_of_bounded_size(many_page: str) -> None:
    assert len(many_page.encode()) < 5_000_000
    parsed = Page(many_page)
    assert parsed.open == []
    assert parsed.tags.count("h2") == 12
    assert sum(len(rows) for rows in parsed.tables.values()) < 2500


def test_of_many_classes_the_worst_are_on_top_and_the_others_follow(many_page: str) -> None:
    parsed = Page(many_page)
    _, first, *_, others = parsed.tables["Recall of the 25 worst of 1,000 classes"]
    assert first[:3] == ["class number 0", "10", "0.0000 0.0000 to 0.2775"]
    assert others[:2] == ["the other 975", "9750"]
    assert len(parsed.tables["Recall of 975 more"]) == 1 + 975
    areas = parsed.tables["Area under the ROC curve; below it, average precision"]
    assert areas[1][0] == "class number 0"
    assert len(areas) == 1 + 10


def test_of_many_classes_the_most_frequent_confusions_are_listed(
    many_classes: ReportData, many_page: str
) -> None:
    parsed = Page(many_page)
    caption = next(name for name in parsed.tables if name.startswith("The most frequent of"))
    rows = parsed.tables[caption][1:]
    most = [max(map(int, row[2:])) for row in rows[:-1]]
    assert most == sorted(most, reverse=True)
    assert rows[-1][0].endswith("other confusions")
    wrong = many_classes.probabilities["float"].argmax(axis=1) != many_classes.label_ids
    assert sum(int(row[2].replace(",", "")) for row in rows) == wrong.sum()
    assert "What float said of each label" not in parsed.tables


def test_of_many_values_of_a_slice_the_worst_are_on_top_and_the_others_together(
    many_page: str,
) -> None:
    parsed = Page(many_page)
    rows = parsed.tables["Accuracy by key_3: the 10 worst of 500 values"][1:]
    assert rows[0][0] == "site 00000"
    assert rows[0][2].startswith("0.0000 ")
    assert rows[-1][0] == "the other 490"
    assert sum(int(row[1]) for row in rows) == 10_000
    assert "9,800 others are summed up" in parsed.text
    assert parsed.text.count("All are in checks.csv") >= 2


def test_every_threshold_that_was_missed_is_shown_among_many() -> None:
    parsed = page(many(classes=50, keys=4, values=100, variants=2, min_slice_accuracy=0.05))
    rows = parsed.tables["Metrics with a threshold"][1:]
    assert rows[0][0] == "accuracy"
    assert [row[0] for row in rows if "✗" in row[2]] == [
        f"accuracy key_{key}=site 00000" for key in range(4)
    ]
    assert "Left out: 376 that every model keeps." in parsed.text
    assert rows[1:5] == [row for row in rows if "✗" in row[2]]


def test_thousands_of_missed_thresholds_are_counted_where_they_are_not_shown(
    many_classes: ReportData,
) -> None:
    data = replace(many_classes, verdict=many(min_slice_accuracy=1.0).verdict)
    content = render(data)
    assert len(content.encode()) < 5_000_000
    parsed = Page(content)
    missed = {(c.metric, c.slice) for model in data.verdict.models for c in model.missed}
    shown = [row for row in parsed.tables["Metrics with a threshold"] if "✗" in "".join(row)]
    assert len(shown) == 1000
    assert f"Left out: {len(missed) - 1000:,} more that were missed, " in parsed.text
    assert f"and {len(data.verdict.float_model.missed) - 5:,} more thresholds missed" in parsed.text


def test_a_few_images_alone_put_no_group_on_top() -> None:
    few = Group("few", 1, {"float": 0})
    bad = Group("bad", 50, {"float": 15})
    good = Group("good", 50, {"float": 50})
    assert [group.name for group in worst_first([good, few, bad])] == ["bad", "few", "good"]


def test_of_each_class_the_most_confident_mistake_comes_first() -> None:
    label_ids = np.array([0, 0, 0, 1, 2])
    confidence = np.array([0.9, 0.8, 0.95, 0.6, 0.7])
    said = np.full((5, 3), 0.0, np.float32)
    said[np.arange(5), (label_ids + 1) % 3] = confidence
    assert mistakes(label_ids, said, 9) == [2, 4, 3, 0, 1]
    assert mistakes(label_ids, said, 2) == [2, 4]


def test_the_first_mistakes_of_all_are_among_the_first_of_each_part() -> None:
    """Which is what a worker that sees a part of the examples keeps."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        label_ids = generator.integers(0, 7, 300)
        said = generator.random((300, 7), np.float32).round(1)
        kept: set[int] = set()
        for first in range(0, 300, 60):
            part = slice(first, first + 60)
            kept |= {first + i for i in mistakes(label_ids[part], said[part], 10)}
        assert set(mistakes(label_ids, said, 10)) <= kept


def test_lost_examples_are_ordered_by_confidence() -> None:
    label_ids = np.zeros(5, np.int64)
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    float_model = np.array([right, right, wrong, right, right], np.float32)
    variant = np.array([[0.4, 0.6], [0.2, 0.8], wrong, right, [0.3, 0.7]], np.float32)
    assert lost_examples(label_ids, float_model, variant, limit=10) == [1, 4, 0]
    assert lost_examples(label_ids, float_model, variant, limit=2) == [1, 4]
    assert lost_examples(label_ids, variant, float_model, limit=10) == []


def test_confusion_counts_labels_by_row() -> None:
    label_ids = np.array([0, 0, 1, 2])
    counts = confusion(np.array([0, 1, 1, 0]), label_ids, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_calibration_error_is_the_weighted_gap() -> None:
    label_ids = np.zeros(10, np.int64)
    # Half claims 0.9 and is right, half claims 0.7 and is wrong.
    probabilities = np.array([[0.9, 0.1]] * 5 + [[0.3, 0.7]] * 5, np.float32)
    measured = calibration(probabilities, label_ids)
    assert measured.expected_error == pytest.approx((0.1 + 0.7) / 2)
    assert measured.points[:, 1].tolist() == [0.0, 1.0]


def test_curves_of_a_perfect_model_touch_the_corner() -> None:
    label_ids = np.array([0, 1] * 10)
    curves = curves_by_class({"float": saying(label_ids, 2)}, label_ids, ("a", "b"))
    assert [0.0, 1.0] in curves["a"]["float"].roc.tolist()
    assert [1.0, 1.0] in curves["b"]["float"].precision_recall.tolist()
    assert curves["a"]["float"].area == curves["b"]["float"].average_precision == 1.0


@pytest.mark.parametrize("values", [(0.0,), (0.79, 0.8), (3.0, 1200.0), (-1.0, 1.0), (1e-9,)])
def test_an_axis_holds_its_values_between_round_ticks(values: tuple[float, ...]) -> None:
    axis = Axis.around("", values)
    assert axis.low - 1e-9 <= min(values) <= max(values) <= axis.high + 1e-9
    assert 2 <= len(axis.ticks) <= 8
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


def test_labels_of_close_points_do_not_cover_one_another() -> None:
    marks = tuple(Mark(f"variant {i}", (0.5, 0.5 + i / 1000), i, True) for i in range(6))
    labelled = Chart("", "", Axis(""), Axis(""), marks=marks).labelled_marks()
    boxes = [label.box(mark.name) for mark, _, label in labelled]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart = one.left >= other.right or other.left >= one.right
            assert apart or one.top >= other.bottom or other.top >= one.bottom
