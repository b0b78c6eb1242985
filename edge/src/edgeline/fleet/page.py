"""The fleet on a page: one HTML file for people, of what devices reported.

    write_whole(path, render(gathered, channel, now=time.time()).encode())

Reports are anybody's text: each is escaped where it is put into the page, and the page's own policy
lets it load and run nothing. What many devices say is counted, so that the page has a bounded size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from html import escape
from typing import TypeAlias

from edgeline._text import in_utc
from edgeline.drift import QUANTITIES
from edgeline.fleet.gather import Day, Gathered
from edgeline.registry.bundle import Channel
from edgeline.registry.format import version_tag
from edgeline.registry.rollout import WHOLE
from edgeline.telemetry.report import Report

MAX_ROWS = 500  # of a table; the rest is said in a line

_DAY = 86_400.0
_CURVES = 6  # releases, the newest ones
_WIDTH, _HEIGHT, _MARGIN = 640, 200, 34  # of a picture
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9")  # Okabe and Ito's

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .25rem .6rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #8884; }
td.number, th.number { text-align: right; }
svg { width: 100%; height: auto; font-size: 11px; }
svg text { fill: currentColor; }
.note { opacity: .75; font-size: .9rem; }
.bar { fill: #0072b2; }
"""

# Nothing may be loaded or run, whatever a report has brought into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


_Curve: TypeAlias = list[tuple[float, int]]  # seconds since 1970, and devices from then on


def render(gathered: Gathered, channel: Channel | None, *, now: float) -> str:
    """Return the page.

    Args:
        gathered: What the devices of the channel report.
        channel: The channel as it is signed, None when it serves nothing.
        now: The time, in seconds since 1970.
    """
    reports = gathered.reports
    title = channel.path if channel else "a channel that serves nothing"
    parts = (
        f"<p>{len(reports):,} devices reported. Made {_when(now)}.</p>",
        *_rollout(channel),
        *_section("Devices by release", _versions(reports)),
        *_section("Releases over time", _adoption(gathered, now)),
        *_section("Failures by reason", _failures(reports, gathered.refused)),
        *_section("Drift", _drift(reports)),
        *_section("Devices", _devices(reports)),
    )
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>The fleet of {escape(title)}</title>",
            f"<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>The fleet of {escape(title)}</h1>",
            *parts,
            "</body>\n</html>\n",
        )
    )


def failures(report: Report) -> Iterator[str]:
    """Yield what went wrong on a device, in words that many devices may share."""
    rejected, counts = report.rejected, report.counts
    if rejected is not None:
        tag = version_tag(rejected.version)
        yield f"rejected {tag}: {rejected.reason or 'no reason given'}"
    if report.error is not None and rejected is None:
        yield f"last check: {report.error}"
    if counts.crashes:
        yield f"the process crashed with {_tag(report)}"
    if counts.model_errors:
        yield f"predictions failed with {_tag(report)}"


def _rollout(channel: Channel | None) -> Iterator[str]:
    rollout = channel.rollout if channel else None
    if channel is None or rollout is None:
        return
    named = f"Rollout {rollout.number}, of {rollout.release.tag}"
    served = channel.release.tag
    if not rollout.is_active:
        yield f"<p>{named}: <strong>{rollout.state}</strong>. The channel serves {served}.</p>"
        return
    groups = f" and the groups {', '.join(rollout.groups)}" if rollout.groups else ""
    yield (
        f"<p>{named}: <strong>active</strong>, reaching {rollout.share / WHOLE:.2%} of the devices"
        f"{escape(groups)}. All others have {served}.</p>"
    )


def _versions(reports: Sequence[Report]) -> Iterator[str]:
    found = Counter(
        (each.active.version, each.active.variant or "") if each.active else (0, "")
        for each in reports
    )
    most = max(found.values(), default=1)
    rows = (
        (
            version_tag(version) if version else "none",
            escape(variant),
            f"{count:,}",
            f'<svg viewBox="0 0 300 12" role="img" aria-label="{count}">'
            f'<rect class="bar" width="{300 * count / most:.1f}" height="12"/></svg>',
        )
        for (version, variant), count in sorted(found.items(), reverse=True)
    )
    yield from _table(("release", "variant", "devices", ""), rows, numbers=(2,))


def _adoption(gathered: Gathered, now: float) -> Iterator[str]:
    """Draw how many devices served each release over time; a curve a release."""
    if len(gathered.days) > 1:
        curves = _remembered(gathered.days)
        told = "How many devices served a release, at each day's last look."
    else:
        curves = _since(gathered.reports, now)
        told = (
            "How many of the devices that serve a release now had it by when, by their own clocks. "
            "Read with <code>--memory</code> each day, it shows what was halted, too."
        )
    if not curves:
        yield '<p class="note">No device said since when.</p>'
        return
    newest = sorted(curves, reverse=True)[:_CURVES]
    first = min(curves[version][0][0] for version in newest)
    most = max(count for version in newest for _, count in curves[version])
    span = max(now - first, 1.0)

    def across(when: float) -> float:
        return _MARGIN + (min(when, now) - first) / span * (_WIDTH - 2 * _MARGIN)

    def down(count: int) -> float:
        return _HEIGHT - _MARGIN - count / max(most, 1) * (_HEIGHT - 2 * _MARGIN)

    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Devices by release">'
    for number, version in enumerate(newest):
        colour = _COLOURS[number]
        points = (f"{x:.1f},{y:.1f}" for x, y in _stairs(curves[version], now, across, down))
        yield (
            f'<polyline points="{" ".join(points)}" fill="none" style="stroke:{colour}" '
            'stroke-width="2"/>'
        )
        yield (
            f'<text x="{_MARGIN + 48 * number}" y="14" style="fill:{colour}">'
            f"{version_tag(version)}</text>"
        )
    ends = ((_MARGIN, "start", first), (_WIDTH - _MARGIN, "end", now))
    for place, anchor, when in ends:
        yield (f'<text x="{place}" y="{_HEIGHT - 12}" text-anchor="{anchor}">{_when(when)}</text>')
    yield f'<text x="2" y="{down(most) + 4:.1f}">{most:,}</text></svg>'
    yield f'<p class="note">{told}</p>'


