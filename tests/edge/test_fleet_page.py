"""The fleet's page: what it says, and that nothing of what devices say becomes a part of it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from edgeline.drift import QUANTITIES, Shift
from edgeline.fleet.gather import Day, Gathered
from edgeline.fleet.page import MAX_ROWS, render
from edgeline.registry.bundle import Channel
from edgeline.registry.format import Descriptor, ReleaseRef
from edgeline.registry.rollout import Rollout
from edgeline.telemetry.report import Counts, Drift, Report, Served
from tests.edge.fleet import DAY, NEW, NOW, OLD, well

IDS = [f"{number:032x}" for number in range(3000)]
BEFORE, AFTER = (
    ReleaseRef(number, Descriptor("application/vnd.oci", digest, 100))
    for number, digest in ((1, OLD), (2, NEW))
)
CHANNEL = Channel("pets", "production", BEFORE, (), Rollout(3, AFTER, 500, ("lab",)))
VOID = {"meta", "rect", "polyline"}


class _Page(HTMLParser):
    """Reads a page, and fails where its tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def _shown(*reports: Report, refused: dict[str, str] | None = None) -> _Page:
    return _Page(render(Gathered(reports, refused or {}), CHANNEL, now=NOW))


def test_it_shows_releases_the_rollout_failures_and_drift() -> None:
    shifts = {name: Shift(0.5 * (name == "sharpness"), 0.0) for name in QUANTITIES}
    dim = Drift(NEW, NOW - DAY, NOW, 500, shifts)
    page = _shown(
        replace(well(IDS[0]), drift=dim),
        replace(well(IDS[1], OLD), active=Served(1, OLD, "float16")),
        replace(well(IDS[2], OLD), rejected=Served(2, NEW, reason="int8: it crashed here")),
        replace(well(IDS[3]), counts=Counts(since=NOW - DAY, crashes=2, model_errors=1)),
        refused={IDS[4]: "Device 4 is no longer enrolled"},
    )
    for said in (
        "4 devices reported", "Rollout 3, of v2:", "reaching 5.00% of the devices", "groups lab",
        "float16", "rejected v2: int8: it crashed here", "crashed with v2 int8", "sharpness",
        "predictions failed with v2 int8", "Device 4 is no longer enrolled", IDS[0],
    ):  # fmt: skip
        assert said in page.text, said
    assert {"svg", "polyline", "table"} <= page.tags


def test_what_devices_say_is_text_and_nothing_else() -> None:
    evil = '</td><script>alert(1)</script><img src="https://example.com/x">&'
    page = _shown(
        replace(well(IDS[0]), rejected=Served(2, NEW, reason=evil), error=evil),
        refused={IDS[1]: evil},
    )
    assert not {"script", "img"} & page.tags
    assert page.text.count(evil) == 3, "among the failures, beside the device, and as a reason"
    assert "://" not in render(Gathered((), {}), CHANNEL, now=NOW)


def test_a_release_that_no_device_has_any_more_keeps_its_curve() -> None:
    reports = (replace(well(IDS[0], OLD), active=Served(1, OLD, "int8")),)
    served = ({"1": 10}, {"1": 5, "2": 5}, {"1": 10})
    days = tuple(Day(NOW + (n - 2) * DAY, devices) for n, devices in enumerate(served))
    text = render(Gathered(reports, {}, days), None, now=NOW)
    after, before = re.findall(r'<polyline points="([^"]+)"', text)
    levels = [float(point.split(",")[1]) for point in after.split()]
    assert levels[0] == levels[-1] == max(levels), "none before, and none at last"
    assert min(levels) == pytest.approx((levels[0] + 34) / 2), "half of the ten between"
    assert before.count(",34.0") > 1
    assert "v2" in _Page(text).text
    without = render(Gathered(reports, {}, days[-1:]), None, now=NOW)
    assert without.count("<polyline") == 1, "one look says nothing of before"


@pytest.mark.parametrize("when", [0.0, float(1 << 53)])
def test_a_clock_that_is_off_harms_no_page(when: float) -> None:
    odd = replace(well(IDS[0]), time=when, counts=Counts(since=when))
    assert "1 devices reported" in _shown(odd).text


def test_a_rollout_that_has_ended_reaches_nobody() -> None:
    ended = replace(CHANNEL, rollout=Rollout(3, AFTER, 0))
    text = _Page(render(Gathered((), {}), ended, now=NOW)).text
    assert "halted" in text
    assert "The channel serves v1." in text
    assert "reaching" not in text


def test_a_fleet_that_says_nothing_is_a_page_too() -> None:
    assert "0 devices reported" in _shown().text
    assert "None." in _Page(render(Gathered((), {}), None, now=NOW)).text


def test_the_page_of_a_large_fleet_is_bounded() -> None:
    reports = [
        replace(
            well(each),
            rejected=Served(2, NEW, reason=f"{number} {'x' * 150}"),
            counts=Counts(since=NOW - number * 60),
        )
        for number, each in enumerate(IDS)
    ]
    text = render(Gathered(tuple(reports), {}), CHANNEL, now=NOW)
    assert len(text) < 1_000_000
    assert f"And {len(IDS) - MAX_ROWS:,} more." in _Page(text).text
