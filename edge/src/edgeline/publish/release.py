"""Publishing: turn models that passed into a release, and point a channel at it.

    published = publish(
        repository,
        model="solar-cells",
        channel="candidate",
        variants=[VariantFiles("int8", Path("int8/model.tflite"))],
        preprocessing=contract,
        verdict=verdict_json,
    )

In this order: blobs, manifests, the index, the version that names it, the variants' tags, and at
last the signed metadata. Nothing refers to what a later step has yet to write, so a crash leaves
the channel as it was, and publishing again finishes the work.
"""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeline._json import dump_canonical
from edgeline.contract import PreprocessingContract
from edgeline.errors import (
    ConflictError,
    ContractError,
    IntegrityError,
    NotFoundError,
    RegistryError,
)
from edgeline.publish.repository import Repository
from edgeline.publish.store import WriteStore
from edgeline.registry.bundle import Channel
from edgeline.registry.format import (
    FILEPATH_ANNOTATION,
    GOLDEN,
    LAYERS,
    MAX_MANIFEST,
    MAX_VARIANTS,
    MODEL_ANNOTATION,
    MODEL_CONFIG,
    MODEL_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    PREPROCESSING,
    PROVENANCE,
    REPORT,
    SKETCH,
    TITLE_ANNOTATION,
    VARIANT_ANNOTATION,
    VERDICT,
    WEIGHTS,
    Descriptor,
    ReleaseRef,
    check_channel,
    check_model,
    check_variant,
    digest_of,
    parse_version_tag,
    variant_tag,
    version_tag,
)
from edgeline.registry.reader import RegistryReader, Release

_ATTEMPTS = 20  # to claim a version
_LONGEST_PAUSE = 2.0  # seconds between two of them


@dataclass(frozen=True)
class VariantFiles:
    """One variant to publish: its model file, and what devices check it and their images by."""

    name: str
    model: Path
    golden: bytes | None = None  # what it says of some images
    sketch: bytes | None = None  # of the test split; see `edgeline.drift`


@dataclass(frozen=True)
class Published:
    """What `publish` did."""

    version: int
    digest: str  # of the release's index
    created: bool  # False when the same content was a release already
    index: Descriptor

    @property
    def tag(self) -> str:
        """The release's tag, such as "v7"."""
        return version_tag(self.version)


def publish(
    repository: Repository,
    *,
    model: str,
    channel: str,
    variants: Sequence[VariantFiles],
    preprocessing: PreprocessingContract,
    verdict: bytes,
    report: bytes | None = None,
    provenance: bytes | None = None,
) -> Published:
    """Publish `variants` as one release of `model`, and point `channel` at it.

    The same content again is the same release: only the channel moves, if it pointed elsewhere. And
    where the channel points, or lately pointed, at a release of the very same models and contract,
    it is that release, with the verdict it passed by: measuring a model again, or against another
    one, does not make it another one. Any number of publishers may run at once; each gets a version
    of its own.

    Args:
        repository: The signed metadata of where the release goes, with the channel's key at hand.
            Its store is locked meanwhile.
        model: The model's name.
        channel: The channel to point at the release.
        variants: At least one, with names of their own, in the order in which devices whose users
            choose none are to try them.
        preprocessing: How images are prepared for all of them.
        verdict: The evaluation that let them pass.
        report: The same for people, HTML.
        provenance: A DSSE envelope that says where the models come from.

    Raises:
        RegistryError: a name is malformed, there is no variant or one twice, a file cannot be read
            or is too large, or the store cannot be written.
        NotFoundError: the store has no signed metadata, or the model no such channel.
        TrustError: the key that signs the channel is not at hand, or the metadata is not genuine.
        ConflictError: other publishers were faster at every attempt.
        UnreachableError: the store does not answer.
    """
    check_model(model)
    check_channel(channel)
    _check_variants(variants)
    repository.check_can_sign(model, channel)
    store = repository.store
    with store.exclusive():
        models = [variant.model for variant in variants]
        name, limit = LAYERS[WEIGHTS]
        blobs = store.put_files(models, WEIGHTS, limit=limit, name=name)
        weights = {variant.name: blob for variant, blob in zip(variants, blobs, strict=True)}
        channels = repository.channels()
        current = next((c for c in channels if (c.model, c.name) == (model, channel)), None)
        if current and (earlier := _earlier(store, current, weights, preprocessing)):
            repository.point(model, channel, earlier)
            return Published(earlier.version, earlier.index.digest, False, earlier.index)
        shared = _put_layers(
            store,
            {
                PREPROCESSING: preprocessing.to_json(),
                VERDICT: verdict,
                REPORT: report,
                PROVENANCE: provenance,
            },
        )
        children = _put_children(store, model, variants, weights, shared)
        index, known = _put_index(store, _index(model, children))
        there = RegistryReader(store).find(index.digest) if known else None
        if there is None:
            version, created = _claim(store, index, _last_named(channels))
        else:
            version, created = there.version, False
        tags = [(variant_tag(version, name), child) for name, child in children.items()]
        store.commit(tags, expected={})
        repository.point(model, channel, ReleaseRef(version, index))
        return Published(version, index.digest, created, index)


def _check_variants(variants: Sequence[VariantFiles]) -> None:
    names = [check_variant(variant.name) for variant in variants]
    if not 1 <= len(names) <= MAX_VARIANTS or len(set(names)) != len(names):
        raise RegistryError(
            f"A release needs 1 to {MAX_VARIANTS} variants with names of their own; got {names}"
        )


