"""`edgeline registry fleet` and `watch-rollout`: whose reports count, and what they lead to."""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.cli.access import connection
from edgeline.cli.enrol import read_small
from edgeline.cli.options import add_command, add_connection, add_group, add_root, at_least
from edgeline.cli.output import UsageError, answer, note, printable, write_file
from edgeline.cli.registry.access import (
    key_to_add,
    repository,
    repository_to_read,
    signers,
)
from edgeline.cli.registry.inbox import add_inbox
from edgeline.cli.registry.options import add_model, add_reading, add_signing, share
from edgeline.cli.registry.rollout import add_channel
from edgeline.errors import IntegrityError, RegistryError

if TYPE_CHECKING:
    from edgeline.fleet.gather import Gathered
    from edgeline.fleet.halting import Judged, Rules
    from edgeline.publish.repository import Repository
    from edgeline.registry.format import ReleaseRef
    from edgeline.registry.rollout import Rollout
    from edgeline.registry.store import ReadStore
    from edgeline.telemetry.report import Report

HALTED = 3  # the exit code when a rollout is halted
DAY = 86_400.0


def add_fleet(group: Any) -> None:
    """Add the group of commands to the parser."""
    add_group(group, "fleet", _add_commands, "say whose reports count, and read them")


def _add_commands(commands: Any) -> None:
    """Say which devices' reports on a model count, and read them.

    Examples:
    edgeline registry fleet init registry solar-cells --fleet-key fleet.pub --halt-key halt.pub
    edgeline registry fleet enrol registry solar-cells request.json --output enrolment.json
    edgeline registry fleet list registry solar-cells --reports reports
    edgeline registry fleet report registry solar-cells --reports reports --output fleet.html
    """
    start = add_command(
        commands, "init", _init, "let a key enrol devices, and another halt rollouts"
    )
    add_model(start)
    for option, what in (("--fleet-key", "enrols devices"), ("--halt-key", "halts rollouts")):
        start.add_argument(
            option, type=Path, required=True, metavar="FILE", help=f"(*.pub) that {what}"
        )
    add_signing(start)
    enrol = add_command(commands, "enrol", _enrol, "have a device's reports count")
    add_model(enrol)
    enrol.add_argument("request", type=Path, metavar="REQUEST", help="what `edgeline enrol` wrote")
    enrol.add_argument("--output", type=Path, required=True, metavar="FILE", help="to write")
    enrol.add_argument(
        "--days", type=at_least(1), default=1095, metavar="N", help="that it lasts, default: 1095"
    )
    add_signing(enrol)
    revoke = add_command(commands, "revoke", _revoke, "have devices' reports count no more")
    add_model(revoke)
    revoke.add_argument("devices", nargs="+", metavar="DEVICE", help="its id")
    add_signing(revoke)
    listing = add_command(commands, "list", _list, "list what devices report")
    add_channel(listing)
    _add_reports(listing)
    add_reading(listing, "a line of JSON per device")
    _add_page(commands)
    add_inbox(commands)


def _add_page(commands: Any) -> None:
    parser = add_command(commands, "report", _page, "write what devices report as a page")
    add_channel(parser)
    _add_reports(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="to write, or to replace"
    )
    add_root(parser)
    add_connection(parser)


def add_watch_rollout(group: Any) -> None:
    """Add `watch-rollout` to the parser."""
    parser = add_command(
        group, "watch-rollout", _watch, "halt or advance a rollout by what its devices report"
    )
    add_channel(parser)
    _add_reports(parser)
    parser.add_argument(
        "--advance", action="store_true", help="go on to the next step when the devices are well"
    )
    parser.add_argument(
        "--steps",
        type=_steps,
        default=(500, 2500, 10_000),
        metavar="SHARES",
        help="of a rollout, default: 5%%,25%%,100%%",
    )
    rules = parser.add_argument_group("when a device has failed, and what is too many")
    rules.add_argument(
        "--min-agreement",
        type=_share,
        metavar="N",
        help="share of labels that the model before gave, in the shadow; default: what the release "
        "promises by its verdict, if that compared it with the release that all others have",
    )
    for option, what, kind, default in _RULES:
        rules.add_argument(
            option, type=kind, default=default, metavar="N", help=f"{what}, default: {default}"
        )
    add_signing(parser)


