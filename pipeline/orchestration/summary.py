"""The end of a run in words: metrics against thresholds, variants, the release, what next."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any

from tabulate import tabulate

from components.destination import RELEASE_FILE
from components.verdict import CHECKS_FILE, OVERALL, Check, VariantVerdict, Verdict
from pipeline.config import Config
from pipeline.data.dataset import PAGE_FILE, REPORT_FILE, IngestReport, what_was_done

MEGABYTE = 1e6
SHOWN = 5  # of a list's items; the report file has them all
MOST_WARNINGS = 20
MOST_CLASSES = 30  # with more, the smallest and the largest are shown
SMALLEST, LARGEST = 10, 5
MOST_GATED = 40  # rows of checks with a threshold; with more, those that matter are shown
MOST_DOUBTS = 3  # of one model
MOST_REASONS = 10  # of one model; with more, the main ones are shown

_Key = tuple[str, str]  # metric and slice


def verdict_tables(verdict: Verdict) -> str:
    """Renders what was measured against which threshold, and which variants passed."""
    sections = [
        f"Metrics on the {verdict.split} split ({verdict.examples:,} images)",
        metrics_table(verdict),
        *_not_on_record(verdict),
        "",
        _comparison(verdict),
        "",
        "Variants",
        variants_table(verdict),
    ]
    return "\n".join(sections)


def ingest_outcome(report: IngestReport, out: Path) -> str:
    """Renders what an ingest run wrote, and what it left out and why."""
    state = "up to date" if report.reused else "written"
    lines = [f"{out}: {report.images:,} images, {state}", classes_table(report)]
    if report.left_out:
        lines.append(f"left out: {report.left_out:,}, such as:")
        lines += [f"  {item['source']}: {item['reason']}" for item in report.quarantined[:SHOWN]]
    counted = {
        "exact duplicates left out": report.duplicates,
        "images in groups of near-duplicates, each in one split": report.near_duplicates,
        "files and folders of systems passed over": sum(report.ignored.values()),
    }
    lines += [f"{what}: {count:,}" for what, count in counted.items() if count]
    if report.re_encoded:
        lines.append("encoded anew, as a device decodes it:")
        lines += [_re_encoded(why, count) for why, count in report.re_encoded.items()]
    lines += [f"warning: {warning}" for warning in report.warnings[:MOST_WARNINGS]]
    if (more := len(report.warnings) - MOST_WARNINGS) > 0:
        lines.append(f"{more:,} more warnings in {out / REPORT_FILE}")
    lines.append(f"a look at the data: {out / PAGE_FILE}")
    return "\n".join(lines)


def classes_table(report: IngestReport) -> str:
    """A row a class, a column a split; of many classes, the smallest and the largest."""
    rows = [
        (label, [by_label.get(label, 0) for by_label in report.counts.values()])
        for label in report.labels
    ]
    if len(rows) > MOST_CLASSES:
        rows.sort(key=lambda row: sum(row[1]))
        between = rows[SMALLEST:-LARGEST]
        middle = (f"{len(between):,} classes between them", _sums(between))
        rows = [*rows[:SMALLEST], middle, *rows[-LARGEST:]]
    rows.append(("together", _sums(rows)))
    return _table(
        [[label, *(f"{n:,}" for n in counts)] for label, counts in rows], ["", *report.counts]
    )


def next_commands(config: Config, config_file: Path, overrides: Sequence[str], image: Path) -> str:
    """Three commands to try after a run, as they can be typed here."""
    tools = Path(sys.executable).parent
    if tools.is_relative_to(Path.cwd()):
        tools = tools.relative_to(Path.cwd())
    location, root = config.publishing.location, ["--root", str(config.publishing.root)]
    where = ["--registry", location, "--model", config.name]
    run = [f"{tools}/python", "-m", "pipeline", "run", "--config", str(config_file)]
    commands = [
        [f"{tools}/edgeline", "predict", str(image), *where, *root],
        [f"{tools}/edgeline", "registry", "show", location, f"{config.name}/production", *root],
        [*run, *(f"--set={o}" for o in overrides), "--set=gate.min_accuracy=0.95"],
    ]
    return "\n".join(["Next", *(f"  {shlex.join(command)}" for command in commands)])


def metrics_table(verdict: Verdict) -> str:
    """A row a gated metric and slice, a column a model, and the threshold.

    `!` marks a miss, `?` what is within its threshold without proof, or too noisy for it.

    Metrics without a threshold are in the report. Of many with one, those of single classes and
    slices are shown that were missed by most, or kept by least.
    """
    models = [verdict.float_model, *(v for v in verdict.variants if not v.error)]
    by_model = [{(c.metric, c.slice): c for c in model.checks} for model in models]
    all_gated = [check for model in models for check in model.checks if check.asked is not None]
    gated = {(check.metric, check.slice): check for check in all_gated}
    shown = gated if len(gated) <= MOST_GATED else _main_gated(all_gated)
    rows = []
    for key, gate in shown.items():
        found = [checks.get(key) for checks in by_model]
        rows.append([_name(gate), *map(_value, found), _threshold(gate)])
        if gate.interval:
            confidence = f"{verdict.confidence * 100:.3g}%"
            rows.append([f"  {confidence} interval", *map(_interval, found), ""])
    table = _table(rows, ["", *(model.variant for model in models), "gate"])
    return "\n".join([table, *_left_out(gated.keys() - shown.keys(), by_model)])


def variants_table(verdict: Verdict) -> str:
    """A row a variant: size, latency and whether it passed; below, why others did not."""
    table = _table(map(_variant_row, verdict.variants), ["", "size", "p50", "p95", "verdict"])
    reasons = [
        f"  {model.variant}: {reason}"
        for model in verdict.models
        for reason in model.main_reasons(MOST_REASONS)
    ]
    return "\n".join([table, *reasons, *_doubts(verdict)])


def release_line(config: Config, pushed_model: Path) -> str:
    """Says where the release is and whether it is new; from a PushedModel artifact."""
    release = json.loads((pushed_model / RELEASE_FILE).read_text())
    what = "new release" if release["created"] else "already the same release"
    return (
        f"Release\n  {config.name} {release['tag']} in {release['registry']}, channel "
        f"{config.publishing.channel} ({what}, {release['digest'][:19]}...)"
    )


def export_line(variants: Sequence[str], folder: Path) -> str:
    """Says which variants' files are in a folder."""
    return f"Files\n  {folder}: {', '.join(variants)}, with contract, labels, verdict and report"


