"""What goes on record of where a release comes from: the facts, gathered for its provenance.

Some are known when the pipeline is put together (`Origin`, which travels to the step as text), some
are in the step's inputs, and the libraries are those it runs with.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from components.libraries import library_versions
from components.verdict import OVERALL, REPORT_FILE, VERDICT_FILE, Verdict
from edgeline.publish.provenance import Build, Resource


@dataclass(frozen=True)
class Origin:
    """What is known of a run before it starts.

    Attributes:
        builder: URI of what runs it.
        parameters: what its user chose; no secrets, and no paths of the machine.
        dependencies: what its models are made from.
    """

    builder: str
    parameters: Mapping[str, Any]
    dependencies: tuple[Resource, ...]


def describe(
    origin: Origin, run: str, verdict: Verdict, report: bytes, published: Iterable[str]
) -> Build:
    """Puts the facts together.

    Args:
        origin: what was known beforehand.
        run: id of the run that judged the models.
        verdict: on them; its metrics go on record.
        report: for people.
        published: the variants that the release holds.
    """
    published = set(published)
    metrics = {
        judged.variant: {
            check.metric: check.value
            for check in judged.checks
            if check.slice == OVERALL and math.isfinite(check.value)
        }
        for judged in verdict.variants
        if judged.variant in published
    }
    return Build(
        builder=origin.builder,
        run=run,
        parameters=origin.parameters,
        libraries=library_versions(),
        dependencies=origin.dependencies,
        byproducts=(
            Resource(VERDICT_FILE, _sha256(verdict.to_json()), annotations={"metrics": metrics}),
            Resource(REPORT_FILE, _sha256(report)),
        ),
    )


def _sha256(content: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(content).hexdigest()}
