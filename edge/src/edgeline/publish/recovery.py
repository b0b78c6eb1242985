"""Starting over from older metadata, when the newest was damaged or spoiled by a stolen online key.

Whoever has the online key can write newest metadata of any version, and whoever has the store can
take roots away; neither can make a root. The roots that came after the older metadata are therefore
searched for and kept: two roots of one version would part the devices for ever.
"""

from collections.abc import Mapping
from itertools import pairwise

from edgeline.errors import IntegrityError, NotFoundError, TrustError
from edgeline.publish.signatures import ROOT, check_root, parse, parse_root
from edgeline.publish.store import WriteStore
from edgeline.registry.bundle import Bundle, file_name, read_bundle, read_file
from edgeline.registry.format import (
    MAX_MANIFEST,
    MAX_TUF_METADATA,
    TUF_METADATA,
    TUF_TAG,
    Descriptor,
)

Files = dict[str, Descriptor]
Expected = dict[str, str | None]


def files_to_start_from(store: WriteStore, base: Bundle, pinned: bytes) -> tuple[Files, Expected]:
    """Return the files of `base` with the roots that came after it, and what is to be replaced.

    Args:
        store: Where the registry is.
        base: The older metadata.
        pinned: A root that is trusted; it is among the files then, whoever took it away.

    Raises:
        IntegrityError: a root between those of the base and the pinned one is missing.
        TrustError: the pinned root does not follow those of the base.
    """
    newest, expected = _newest(store)
    files = dict(base.files)
    root = parse_root(pinned)
    names = [file_name(ROOT, version) for version in range(1, root.signed.version + 1)]
    for name in names[:-1]:
        if name not in files and name in newest:
            files[name] = newest[name]
    if names[-1] not in files:
        files[names[-1]] = store.put_blob(pinned, TUF_METADATA, limit=MAX_TUF_METADATA)
    for before, after in pairwise(parse(_read(store, files, name), ROOT) for name in names):
        check_root(after, before.signed)
    while (name := file_name(ROOT, root.signed.version + 1)) in {**newest, **files}:
        layer = files.get(name) or newest[name]
        try:
            following = parse(read_file(store, name, layer), ROOT)
            check_root(following, root.signed)
        except (IntegrityError, TrustError):
            break  # made up by whoever spoiled the newest metadata
        files[name], root = layer, following
    return files, expected


def _read(store: WriteStore, files: Files, name: str) -> bytes:
    if name not in files:
        raise IntegrityError(
            f"The registry lacks {name}, which leads to the given root. Restore it from a copy of "
            "the registry"
        )
    return read_file(store, name, files[name])


def _newest(store: WriteStore) -> tuple[Mapping[str, Descriptor], Expected]:
    """Return the newest metadata's files, none if it is damaged, and what is to be replaced."""
    try:
        descriptor, _ = store.read_tag(TUF_TAG, limit=MAX_MANIFEST)
    except NotFoundError:
        return {}, {TUF_TAG: None}
    except IntegrityError:
        return {}, {}  # it cannot even be told what it is
    try:
        return read_bundle(store).files, {TUF_TAG: descriptor.digest}
    except IntegrityError:
        return {}, {TUF_TAG: descriptor.digest}