def _earlier(
    store: WriteStore,
    channel: Channel,
    weights: Mapping[str, Descriptor],
    preprocessing: PreprocessingContract,
) -> ReleaseRef | None:
    """Return the release of these models that a channel serves or served, if it is intact."""
    for ref in (channel.release, *channel.history):
        release = _open_served(store, ref)
        if (
            release
            and _is_release_of(release, channel.model, weights, preprocessing)
            and _is_whole(store, release)
        ):
            return ref
    return None


def _open_served(store: WriteStore, release: ReleaseRef) -> Release | None:
    """Return a release that a channel serves or served; None when it is damaged, to be mended."""
    try:
        return RegistryReader(store).open(release)
    except (NotFoundError, IntegrityError, ContractError):
        return None


def _is_whole(store: WriteStore, release: Release) -> bool:
    """Tell whether all that a release has besides its models is intact."""
    own = (blob for variant in release.variants for blob in (variant.golden, variant.sketch))
    others = (release.verdict, release.report, release.provenance, *own)
    return all(blob is None or store.has_blob(blob) for blob in others)


def _is_release_of(
    release: Release,
    model: str,
    weights: Mapping[str, Descriptor],
    preprocessing: PreprocessingContract,
) -> bool:
    published = {variant.name: variant.model.digest for variant in release.variants}
    return (
        release.model == model
        and release.contract == preprocessing
        and published == {name: blob.digest for name, blob in weights.items()}
    )


def _put_layers(store: WriteStore, contents: Mapping[str, bytes | None]) -> list[Descriptor]:
    """Store what there is of some kinds of layers, by their media types."""
    return [
        store.put_blob(content, media_type, limit=LAYERS[media_type][1], name=LAYERS[media_type][0])
        for media_type, content in contents.items()
        if content is not None
    ]


def _put_children(
    store: WriteStore,
    model: str,
    variants: Sequence[VariantFiles],
    weights: Mapping[str, Descriptor],
    shared: Sequence[Descriptor],
) -> dict[str, Descriptor]:
    """Store every variant's other blobs; return the manifests by variant."""
    children = {}
    for variant in variants:
        own = _put_layers(store, {GOLDEN: variant.golden, SKETCH: variant.sketch})
        layers = [weights[variant.name], *shared, *own]
        config = store.put_blob(
            dump_canonical(_config(model, variant.name, layers)), MODEL_CONFIG, limit=MAX_MANIFEST
        )
        manifest = dump_canonical(_manifest(config, layers))
        children[variant.name] = store.put_manifest(manifest, OCI_MANIFEST)
    return children


def _config(model: str, variant: str, layers: Iterable[Descriptor]) -> dict[str, Any]:
    return {
        "descriptor": {"name": model, "title": f"{model}, {variant}"},
        "config": {
            "format": "tflite",
            "capabilities": {"inputTypes": ["image"], "outputTypes": ["other"]},
        },
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }


def _manifest(config: Descriptor, layers: Iterable[Descriptor]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": MODEL_MANIFEST,
        "config": config.to_json(),
        "layers": [_named_for_modelpack(layer).to_json() for layer in layers],
    }


def _named_for_modelpack(layer: Descriptor) -> Descriptor:
    """Give a layer its file name in ModelPack's words too, besides OCI's."""
    path = {FILEPATH_ANNOTATION: layer.annotations[TITLE_ANNOTATION]}
    return replace(layer, annotations={**layer.annotations, **path})


def _index(model: str, children: Mapping[str, Descriptor]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "annotations": {MODEL_ANNOTATION: model, TITLE_ANNOTATION: model},
        "manifests": [
            replace(child, annotations={VARIANT_ANNOTATION: variant}).to_json()
            for variant, child in children.items()
        ],
    }


def _put_index(store: WriteStore, document: dict[str, Any]) -> tuple[Descriptor, bool]:
    """Store a release's index; tell also whether it was there, damaged or not."""
    content = dump_canonical(document)
    digest = digest_of(content)
    try:
        store.read_manifest(Descriptor(OCI_INDEX, digest, len(content)), limit=MAX_MANIFEST)
        known = True
    except NotFoundError:
        known = False
    except IntegrityError:
        known = True
    return store.put_manifest(content, OCI_INDEX), known


def _claim(store: WriteStore, index: Descriptor, last: int) -> tuple[int, bool]:
    """Name `index` by a version after `last`; tell also whether it was us or another publisher."""
    for attempt in range(_ATTEMPTS):
        tag = version_tag(version := _next_version(store, last))
        try:
            store.commit([(tag, index)], expected={tag: None})
        except ConflictError:
            claimed = RegistryReader(store).find(index.digest)
            if claimed is not None:
                return claimed.version, False
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2**attempt)))
        else:
            return version, True
    raise ConflictError(
        f"No version could be claimed in {store.location}: other publishers were faster "
        f"{_ATTEMPTS} times in a row. Nothing was published; try again"
    )


def _last_named(channels: Iterable[Channel]) -> int:
    """Return the newest version that a channel names, which a partial copy need not hold."""
    named = (ref.version for each in channels for ref in (*each.served, *each.history))
    return max(named, default=0)


def _next_version(store: WriteStore, last: int) -> int:
    version = max([*RegistryReader(store).versions(), last]) + 1
    if parse_version_tag(version_tag(version)) is None:
        raise RegistryError(
            f"{store.location} has no versions left: its newest is {version_tag(version - 1)}. "
            "Publish to a new registry"
        )
    return version
