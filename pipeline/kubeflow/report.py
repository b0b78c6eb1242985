"""The step that reports, passed or not, before the last one publishes: `... kubeflow.report`.

Kubeflow's pages then show the run's report, and its metrics beside those of other runs; the step's
log has the tables that `python -m pipeline run` prints.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

from components.verdict import OVERALL, REPORT_FILE, Verdict
from pipeline.kubeflow.invocation import ExecutorInput, main_of
from pipeline.kubeflow.staging import staged
from pipeline.summary import verdict_tables

MOST_METRICS = 500  # with more, those of single classes are left to the report


def run(arguments: list[str]) -> None:
    """Shows a verdict.

    Args:
        arguments: `--executor_input` and its value.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.kubeflow.report")
    parser.add_argument("--executor_input", required=True)
    executor_input = ExecutorInput(parser.parse_args(arguments).executor_input)
    folder = Path(staged(executor_input.uri("inputs", "verdict")))
    verdict = Verdict.load(folder)
    print(verdict_tables(verdict))
    page = Path(staged(executor_input.uri("outputs", "report")))
    page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / REPORT_FILE, page)
    metrics = {"artifacts": [{"metadata": metrics_of(verdict)}]}
    executor_input.write_output({"artifacts": {"metrics": metrics}})


def metrics_of(verdict: Verdict) -> dict[str, float]:
    """The overall metrics of the float model and of every variant, by name.

    Those of single classes are among them unless they are too many for a page.
    """
    checks = [
        (judged.variant, check)
        for judged in verdict.models
        for check in judged.checks
        if check.slice == OVERALL and math.isfinite(check.value)
    ]
    few = len(checks) <= MOST_METRICS
    return {
        f"{variant} {check.metric}": check.value
        for variant, check in checks
        if few or not check.of_part
    }


if __name__ == "__main__":
    main_of(run)
