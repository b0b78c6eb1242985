"""Deciding which release a channel serves: what an administrator does, without the printing.

    change = promote(repository, "solar-cells", "candidate", "production")
    change = rollback(repository, "solar-cells", "production")

Nothing is signed before the release was read wholly, every byte of it, and found to be what the
channel's signature promises. A promotion needs a verdict on these very weights besides, which must
be a pass.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from edgeline.errors import ContractError, IntegrityError, NotFoundError, RegistryError
from edgeline.publish.progress import Notify, say_nothing
from edgeline.publish.repository import Repository
from edgeline.publish.rollouts import begun, rolled_back
from edgeline.publish.verdict import OVERALL, Check, Verdict
from edgeline.publish.verify import check_provenance, check_release, publishing_keys
from edgeline.registry.bundle import Channel
from edgeline.registry.format import (
    ReleaseRef,
    check_channel,
    check_model,
)
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.rollout import WHOLE


class Outcome(Enum):
    """What became of a change."""

    PROPOSED = "proposed"  # checked, and nothing signed yet
    DONE = "done"
    UNCHANGED = "unchanged"  # the channel serves that release already
    DECLINED = "declined"  # by whoever was asked to confirm it


@dataclass(frozen=True)
class Metric:
    """One metric of one variant on one slice, in two releases; None where one lacks it."""

    variant: str
    metric: str
    slice: str  # "overall" or "<key>=<value>"
    old: float | None
    new: float | None
    best: str = "max"  # whether the most or the least is best
    interval: tuple[float, float] | None = None  # of the new one, where the verdict has it

    @property
    def differs(self) -> bool:
        """Whether the releases differ in it; what is defined in neither is the same."""
        if self.old is None or self.new is None:
            return self.old is not self.new
        return self.old != self.new and not (math.isnan(self.old) and math.isnan(self.new))

    @property
    def is_worse(self) -> bool:
        """Whether it got worse, by more than its interval leaves to chance."""
        if self.old is None or self.new is None or self.interval is None:
            return False
        low, high = self.interval
        return self.old > high if self.best == "max" else self.old < low

    @property
    def difference(self) -> float | None:
        """How much it grew; None unless both releases have it."""
        return None if self.old is None or self.new is None else self.new - self.old


@dataclass(frozen=True)
class Change:
    """A channel that is to serve, or serves now, another release.

    Attributes:
        model: whose channel it is.
        channel: its name.
        release: that it is to serve.
        replaced: that it served before; None if it served none.
        metrics: of both releases, side by side; none when nothing changes.
        remarks: what a person should know of it, and why metrics are missing if some are.
        outcome: whether it was made.
        share: how many of `WHOLE` devices it is for; all, unless it begins a rollout.
        groups: the groups of devices that it is for besides.
    """

    model: str
    channel: str
    release: Release
    replaced: ReleaseRef | None
    metrics: tuple[Metric, ...] = ()
    remarks: tuple[str, ...] = ()
    outcome: Outcome = Outcome.PROPOSED
    share: int = WHOLE
    groups: tuple[str, ...] = ()

    @property
    def gone(self) -> tuple[str, ...]:
        """The variants that the replaced release has, and this one lacks."""
        kept = {variant.name for variant in self.release.variants}
        before = dict.fromkeys(metric.variant for metric in self.metrics)
        return tuple(name for name in before if name not in kept)


Confirm = Callable[[Change], bool]


def _agree(_: Change) -> bool:
    return True


def promote(
    repository: Repository,
    model: str,
    source: str,
    target: str,
    *,
    share: int = WHOLE,
    groups: Sequence[str] = (),
    confirm: Confirm = _agree,
    notify: Notify = say_nothing,
) -> Change:
    """Let the channel `target` of `model` serve the release that `source` serves.

    Args:
        repository: the signed metadata of the releases' store, and the keys to change it.
        model: whose channels these are.
        source: the channel that serves the release.
        target: the channel that is to serve it too.
        share: how many of `WHOLE` devices it is to serve it to; fewer than all begin a rollout.
        groups: the groups of devices that get it besides, in a rollout.
        confirm: is shown the change before it is signed, and may decline.
        notify: is told how far the reading has come.

    Raises:
        NotFoundError: the source serves no release.
        RegistryError: the keys at hand may not sign for the target, or the recorded verdict is not
            a pass of these weights.
        IntegrityError: the release was changed or damaged.
        ConflictError: others keep changing the registry.
    """
    check_model(model)
    check_channel(source)
    check_channel(target)
    if source == target:
        raise RegistryError(f"Expected two channels, got {source!r} as source and as target")
    channels = {each.name: each for each in repository.channels() if each.model == model}
    if source not in channels:
        raise NotFoundError(
            f"{repository.store.location} has no release of {model!r} in channel {source!r}; of "
            f"that model it has {', '.join(channels) or 'no channel'}"
        )
    wanted, served = channels[source].release, channels.get(target)
    if share != WHOLE:
        if served is None:
            raise RegistryError(
                f"{model}/{target} serves nothing yet. Promote what all devices are to have first, "
                "without a share"
            )
        begun(wanted, share, groups)(served)  # refuses early what makes no sense
    return _change(
        repository,
        model,
        target,
        served,
        wanted,
        judged=True,
        sign=lambda: (
            repository.point(model, target, wanted)
            if share == WHOLE
            else repository.edit(model, target, begun(wanted, share, groups))
        ),
        confirm=confirm,
        notify=notify,
        share=share,
        groups=tuple(groups),
    )


def rollback(
    repository: Repository,
    model: str,
    channel: str,
    version: int | None = None,
    *,
    confirm: Confirm = _agree,
    notify: Notify = say_nothing,
) -> Change:
    """Let `channel` of `model` serve a release again that it served before.

    Args:
        repository: the signed metadata of the releases' store, and the keys to change it.
        model: whose channel it is.
        channel: to change.
        version: of the release; by default the one that the channel served last.
        confirm: is shown the change before it is signed, and may decline.
        notify: is told how far the reading has come.

    Raises:
        NotFoundError: the channel serves no release, or did not serve such a one lately.
        RegistryError: the keys at hand may not sign for the channel.
        IntegrityError: the older release was changed or damaged.
        ConflictError: others keep changing the registry.
    """
    served = repository.channel(model, channel)
    if served is None:
        raise NotFoundError(
            f"{model}/{channel} of {repository.store.location} has no release to go back to: it "
            "served none yet"
        )
    is_there = served.release.version == version
    wanted = served.release if is_there else rolled_back(served, version).release
    return _change(
        repository,
        model,
        channel,
        served,
        wanted,
        judged=False,
        sign=lambda: repository.rollback(model, channel, wanted.version),
        confirm=confirm,
        notify=notify,
    )


def compare(old: Verdict | None, new: Verdict) -> tuple[Metric, ...]:
    """Put the metrics of what two verdicts let pass side by side.

    Variants come in the order of the new verdict, and for each what is overall before any slice.
    """
    before, after = old.published_checks() if old else {}, new.published_checks()
    rank = {variant.variant: number for number, variant in enumerate(new.variants)}
    keys = sorted(
        {**after, **before},
        key=lambda key: (rank.get(key[0], len(rank)), key[0], key[2] != OVERALL),
    )
    return tuple(_metric(key, before.get(key), after.get(key)) for key in keys)


def _metric(key: tuple[str, str, str], old: Check | None, new: Check | None) -> Metric:
    return Metric(
        *key,
        old=old.value if old else None,
        new=new.value if new else None,
        best="min" if new and new.bound == "max" else "max",
        interval=new.interval if new else None,
    )


def _change(
    repository: Repository,
    model: str,
    channel: str,
    served: Channel | None,
    wanted: ReleaseRef,
    *,
    judged: bool,
    sign: Callable[[], Channel],
    confirm: Confirm,
    notify: Notify,
    share: int = WHOLE,
    groups: tuple[str, ...] = (),
) -> Change:
    store = repository.store
    reader = RegistryReader(store)
    replaced = served.release if served else None
    if replaced and replaced.index.digest == wanted.index.digest:
        release = reader.open(wanted)
        return Change(model, channel, release, replaced, outcome=Outcome.UNCHANGED)
    repository.check_can_sign(model, channel)
    release = reader.open(wanted)
    if release.model != model:
        raise IntegrityError(
            f"{release.tag} of {store.location} is a release of {release.model!r}; expected one of "
            f"{model!r}. Whoever signed for {model!r} made a mistake: publish it anew"
        )
    check_release(store, release, notify=notify)
    remarks: list[str] = []
    rollout = served.active_rollout if served else None
    if rollout and rollout.release != wanted:
        tag = rollout.release.tag
        remarks.append(f"this ends the rollout of {tag}: no device is to have {tag} then")
    if judged:
        _check_verdict(reader, release)
        remarks += _check_origin(reader, repository, release)
    metrics, missing = _metrics(reader, replaced, release)
    said = (*remarks, *missing)
    change = Change(model, channel, release, replaced, metrics, said, share=share, groups=groups)
    if not confirm(change):
        return replace(change, outcome=Outcome.DECLINED)
    sign()
    return replace(change, outcome=Outcome.DONE)


def _check_verdict(reader: RegistryReader, release: Release) -> None:
    verdict = Verdict.from_json(reader.read_verdict(release))
    weights = {variant.name: variant.model.digest for variant in release.variants}
    objections = verdict.objections(weights)
    if objections:
        raise RegistryError(
            f"{release.model} {release.tag} may not be promoted, its verdict is not a pass: "
            + "; ".join(objections)
        )


def _check_origin(
    reader: RegistryReader, repository: Repository, release: Release
) -> Iterator[str]:
    """Yield what is to be said of the provenance, which must not be about other weights."""
    keys = publishing_keys(repository.roles(), release.model)
    checked = check_provenance(reader, release, keys)
    if checked is None:
        yield f"{release.tag} does not say where it comes from: it has no provenance"
    elif not checked[1]:
        # Its channel's signature covers it, and keys are rotated: a remark is enough.
        yield f"the provenance of {release.tag} is not signed with a key the model has today"


def _metrics(
    reader: RegistryReader, replaced: ReleaseRef | None, release: Release
) -> tuple[tuple[Metric, ...], list[str]]:
    """Return the comparison, and what is missing from it, which is no reason to stay."""
    try:
        new = Verdict.from_json(reader.read_verdict(release))
    except IntegrityError as error:
        return (), [f"{release.tag} cannot be compared: {error}"]
    if replaced is None:
        return compare(None, new), []
    try:
        old = Verdict.from_json(reader.read_verdict(reader.open(replaced)))
    except (RegistryError, ContractError) as error:
        return compare(None, new), [f"{replaced.tag} cannot be compared: {error}"]
    return compare(old, new), []
