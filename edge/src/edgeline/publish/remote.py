"""Writing to a repository of a registry server, which offers no lock and no compare-and-swap.

Tags are set last; `RemoteWriter.commit` says what then holds when several set them at once.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from edgeline._text import quoted
from edgeline.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    UnreachableError,
)
from edgeline.publish.garbage import Collected
from edgeline.publish.progress import Notify, counted, say_nothing
from edgeline.registry._sockets import Budget
from edgeline.registry.format import (
    MAX_MANIFEST,
    OCI_INDEX,
    Descriptor,
    check_digest,
    is_tag,
)
from edgeline.registry.push import PushStore
from edgeline.registry.transport import Response

# How long another writer may take from its look at a tag until the server has its change of it, for
# `commit` to notice. A request takes some hundredths of a second, or tenths when the server is far
# away or its storage is; and every change of a channel waits this long.
SETTLE_SECONDS = 1.0

_NO_DELETING = (
    "the server does not allow it. Its operator can: storage.delete.enabled for docker-registry"
)


class RemoteWriter(PushStore):
    """Writes to the store in the repository at `location`, "oci://host[:port]/repository".

    See `WriteStore` for the methods.

    Raises:
        RegistryError: the location or the connection's settings are malformed.
    """

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep nobody out: a server has no lock, and `commit` notices others."""
        return nullcontext()

    def put_files(
        self, sources: Sequence[Path], media_type: str, *, limit: int, name: str | None = None
    ) -> list[Descriptor]:
        """Store files, one after the other; see `WriteStore`."""
        return [self.put_blob(source, media_type, limit=limit, name=name) for source in sources]

    def commit(
        self, tags: Sequence[tuple[str, Descriptor]], *, expected: Mapping[str, str | None]
    ) -> None:
        """Set `tags`, one after the other; see `WriteStore`.

        The tags of `expected` are looked at, `tags` are set, and after SETTLE_SECONDS all of them
        are read back. Of several writers that start from the same tags at once, the last one to set
        them wins, and the others get a ConflictError, because that is what they read back.

        This holds as long as no writer takes longer than SETTLE_SECONDS from its look at a tag
        until the server has its change, and as the server answers with its newest state. A writer
        looks again before each further tag, before a second try, and when its last look is older
        than half of that, so one request alone may be too slow: sent in time, and heeded by the
        server much later. Then that writer can undo what another was told is done, unnoticed; no
        content is lost, all of it is still there under its digest. When requests are slow for this
        writer, it waits longer before it reads back, since they are likely slow for others.

        A crash, an UnreachableError and a ConflictError can leave the first of `tags` set. Two
        writers that set several tags at the very same time can each win some: both get a
        ConflictError then, and have to look at what is there before they try again.
        """
        for tag, _ in tags:
            if not is_tag(tag):
                raise RegistryError(f"{quoted(tag)} cannot be a tag")
        budget = self._client.budget()
        # Read before the look at the tags, to not make the time until they are set longer.
        contents = [
            self.read_manifest(descriptor, limit=MAX_MANIFEST, budget=budget)
            for _, descriptor in tags
        ]
        look = _Look(dict(expected), {tag: descriptor.digest for tag, descriptor in tags})
        self._look(look, budget)
        for (tag, descriptor), content in zip(tags, contents, strict=True):
            self._set_tag(tag, descriptor, content, budget, look)
        if expected:
            self._settle(look, budget)
        lost = [tag for tag, digest in look.wanted.items() if self._current(tag, budget) != digest]
        if lost:
            raise ConflictError(
                f"{self._location}: another writer set {', '.join(lost)} at the same time, and "
                "that change stands. Look at what is there now before another try"
            )

    def remove(self, tags: Collection[str], *, notify: Notify = say_nothing) -> None:
        """Remove tags together with their manifests; see `WriteStore`.

        The protocol deletes manifests, and with one all of its tags. A manifest that has other tags
        too is left alone, and reported when the rest is done. To know that, every tag of the store
        is looked at, each in the time of an operation.

        Raises:
            RegistryError: the server does not allow it, or a manifest has other tags too.
        """
        there = counted(self.tags(), notify, "looking at tag")
        found = {tag: descriptor for tag in there if (descriptor := self._resolve(tag))}
        staying = {found[tag].digest: tag for tag in found if tag not in tags}
        named = {found[tag].digest: found[tag] for tag in found if tag in tags}
        # Indexes first, so that a crash leaves no index without its manifests.
        ordered = sorted(named.values(), key=lambda entry: entry.media_type != OCI_INDEX)
        going = [entry.digest for entry in ordered if entry.digest not in staying]
        for digest in counted(going, notify, "deleting manifest"):
            self._delete_manifest(digest)
        shared = [tag for tag in found if tag in tags and found[tag].digest in staying]
        if shared:
            raise RegistryError(
                f"{self._location}: not removed, because the server would remove other tags of the "
                "same manifests with them: "
                + ", ".join(f"{tag} (also {staying[found[tag].digest]})" for tag in shared)
            )

    def collect(self, *, grace: timedelta, notify: Notify = say_nothing) -> Collected:
        """Remove nothing: only a server's operator can collect its garbage; see `WriteStore`."""
        return Collected(0, 0, 0)

    def _set_tag(
        self, tag: str, descriptor: Descriptor, content: bytes, budget: Budget, look: "_Look"
    ) -> None:
        """Store a manifest under a tag, unless a look says that one was changed."""

        def before() -> None:
            if look.tried or look.age > SETTLE_SECONDS / 2:
                self._look(look, budget)
            look.tried.add(tag)

        what = f"setting tag {tag!r}"
        self._put_manifest(tag, descriptor, content, budget, what=what, before=before)
        look.slowest = max(look.slowest, look.age)

    def _look(self, look: "_Look", budget: Budget) -> None:
        """Check that the tags are as expected, or as this writer has set them already.

        Raises:
            ConflictError: one is not.
        """
        began = time.monotonic()
        for tag, digest in look.expected.items():
            found = self._current(tag, budget)
            own = look.wanted.get(tag) if tag in look.tried else None
            if found != digest and (found is None or found != own):
                raise ConflictError(
                    f"Tag {tag!r} of {self._location} was changed meanwhile: expected "
                    f"{digest or 'no such tag'}, found {found or 'none'}"
                )
        look.began = began

    def _settle(self, look: "_Look", budget: Budget) -> None:
        """Wait until others that looked before this writer's change must be done with theirs."""
        seconds = max(SETTLE_SECONDS, look.slowest)
        if seconds > budget.left:
            raise UnreachableError(
                f"{self._location} answers too slowly for a safe change: whether it holds is not "
                "known. Look at what is there, and try again"
            )
        time.sleep(seconds)

    def _current(self, tag: str, budget: Budget) -> str | None:
        """Return the digest of what a tag names, computed here; None when there is no such tag."""
        try:
            return self.read_tag(tag, limit=MAX_MANIFEST, budget=budget)[0].digest
        except NotFoundError:
            return None

    def _resolve(self, tag: str) -> Descriptor | None:
        """Return what a tag names, going by the server's word; None when there is no such tag."""
        response = self._head(f"{self._path}/manifests/{tag}", f"tag {tag!r}")
        if response is None:
            return None
        try:
            digest = check_digest(response.header("Docker-Content-Digest"))
        except IntegrityError:
            # A server need not say it.
            return self.read_tag(tag, limit=MAX_MANIFEST)[0]
        return Descriptor(response.header("Content-Type") or "", digest, response.length or 0)

    def _delete_manifest(self, digest: str) -> None:
        request = self._request(
            f"deleting {digest}",
            "DELETE",
            f"{self._path}/manifests/{digest}",
            # Gone is gone, be it by another, or by a try whose answer was lost.
            success=frozenset({202, 404}),
            hints={405: _NO_DELETING},
        )
        self._client.call(request, self._client.budget(), Response.discard)


@dataclass
class _Look:
    """What a writer knows of the tags that it is about to change, and since when."""

    expected: Mapping[str, str | None]
    wanted: Mapping[str, str]
    tried: set[str] = field(default_factory=set)  # tags that this writer may have set
    began: float = 0.0  # when the last look did
    slowest: float = 0.0  # seconds from a look until a tag was set

    @property
    def age(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self.began
