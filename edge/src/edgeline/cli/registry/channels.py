"""`edgeline registry promote` and `rollback`: let a channel serve another release."""

import argparse
import math
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeline.cli.options import add_command
from edgeline.cli.output import Progress, answer, note, print_table, printable
from edgeline.cli.registry.access import repository
from edgeline.cli.registry.options import add_model, add_share, add_signing, add_yes, version
from edgeline.cli.registry.output import confirmed, number

if TYPE_CHECKING:
    from edgeline.publish.channels import Change, Metric


def add_promote(group: Any) -> None:
    parser = add_command(
        group, "promote", _promote, "let a channel serve the release of another one"
    )
    add_model(parser)
    parser.add_argument(
        "--from", required=True, dest="source", metavar="CHANNEL", help="whose release to take"
    )
    parser.add_argument(
        "--to", required=True, dest="target", metavar="CHANNEL", help="which is to serve it too"
    )
    add_share(
        parser, "begin a rollout: serve it to this share of the devices first, such as 5%% or 0.5%%"
    )
    _add_all(parser)
    add_yes(parser)
    add_signing(parser)


def add_rollback(group: Any) -> None:
    parser = add_command(group, "rollback", _rollback, "let a channel serve the release before")
    add_model(parser)
    parser.add_argument("--channel", required=True, metavar="CHANNEL", help="to change")
    parser.add_argument(
        "--to",
        type=version,
        dest="version",
        metavar="VERSION",
        help="one of those it served before, such as v5; default: the last of them",
    )
    _add_all(parser)
    add_yes(parser)
    add_signing(parser)


def _add_all(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all", action="store_true", help="show every metric, also those that are the same"
    )


def _promote(options: argparse.Namespace) -> int:
    r"""Let a channel serve the release that another one serves, such as production the
    candidate. Refuses a release that was changed, or whose recorded verdict is not a pass.
    Says which metrics got worse, shows what differs, and asks before it signs.

    Examples:
    edgeline registry promote registry solar-cells --from candidate --to production \
        --root keys/root.json --key keys/solar-cells-release.pem --key keys/online.pem
    export EDGELINE_ROOT=keys/root.json EDGELINE_KEYS=keys
    edgeline registry promote registry solar-cells --from candidate --to canary
    edgeline registry promote registry solar-cells --from canary --to production --yes --json
    edgeline registry promote registry solar-cells --from candidate --to production --share 5%
    """
    trusted = repository(options)
    from edgeline.publish.channels import promote
    from edgeline.registry.rollout import WHOLE

    share = options.share if options.share is not None else 0 if options.groups else WHOLE
    change = promote(
        trusted,
        options.model,
        options.source,
        options.target,
        share=share,
        groups=options.groups,
        confirm=partial(_confirm, options),
        notify=Progress(),
    )
    return _report(change, options)


def _rollback(options: argparse.Namespace) -> int:
    r"""Let a channel serve a release that it served before. To devices it is one more signed
    change; nothing is undone in the metadata.

    Examples:
    edgeline registry rollback registry solar-cells --channel production \
        --root keys/root.json --key keys/solar-cells-release.pem --key keys/online.pem
    edgeline registry rollback registry solar-cells --channel production --to v5 --yes
    """
    trusted = repository(options)
    from edgeline.publish.channels import rollback

    change = rollback(
        trusted,
        options.model,
        options.channel,
        options.version,
        confirm=partial(_confirm, options),
        notify=Progress(),
    )
    return _report(change, options)


def _confirm(options: argparse.Namespace, change: "Change") -> bool:
    """Show what is to be signed, and ask."""
    for remark in change.remarks:
        note(remark)
    if not options.json or not options.yes:
        for line in _warnings(change):
            print(line, file=sys.stderr if options.json else sys.stdout)
        _print_comparison(change, everything=options.all, error=options.json)
    where = f"{change.model}/{change.channel}"
    return confirmed(f"Sign that {where} serves {_whom(change)}?", yes=options.yes)


def _whom(change: "Change") -> str:
    """Name the release, and in a rollout for whom it is."""
    from edgeline.publish.rollouts import percent
    from edgeline.registry.rollout import WHOLE

    if change.share == WHOLE:
        return change.release.tag
    devices = [f"{percent(change.share)} of its devices"] if change.share else []
    return f"{change.release.tag} to {' and '.join([*devices, *change.groups])}"


def _warnings(change: "Change") -> Iterator[str]:
    """What matters first: what is gone, and what got worse."""
    for variant in change.gone:
        yield f"GONE   {variant}: {change.release.tag} has no such variant"
    for metric in change.metrics:
        if metric.is_worse and metric.interval:
            low, high = metric.interval
            where = "" if metric.slice == "overall" else f" on {metric.slice}"
            yield printable(
                f"WORSE  {metric.variant}: {metric.metric}{where} was {number(metric.old)}, and is "
                f"{number(metric.new)} now, with an interval of {low:.4f} to {high:.4f}"
            )


def _print_comparison(change: "Change", *, everything: bool, error: bool) -> None:
    old, new = change.replaced, change.release.tag
    columns = (f"{old.tag}, NOW", new, "DIFFERENCE") if old else (new,)
    rows = [
        (each.variant, each.metric, each.slice, *(_numbers(each) if old else [number(each.new)]))
        for each in change.metrics
        if everything or each.differs
    ]
    if rows:
        print_table([("VARIANT", "METRIC", "ON", *columns), *rows], right=(3, 4, 5), error=error)
    if same := len(change.metrics) - len(rows):
        note(f"{same:,} more metrics are the same; --all shows them")


def _report(change: "Change", options: argparse.Namespace) -> int:
    from edgeline.publish.channels import Outcome

    where, tag = f"{change.model}/{change.channel}", change.release.tag
    text = {
        Outcome.DONE: f"{where} serves {_whom(change)} ({change.release.digest}).",
        Outcome.UNCHANGED: f"{where} serves {tag} already; nothing was signed.",
        Outcome.DECLINED: f"Nothing was signed; {where} is as it was.",
    }[change.outcome]
    answer(options, _change_json(change), text)
    return 1 if change.outcome is Outcome.DECLINED else 0


def _change_json(change: "Change") -> dict[str, Any]:
    from edgeline.registry.rollout import WHOLE

    replaced = change.replaced
    return {
        "model": change.model,
        "channel": change.channel,
        "outcome": change.outcome.value,
        "tag": change.release.tag,
        "digest": change.release.digest,
        "replaced": {"tag": replaced.tag, "digest": replaced.index.digest} if replaced else None,
        "metrics": [
            {
                "variant": metric.variant,
                "metric": metric.metric,
                "slice": metric.slice,
                "old": metric.old,
                "new": metric.new,
                "difference": metric.difference,
            }
            for metric in change.metrics
        ],
        "remarks": list(change.remarks),
        "share": change.share / WHOLE,
        "groups": list(change.groups),
    }


def _numbers(metric: "Metric") -> list[str]:
    change = metric.difference
    difference = "-" if change is None or math.isnan(change) else f"{change:+.4f}"
    return [number(metric.old), number(metric.new), difference]