def _re_encoded(why: str, count: int) -> str:
    done = what_was_done(why)
    return f"  {count:,} for {why}" + (f": {done}" if done else "")


def _main_gated(checks: Sequence[Check]) -> dict[_Key, Check]:
    """What is overall, and then what was missed by most or kept by least."""
    ranked = sorted(checks, key=lambda check: (check.of_part, check.of_part and check.margin))
    by_key = {(check.metric, check.slice): check for check in ranked}
    return dict(islice(by_key.items(), MOST_GATED))


def _left_out(keys: Set[_Key], by_model: Sequence[Mapping[_Key, Check]]) -> Iterator[str]:
    missed = sum(any(k in checks and not checks[k].passed for checks in by_model) for k in keys)
    if keys:
        yield f"  and {len(keys):,} more, of which {missed:,} missed: see the report"


def _doubts(verdict: Verdict) -> Iterator[str]:
    """What passed without proof, the main ones of a model, and classes that it never says."""
    for model in verdict.models:
        ranked = sorted(model.unproven, key=lambda check: (check.of_part, check.margin))
        for check in ranked[:MOST_DOUBTS]:
            yield f"  {model.variant}: not proved: {check.reason}"
        if (more := len(ranked) - MOST_DOUBTS) > 0:
            yield f"  {model.variant}: {more:,} more are not proved: see the report"
        if never := model.never_said:
            shown = ", ".join(never[:SHOWN]) + (", ..." if len(never) > SHOWN else "")
            yield f"  {model.variant}: never says {shown}"


def _sums(rows: Sequence[tuple[str, Sequence[int]]]) -> list[int]:
    return [sum(column) for column in zip(*(counts for _, counts in rows), strict=True)]


def _not_on_record(verdict: Verdict) -> Iterator[str]:
    if verdict.left_out:
        yield (
            f"  {verdict.left_out:,} other checks of classes and slices are not counted here: "
            f"{CHECKS_FILE} beside the report has them all"
        )


def _comparison(verdict: Verdict) -> str:
    if verdict.deployed is None:
        return "No release is deployed yet: nothing to compare with"
    return f"Compared with {verdict.deployed.tag}, which was on the channel"


def _name(check: Check) -> str:
    return check.metric if check.slice == OVERALL else f"{check.metric}, {check.slice}"


def _value(check: Check | None) -> str:
    if check is None:
        return ""
    mark = " !" if not check.passed else " ?" if check.decision == "not proved" else ""
    return f"{check.value:.4f}{mark}"


def _interval(check: Check | None) -> str:
    if check is None or check.interval is None:
        return ""
    low, high = check.interval
    return f"{low:.3f}..{high:.3f}"


def _threshold(check: Check) -> str:
    if check.asked is None:
        return ""
    return f"{'>=' if check.bound == 'min' else '<='} {check.asked:.4f}"


def _variant_row(verdict: VariantVerdict) -> Iterator[str]:
    yield verdict.variant
    yield "" if verdict.bytes is None else f"{verdict.bytes / MEGABYTE:.1f} MB"
    for percentile in ("p50", "p95"):
        noisy = " (noisy)" if verdict.noisy else ""
        yield f"{verdict.latency_ms[percentile]:.1f} ms{noisy}" if verdict.latency_ms else ""
    yield "passed" if verdict.passed else "not passed"


def _table(rows: Any, headers: list[str]) -> str:
    text = tabulate(
        [list(row) for row in rows],
        headers=headers,
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headers) - 1)),
    )
    return "\n".join(f"  {line}" for line in text.splitlines())