def _add_reports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reports",
        action="append",
        required=True,
        metavar="PLACE",
        help="where devices report to: a folder, or oci://host[:port]/repository; repeatable",
    )
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="FILE",
        help="remembers which reports were read, so that older ones count for nothing, and how "
        "many devices served which release on each day",
    )


def _init(options: argparse.Namespace) -> int:
    r"""Let a key enrol devices of a model, and another one halt its rollouts,
    and no more. Needs the targets key and the online key to sign.

    Examples:
    edgeline registry keys create keys/solar-cells-fleet.pem
    edgeline registry keys create keys/solar-cells-halt.pem
    edgeline registry fleet init registry solar-cells --root keys/root.json \
        --fleet-key keys/solar-cells-fleet.pub --halt-key keys/solar-cells-halt.pub \
        --key keys/targets.pem --key keys/online.pem
    """
    trusted = repository(options)
    fleet, halt = key_to_add(options.fleet_key), key_to_add(options.halt_key)
    trusted.add_fleet(options.model, fleet, halt)
    return answer(
        options,
        {"model": options.model, "fleet": fleet.keyid, "halt": halt.keyid},
        f"{options.fleet_key} enrols devices of {options.model} now, and {options.halt_key} "
        "may halt its rollouts.",
    )


def _enrol(options: argparse.Namespace) -> int:
    r"""Sign that a device's reports on a model count. Writes nothing to the
    registry: the enrolment goes back to the device, and travels with its reports.

    Examples:
    edgeline registry fleet enrol registry solar-cells request.json --output enrolment.json \
        --root keys/root.json --key keys/solar-cells-fleet.pem
    """
    from edgeline._json import parse_object
    from edgeline.telemetry.report import Enrolment, check_device, parse_key, seal_enrolment

    at_hand = signers(options)
    trusted = repository_to_read(options)
    signer = next(filter(None, map(at_hand.for_key, trusted.fleet(options.model).keys)), None)
    if signer is None:
        raise RegistryError(
            f"None of the keys given enrols devices of {options.model}. Give the fleet key with "
            "--key"
        )
    try:
        request = parse_object(read_small(options.request))
        if request["model"] != options.model:
            raise ValueError(f"it is for {request['model']!r}")
        device, key = check_device(request["device"]), parse_key(request["key"])
    except (KeyError, TypeError, ValueError, RegistryError) as error:
        raise RegistryError(
            f"{options.request} is no request for {options.model}: {error}. Expected what "
            "`edgeline enrol` wrote on the device"
        ) from None
    expires = time.time() + options.days * DAY
    data = seal_enrolment(Enrolment(device, options.model, key, expires), signer)
    write_file(options.output, data, anew=True)
    document = {"device": device, "file": str(options.output), "expires": expires}
    text = f"{options.output} enrols device {device}: `edgeline enrol --accept` takes it there."
    return answer(options, document, text)


def _revoke(options: argparse.Namespace) -> int:
    r"""Have the reports of devices count no more, such as of one that was stolen.

    Examples:
    edgeline registry fleet revoke registry solar-cells 6f1c0a5e2b7d4c3f9a8b7c6d5e4f3a2b \
        --root keys/root.json --key keys/solar-cells-fleet.pem --key keys/online.pem
    """
    from edgeline.telemetry.report import check_device

    devices = [check_device(each) for each in options.devices]
    repository(options).revoke(options.model, devices)
    text = f"What {', '.join(devices)} report on {options.model} counts for nothing now."
    return answer(options, {"model": options.model, "revoked": devices}, text)


