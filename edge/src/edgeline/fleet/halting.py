"""Whether a rollout goes on: what its devices report, weighed so that looking often does no harm.

Each device that has the release, or tried it, counts once: it failed, or it did not (yet). The
evidence is the likelihood ratio of two rates of failing devices, a bad one and a tolerated one:
Wald's sequential probability ratio test (Wald, "Sequential Tests of Statistical Hypotheses", Ann.
Math. Statist. 16, 1945). Of good releases, whose devices fail at the tolerated rate or less, a part
of at most a ever reaches a ratio of 1/a, however often one looks (Ville's inequality; see Ramdas et
al., "Game-Theoretic Statistics and Safe Anytime-Valid Inference", Statist. Sci. 38, 2023). That a
device which is well so far may yet fail only makes the ratio smaller than it would be. For a
release to pass, it has to be so good that it would even if of the devices which are neither well
nor failed yet as many failed as of a bad release.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeline.registry.rollout import Rollout
from edgeline.telemetry.report import Compared, Report

_LATENCY_SHARE = 0.95
_UNLUCKY = 0.001
_LEAST_PREDICTIONS = 100  # for a device's rates to mean something


@dataclass(frozen=True)
class Rules:
    """When a device has failed, and how much evidence a decision takes."""

    tolerated: float = 0.005  # share of devices that may fail with a good release
    bad: float = 0.10  # share that fails with one that must not go on
    false_halts: float = 0.02  # of good rollouts, at most
    false_passes: float = 0.05  # of bad ones, at each step
    least_failed: int = 3  # devices without which nothing is halted, as one's key may be stolen
    soak_seconds: float = 86_400.0  # that a device serves the release until it counts as well
    max_crashes: int = 1  # of a device with the release
    max_model_errors: float = 0.01  # share of its predictions that the model fails at
    max_latency: float | None = None  # seconds that 95% of its predictions take at most
    min_agreement: float | None = None  # share of images with the label of the model before


@dataclass(frozen=True)
class Judged:
    """What the reports say of a rollout."""

    decision: Literal["halt", "pass", "wait"]
    heard: int  # devices that have the release or tried it
    well: int  # those of them that served it for long enough
    failed: Mapping[str, str]  # why, by the devices' ids
    evidence: float  # log of the likelihood ratio: positive speaks against the release
    limit: float  # at which it is halted


def judge(rollout: Rollout, reports: Iterable[Report], rules: Rules) -> Judged:
    """Weigh the reports on a rollout, one a device."""
    digest = rollout.release.index.digest
    failed: dict[str, str] = {}
    heard = well = 0
    for report in reports:
        active = report.active is not None and report.active.digest == digest
        rejected = report.rejected is not None and report.rejected.digest == digest
        shadowed = report.shadow is not None and report.shadow.digest == digest
        if not active and not rejected and not shadowed:
            continue
        heard += 1
        reason = failure(report, digest, rules)
        if reason:
            failed[report.device] = reason
        elif active and report.time - report.counts.since >= rules.soak_seconds:
            well += 1
    evidence = log_ratio(len(failed), heard, rules)
    limit = -math.log(rules.false_halts)
    decision: Literal["halt", "pass", "wait"] = "wait"
    if evidence >= limit and len(failed) >= rules.least_failed:
        decision = "halt"
    else:
        # The first to say that they are well must not outrun those that are about to fail.
        feared = len(failed) + math.ceil(rules.bad * (heard - well - len(failed)))
        if log_ratio(feared, heard, rules) <= math.log(rules.false_passes):
            decision = "pass"
    return Judged(decision, heard, well, failed, evidence, limit)


def failure(report: Report, digest: str, rules: Rules) -> str | None:
    """Return why a device has failed with a release, None when it has not."""
    rejected, counts = report.rejected, report.counts
    if rejected is not None and rejected.digest == digest:
        return f"rejected: {rejected.reason or 'no reason given'}"
    compared = report.shadow
    if compared is not None and compared.digest == digest and _disagrees(compared, rules):
        return f"{compared.agreed} of {compared.predictions} labels as before"
    if report.active is None or report.active.digest != digest:
        return None  # what is counted is another release's
    if counts.crashes > rules.max_crashes:
        return f"{counts.crashes} crashes"
    tried = counts.predictions + counts.model_errors
    if counts.model_errors > rules.max_model_errors * max(tried, _LEAST_PREDICTIONS):
        return f"{counts.model_errors} of {tried} predictions failed"
    if rules.max_latency is not None and counts.predictions >= _LEAST_PREDICTIONS:
        latency = counts.latency_quantile(_LATENCY_SHARE)
        if latency is not None and latency > rules.max_latency:
            return f"slow: 95% of its predictions take up to {latency * 1000:g} ms"
    return None


def _disagrees(compared: Compared, rules: Rules) -> bool:
    """Tell whether so few labels can't be chance, were the agreement as promised.

    By the binomial distribution's lower tail, which an unlucky device reaches once in a thousand.
    """
    if rules.min_agreement is None or compared.agreed >= compared.predictions * rules.min_agreement:
        return False
    n, p = compared.predictions, rules.min_agreement
    tail = math.fsum(
        math.exp(
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            + k * math.log(p) + (n - k) * math.log1p(-p)
        )
        for k in range(compared.agreed + 1)
    )  # fmt: skip
    return tail < _UNLUCKY


def log_ratio(failed: int, devices: int, rules: Rules) -> float:
    """Return the log of how much likelier a bad release makes it that so many devices failed."""
    return failed * math.log(rules.bad / rules.tolerated) + (devices - failed) * math.log(
        (1 - rules.bad) / (1 - rules.tolerated)
    )


def next_share(rollout: Rollout, judged: Judged, steps: Iterable[int]) -> int | None:
    """Return the share to advance to, None when the rollout has to wait.

    One step is taken without proof, since the first share of a fleet is mostly too small for one:
    when all devices that were heard of are well or failed, and more of them are well.
    """
    ahead = [step for step in sorted(steps) if step > rollout.share]
    if not ahead or judged.decision == "halt":
        return None
    is_first = rollout.share <= min(steps)
    heard_out = 0 < judged.heard == judged.well + len(judged.failed)
    if judged.decision == "pass" or (is_first and heard_out and judged.well > len(judged.failed)):
        return ahead[0]
    return None