def _remembered(days: Sequence[Day]) -> dict[int, _Curve]:
    """Return the counts of each release from the day on which it was first seen."""
    curves: dict[int, _Curve] = {}
    for day in days:
        for version in {*curves, *map(int, day.devices)}:
            count = day.devices.get(str(version), 0)
            curves.setdefault(version, []).append((day.time, count))
    return curves


def _since(reports: Iterable[Report], now: float) -> dict[int, _Curve]:
    """Return since when devices serve what they serve."""
    begun: dict[int, list[float]] = {}
    for each in reports:
        # By a clock that is off, nothing can be said of when.
        if each.active and 0 < each.counts.since <= min(each.time, now + _DAY):
            begun.setdefault(each.active.version, []).append(each.counts.since)
    return {
        version: [(when, count) for count, when in enumerate(sorted(times), 1)]
        for version, times in begun.items()
    }


def _stairs(
    curve: _Curve, now: float, across: Callable[[float], float], down: Callable[[int], float]
) -> Iterator[tuple[float, float]]:
    # As many points as pixels show: the curve of 100,000 devices is no larger than that.
    sampled = curve[:: max(1, len(curve) // _WIDTH)]
    before = 0
    for when, count in sampled:
        yield across(when), down(before)
        yield across(when), down(count)
        before = count
    yield across(now), down(curve[-1][1])


def _failures(reports: Sequence[Report], refused: dict[str, str]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for each in reports:
        for reason in failures(each):
            by_reason.setdefault(reason, []).append(each.device)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = (
        (escape(reason), f"{len(devices):,}", escape(_some(devices))) for reason, devices in ordered
    )
    yield from _table(("reason", "devices", "such as"), rows, numbers=(1,))
    if refused:
        yield f"<p>{len(refused):,} reports count for nothing:</p>"
        yield from _table(("why",), ((escape(why),) for why in refused.values()))


def _drift(reports: Sequence[Report]) -> Iterator[str]:
    watching = [each for each in reports if each.drift is not None]
    if not watching:
        yield '<p class="note">No device looks for it: <code>edgeline watch --drift</code>.</p>'
        return
    yield f"<p>{len(watching):,} devices look for it.</p>"
    drifted = {
        name: [each.device for each in watching if each.drift and name in each.drift.shifted]
        for name in QUANTITIES
    }
    rows = (
        (name, f"{len(devices):,}", escape(_some(devices))) for name, devices in drifted.items()
    )
    yield from _table(("quantity", "devices where it drifted", "such as"), rows, numbers=(1,))


def _devices(reports: Sequence[Report]) -> Iterator[str]:
    rows = (
        (
            each.device,
            escape(_tag(each)),
            _when(each.time),
            f"{each.counts.predictions:,}",
            f"{each.counts.confidence:.3f}",
            _latency(each),
            escape(", ".join(each.drift.shifted) or "none") if each.drift else "not looked for",
            escape("; ".join(failures(each))),
        )
        for each in reports
    )
    headers = (
        *("device", "serves", "reported", "predictions", "confidence", "95% within"),
        *("drifted", "failures"),
    )
    yield from _table(headers, rows, numbers=(3, 4, 5))


def _latency(report: Report) -> str:
    bound = report.counts.latency_quantile(0.95)
    return "" if bound is None else f"{bound * 1000:g} ms"


def _tag(report: Report) -> str:
    active = report.active
    return f"{version_tag(active.version)} {active.variant or ''}" if active else "nothing"


def _some(devices: Sequence[str]) -> str:
    return ", ".join(sorted(devices)[:3])


def _section(title: str, content: Iterable[str]) -> Iterator[str]:
    yield f"<section>\n<h2>{title}</h2>"
    yield from content
    yield "</section>"


def _table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> Iterator[str]:
    """Yield a table of cells that are HTML already."""
    kept = list(rows)
    if not kept:
        yield '<p class="note">None.</p>'
        return
    classes = [' class="number"' if place in numbers else "" for place in range(len(headers))]
    heads = (f"<th{kind}>{name}</th>" for kind, name in zip(classes, headers, strict=True))
    yield f"<table>\n<tr>{''.join(heads)}</tr>"
    for row in kept[:MAX_ROWS]:
        cells = (f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</table>"
    if len(kept) > MAX_ROWS:
        yield f'<p class="note">And {len(kept) - MAX_ROWS:,} more.</p>'


def _when(seconds: float) -> str:
    """Return a time of somebody's clock in words; any number is one."""
    try:
        return in_utc(datetime.fromtimestamp(seconds, timezone.utc))
    except (OverflowError, ValueError, OSError):
        return "at no time"