def _list(options: argparse.Namespace) -> int:
    """List what the devices of a channel report, and what counts for nothing.

    Examples:
    edgeline registry fleet list registry solar-cells --root keys/root.json --reports reports
    edgeline registry fleet list registry solar-cells --reports reports --json | jq .version
    """
    gathered = _gathered(options, repository_to_read(options))
    rows = [("DEVICE", "SERVES", "PREDICTIONS", "ERRORS", "CRASHES", "DRIFTED", "REJECTED")]
    for each in gathered.reports:
        active, counts = each.active, each.counts
        rows.append(
            (
                each.device,
                f"v{active.version} {active.variant}" if active else "nothing",
                f"{counts.predictions:,}",
                f"{counts.model_errors:,}",
                f"{counts.crashes:,}",
                _drifted(each),
                f"v{each.rejected.version}: {each.rejected.reason}" if each.rejected else "-",
            )
        )
    documents = (each.to_json() for each in gathered.reports)
    return answer(options, documents, rows, right=(2, 3, 4))


def _page(options: argparse.Namespace) -> int:
    r"""Write what the devices of a channel report as a page, one HTML file: devices
    by release, releases over time, failures by reason, drift.

    Examples:
    edgeline registry fleet report registry solar-cells --root keys/root.json \
        --reports reports --memory seen.json --output fleet.html
    """
    from edgeline.fleet.page import render

    trusted = repository_to_read(options)
    gathered = _gathered(options, trusted)
    channel = trusted.channel(options.model, options.channel)
    page = render(gathered, channel, now=time.time()).encode()
    write_file(options.output, page)
    print(printable(f"{options.output}: {len(gathered.reports)} devices"))
    return 0


def _drifted(report: "Report") -> str:
    """Return what has drifted; "-" where nothing has, and "?" where nobody looks."""
    if report.drift is None:
        return "?"
    return ", ".join(report.drift.shifted) or "-"


def _watch(options: argparse.Namespace) -> int:
    r"""Read what the devices of a rollout report, and halt it when too many fail;
    for cron or CI. With --advance and the release key, have it reach more devices, too.
    Exit code 3 says that the rollout was halted. docs/fleet.md has the statistics.

    Examples:
    edgeline registry watch-rollout registry solar-cells --reports reports --memory seen.json \
        --root keys/root.json --key keys/solar-cells-halt.pem --key keys/online.pem
    edgeline registry watch-rollout registry solar-cells --reports reports --memory seen.json \
        --max-latency-ms 50 --advance --steps 5%,25%,100%
    """
    from edgeline.fleet.halting import judge, next_share

    trusted = repository(options)
    channel = trusted.channel(options.model, options.channel)
    rollout = channel.active_rollout if channel else None
    if channel is None or rollout is None:
        note(f"{options.model}/{options.channel} has no rollout under way")
        return 0
    rules = _rules(options)
    if rules.min_agreement is None:
        promised = _promised_agreement(trusted.store, rollout, channel.release)
        rules = replace(rules, min_agreement=promised)
    judged = judge(rollout, _gathered(options, trusted).reports, rules)
    share = next_share(rollout, judged, options.steps) if options.advance else None
    action = "halted" if judged.decision == "halt" else "advanced" if share else "waits"
    if action == "halted":
        _halt(trusted, options, rollout)
    elif share:
        from edgeline.publish.rollouts import advanced

        trusted.edit(options.model, options.channel, advanced(rollout.number, share))
    _report(options, rollout, judged, rules, action, share)
    return HALTED if action == "halted" else 0


def _promised_agreement(
    store: "ReadStore", rollout: "Rollout", before: "ReleaseRef"
) -> float | None:
    """Return the agreement with the release before that the new one's verdict promises."""
    from edgeline.publish.verdict import Verdict
    from edgeline.registry.reader import RegistryReader

    reader = RegistryReader(store)
    try:
        verdict = Verdict.from_json(reader.read_verdict(reader.open(rollout.release)))
    except IntegrityError as error:
        note(f"agreement in the shadow is not held against the verdict: {error}")
        return None
    return verdict.promised_agreement(before.index.digest)


