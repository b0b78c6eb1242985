"""The end of a run in words: metrics against thresholds, variants, the release, what next."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from components.verdict import OVERALL, Check, VariantVerdict, Verdict
from pipeline.config import Config
from pipeline.dataset import REPORT_FILE, IngestReport
from pipeline.local_step import Step

MEGABYTE = 1e6
SHOWN = 5  # of a list's items; the report file has them all


def outcome(config: Config, steps: Mapping[str, Step]) -> str:
    """Renders what a successful run measured and published.

    Args:
        config: of the run.
        steps: the finished steps by name.
    """
    verdict = Verdict.load(steps["TFLiteEvaluator"].outputs["verdict"])
    release_file = steps["EdgePusher"].outputs["pushed_model"] / "release.json"
    release = json.loads(release_file.read_text())
    sections = [
        f"Metrics on the {verdict.split} split ({verdict.examples:,} images)",
        metrics_table(verdict),
        "",
        "Variants",
        variants_table(verdict),
        "",
        "Release",
        release_line(config, release),
    ]
    return "\n".join(sections)


def ingest_outcome(report: IngestReport, out: Path) -> str:
    """Renders what an ingest run wrote, and what it left out and why."""
    labels = report.labels
    rows = [
        [split, *(by_label.get(label, 0) for label in labels)]
        for split, by_label in report.counts.items()
    ]
    state = "up to date" if report.reused else "written"
    lines = [f"{out}: {report.images:,} images, {state}", _table(rows, ["", *labels])]
    if report.quarantined:
        lines.append(f"left out: {len(report.quarantined)}, such as:")
        lines += [f"  {item['source']}: {item['reason']}" for item in report.quarantined[:SHOWN]]
    if report.duplicates:
        lines.append(f"exact duplicates left out: {len(report.duplicates)}")
    lines += [f"warning: {warning}" for warning in report.warnings]
    if report.quarantined or report.duplicates:
        lines.append(f"all of them: {out / REPORT_FILE}")
    return "\n".join(lines)


def next_commands(config: Config, config_file: Path, image: Path) -> str:
    """Three commands to try after a run, as they can be typed here."""
    tools = Path(sys.executable).parent
    if tools.is_relative_to(Path.cwd()):
        tools = tools.relative_to(Path.cwd())
    registry = str(config.registry.path)
    where = ["--registry", registry, "--model", config.name, "--channel", config.registry.channel]
    run = [f"{tools}/python", "-m", "pipeline", "run", "--config", str(config_file)]
    commands = [
        [f"{tools}/edgeline", "predict", str(image), *where],
        [f"{tools}/edgeline", "registry", "list", registry],
        [*run, "--set", "gate.min_accuracy=0.95"],
    ]
    return "\n".join(["Next", *(f"  {shlex.join(command)}" for command in commands)])


def metrics_table(verdict: Verdict) -> str:
    """A row a metric and slice, a column a model, and the threshold."""
    models = [verdict.float_model, *(v for v in verdict.variants if not v.error)]
    by_model = [{(c.metric, c.slice): c for c in model.checks} for model in models]
    keys = list(dict.fromkeys(key for checks in by_model for key in checks))
    rows = [_metric_row(key, by_model) for key in keys]
    return _table(rows, ["", *(model.variant for model in models), "gate"])


def variants_table(verdict: Verdict) -> str:
    """A row a variant: size, latency and whether it passed."""
    return _table(map(_variant_row, verdict.variants), ["", "size", "p50", "p95", "verdict"])


def release_line(config: Config, release: Mapping[str, Any]) -> str:
    """Where the release is and whether it is new."""
    what = "new release" if release["created"] else "already the same release"
    return (
        f"  {config.name} {release['tag']} in {release['registry']}, channel "
        f"{config.registry.channel} ({what}, {release['digest'][:19]}...)"
    )


def _metric_row(
    key: tuple[str, str], by_model: list[dict[tuple[str, str], Check]]
) -> Iterator[str]:
    metric, slice_ = key
    found = [checks.get(key) for checks in by_model]
    yield metric if slice_ == OVERALL else f"{metric}, {slice_}"
    yield from ("" if check is None else _value(check) for check in found)
    yield next((_threshold(check) for check in found if check is not None), "")


def _value(check: Check) -> str:
    return f"{check.value:.4f}" + ("" if check.passed else " !")


def _threshold(check: Check) -> str:
    if check.threshold is None:
        return ""
    return f"{'>=' if check.bound == 'min' else '<='} {check.threshold:.4f}"


def _variant_row(verdict: VariantVerdict) -> Iterator[str]:
    yield verdict.variant
    yield "" if verdict.bytes is None else f"{verdict.bytes / MEGABYTE:.1f} MB"
    for percentile in ("p50", "p95"):
        yield f"{verdict.latency_ms[percentile]:.1f} ms" if verdict.latency_ms else ""
    yield "passed" if verdict.passed else "; ".join(verdict.reasons)


def _table(rows: Any, headers: list[str]) -> str:
    text = tabulate(
        [list(row) for row in rows],
        headers=headers,
        tablefmt="plain",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headers) - 1)),
    )
    return "\n".join(f"  {line}" for line in text.splitlines())
