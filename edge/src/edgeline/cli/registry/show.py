"""`edgeline registry show`: everything about one release, and who vouches for it."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline._text import one_line
from edgeline.cli.options import add_command
from edgeline.cli.output import UsageError, megabytes, note, print_json, print_table, write_file
from edgeline.cli.registry.access import repository_to_read
from edgeline.cli.registry.list import release_json
from edgeline.cli.registry.options import add_reading, add_store
from edgeline.cli.registry.output import day, note_expired, number, role_json
from edgeline.errors import IntegrityError, NotFoundError
from edgeline.registry.format import signing_roles

if TYPE_CHECKING:
    from edgeline.publish.metadata import RoleStatus
    from edgeline.publish.repository import Repository
    from edgeline.publish.verdict import Verdict
    from edgeline.registry.bundle import Channel
    from edgeline.registry.reader import RegistryReader, Release

_MAX_LABELS = 20  # that are named to a person


def add_show(group: Any) -> None:
    parser = add_command(group, "show", _show, "show everything about one release")
    add_store(parser)
    parser.add_argument("name", metavar="NAME", help="a version, v7, or a channel, model/channel")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the report for people, HTML, to it"
    )
    add_reading(parser)


@dataclass(frozen=True)
class _Details:
    """All that is known of a release; what cannot be read is told in its place."""

    release: "Release"
    signed: "list[tuple[Channel, RoleStatus]]"  # what serves it, and who signed so
    verdict: "Verdict | None"
    objections: list[str]  # to its being promoted
    provenance: dict[str, Any] | None


def _show(options: argparse.Namespace) -> int:
    """Show a release: its variants with their metrics, the verdict it passed by, where it
    comes from, which channels serve it, who signed that, and until when it holds.

    Examples:
    edgeline registry show registry v7
    edgeline registry show registry solar-cells/production --root keys/root.json
    edgeline registry show registry solar-cells/candidate --report report.html
    """
    from edgeline.registry.reader import RegistryReader

    repository = repository_to_read(options)
    reader = RegistryReader(repository.store)
    release = _open(options.name, repository, reader)
    roles = repository.roles()
    note_expired(roles)
    verdict, objections = _judge(reader, release)
    details = _Details(
        release,
        _signed(release, repository.channels(), roles),
        verdict,
        objections,
        _provenance(reader, release, roles),
    )
    if options.report is not None:
        _write_report(options.report, reader.read_report(release), release)
    if options.json:
        print_json(_details_json(details))
    else:
        _print_details(details)
    return 0


def _open(name: str, repository: "Repository", reader: "RegistryReader") -> "Release":
    from edgeline.registry.format import parse_version_tag

    version = parse_version_tag(name)
    if version is not None:
        return reader.open_version(version)
    model, separator, channel = name.partition("/")
    if not separator:
        raise UsageError(f"Expected a version such as v7, or model/channel; got {name!r}")
    served = repository.channel(model, channel)
    if served is None:
        raise NotFoundError(f"{name} serves nothing yet: publish or promote a release")
    return reader.open_served(served)


def _signed(
    release: "Release", channels: list["Channel"], roles: list["RoleStatus"]
) -> list[tuple["Channel", "RoleStatus"]]:
    """Return the channels that serve a release, and for each the role that signed so."""
    return [
        (channel, role)
        for channel in channels
        if channel.release.index.digest == release.digest
        for role in roles
        if role.name == signing_roles(channel.model)[channel.name == "production"]
    ]


def _judge(reader: "RegistryReader", release: "Release") -> tuple["Verdict | None", list[str]]:
    from edgeline.publish.verdict import Verdict

    try:
        verdict = Verdict.from_json(reader.read_verdict(release))
    except IntegrityError as error:
        return None, [str(error)]
    return verdict, verdict.objections(
        {variant.name: variant.model.digest for variant in release.variants}
    )


def _provenance(
    reader: "RegistryReader", release: "Release", roles: list["RoleStatus"]
) -> dict[str, Any] | None:
    """Return what the release says of where it comes from, and whether that is vouched for."""
    from edgeline.publish.verify import check_provenance, publishing_keys

    try:
        checked = check_provenance(reader, release, publishing_keys(roles, release.model))
    except IntegrityError as error:
        return {"verified": False, "error": str(error), "statement": None}
    if checked is None:
        return None
    found, verified = checked
    return {
        "verified": verified,
        "error": None if verified else "none of the model's keys of today signed it",
        "statement": found.statement,
    }


def _write_report(path: Path, report: bytes | None, release: "Release") -> None:
    if report is None:
        raise NotFoundError(f"{release.model} {release.tag} was published without a report")
    write_file(path, report)
    note(f"wrote {path}")


def _print_details(details: _Details) -> None:
    release = details.release
    print(f"{release.model} {release.tag}, {release.digest}\n")
    if details.signed:
        header = ("CHANNEL", "SIGNED BY", "KEYS", "EXPIRES")
        print_table([header, *map(_signed_row, details.signed)])
    else:
        print("No channel serves it, so no signature vouches for it now.")
    print()
    _print_metrics(release, details.verdict)
    print()
    facts = [*_verdict_facts(details), *_contract_facts(release), *_origin(details.provenance)]
    print_table([(f"{name}:", value) for name, value in facts])


def _signed_row(signed: "tuple[Channel, RoleStatus]") -> tuple[str, ...]:
    channel, role = signed
    keys = ", ".join(key.keyid[:12] for key in role.keys)
    return channel.name, role.name, keys, day(role.expires)


def _print_metrics(release: "Release", verdict: "Verdict | None") -> None:
    names = [variant.name for variant in release.variants]
    values = verdict.metrics() if verdict else {}
    rows = dict.fromkeys((metric, slice_) for _, metric, slice_ in values)
    print_table(
        [
            ("METRIC", "ON", *names),
            ("file", "", *(megabytes(variant.model.size) for variant in release.variants)),
            *((*row, *(number(values.get((name, *row))) for name in names)) for row in rows),
        ],
        right=range(2, 2 + len(names)),
    )


def _verdict_facts(details: _Details) -> Iterator[tuple[str, str]]:
    verdict, objections = details.verdict, details.objections
    yield "verdict", "; ".join(["not a pass", *objections]) if objections else "pass"
    if verdict:
        yield "judged on", f"{verdict.examples} images of the {verdict.split} split"
        deployed = verdict.deployed
        yield "compared with", deployed.tag if deployed else "nothing: no release was deployed then"


def _contract_facts(release: "Release") -> Iterator[tuple[str, str]]:
    contract = release.contract
    yield "input", f"{contract.width} x {contract.height} px, {contract.color}"
    more = len(contract.labels) - _MAX_LABELS
    yield (
        "labels",
        ", ".join(contract.labels[:_MAX_LABELS]) + (f" and {more} more" if more > 0 else ""),
    )


def _origin(provenance: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Yield what a statement says, which anybody may have written: expect nothing of its shape."""
    if provenance is None:
        yield "provenance", "none"
        return
    yield "provenance", provenance["error"] or "signed with a key of the model"
    predicate = _object(provenance["statement"], "predicate")
    details = _object(predicate, "runDetails")
    for name, value in (
        ("run", _object(details, "metadata").get("invocationId")),
        ("builder", _object(details, "builder").get("id")),
    ):
        if isinstance(value, str):
            yield name, one_line(value, limit=120)
    made_from = _object(predicate, "buildDefinition").get("resolvedDependencies")
    for resource in made_from if isinstance(made_from, list) else ():
        if isinstance(resource, dict):
            digests = _object(resource, "digest")
            digest = ", ".join(f"{algorithm}:{value}" for algorithm, value in digests.items())
            name = one_line(resource.get("name"), limit=120)
            yield f"made from {name}", one_line(digest, limit=120)


def _object(document: Any, name: str) -> dict[str, Any]:
    value = document.get(name) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def _details_json(details: _Details) -> dict[str, Any]:
    verdict = details.verdict
    return {
        **release_json(details.release, [channel.name for channel, _ in details.signed]),
        "signed": [
            {"channel": channel.name, **role_json(role)} for channel, role in details.signed
        ],
        "labels": list(details.release.contract.labels),
        "verdict": {
            "passed": not details.objections,
            "objections": details.objections,
            "split": verdict.split if verdict else None,
            "examples": verdict.examples if verdict else None,
            "deployed": verdict.deployed.tag if verdict and verdict.deployed else None,
        },
        "metrics": [
            {"variant": variant, "metric": metric, "slice": slice_, "value": value}
            for (variant, metric, slice_), value in (verdict.metrics() if verdict else {}).items()
        ],
        "provenance": details.provenance,
    }