def _halt(trusted: "Repository", options: argparse.Namespace, rollout: "Rollout") -> None:
    """Halt a rollout with the key that may do no more, or else with the release key."""
    from edgeline.publish.rollouts import halted

    try:
        trusted.stop(options.model, options.channel, rollout.number)
    except RegistryError as error:
        try:
            trusted.edit(options.model, options.channel, halted(rollout.number))
        except RegistryError:
            raise error from None


def _report(
    options: argparse.Namespace,
    rollout: "Rollout",
    judged: "Judged",
    rules: "Rules",
    action: str,
    share: int | None,
) -> None:
    from edgeline.publish.rollouts import percent
    from edgeline.registry.rollout import WHOLE

    tag, now = rollout.release.tag, share or rollout.share
    document = {
        "model": options.model,
        "channel": options.channel,
        "number": rollout.number,
        "tag": tag,
        "action": action,
        "share": 0 if action == "halted" else now / WHOLE,
        "heard": judged.heard,
        "well": judged.well,
        "failed": dict(judged.failed),
        "evidence": judged.evidence,
        "limit": judged.limit,
        "min_agreement": rules.min_agreement,
    }
    end = f"advanced to {percent(now)}" if action == "advanced" else action
    rows = [
        ("rollout", f"{rollout.number} of {options.model}/{options.channel}, {tag}: {end}"),
        ("devices", f"{judged.heard} heard, {judged.well} well, {len(judged.failed)} failed"),
        ("evidence", f"{judged.evidence:+.2f} against it, halted at {judged.limit:.2f}"),
        ("agreement", _agreement(rules)),
        *((f"  {device}", reason) for device, reason in sorted(judged.failed.items())),
    ]
    answer(options, document, rows)


def _agreement(rules: "Rules") -> str:
    if rules.min_agreement is None:
        return "with the release before: nothing was promised"
    return f"with the release before: {rules.min_agreement:.4f} or more in the shadow"


def _gathered(options: argparse.Namespace, trusted: "Repository") -> "Gathered":
    from edgeline.fleet.gather import Memory, gather
    from edgeline.telemetry.places import open_place

    memory = Memory.load(options.memory) if options.memory else Memory({}, {})
    gathered = gather(
        [open_place(place, connection(options)) for place in options.reports],
        model=options.model,
        channel=options.channel,
        fleet=trusted.fleet(options.model),
        memory=memory,
        at=time.time(),
    )
    if options.memory:
        memory.save(options.memory)
    for reason in gathered.refused.values():
        note(f"counts for nothing: {reason}")
    return gathered


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and below 1, got {text}")
    return value


def _steps(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(share, text.split(","))))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


_RULES: tuple[tuple[str, str, Callable[[str], Any], Any], ...] = (
    ("--tolerated", "share of devices that may fail with a good release", _share, 0.005),
    ("--bad", "share that fails with a release that must not go on", _share, 0.1),
    ("--false-halts", "share of good rollouts that are halted, at most", _share, 0.02),
    ("--false-passes", "share of bad ones that go on at a step, at most", _share, 0.05),
    ("--least-failed", "devices that have to fail before anything is halted", at_least(2), 3),
    ("--soak-hours", "that a device serves the release until it counts as well", _positive, 24.0),
    ("--max-crashes", "of a device that has not failed", at_least(0), 1),
    ("--max-model-errors", "share of predictions that the model may fail at", _share, 0.01),
    ("--max-latency-ms", "that 95%% of a device's predictions take at most", _positive, None),
)


def _rules(options: argparse.Namespace) -> "Rules":
    from edgeline.fleet.halting import Rules

    if options.bad <= options.tolerated:
        raise UsageError("--bad: expected more than --tolerated")
    return Rules(
        tolerated=options.tolerated,
        bad=options.bad,
        false_halts=options.false_halts,
        false_passes=options.false_passes,
        least_failed=options.least_failed,
        soak_seconds=options.soak_hours * 3600,
        max_crashes=options.max_crashes,
        max_model_errors=options.max_model_errors,
        min_agreement=options.min_agreement,
        max_latency=options.max_latency_ms and options.max_latency_ms / 1000,
    )
