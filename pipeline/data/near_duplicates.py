"""Finds pictures that are the same or nearly, among a million of them, by their perceptual hashes.

Two hashes differ by the number of signs that do, from 0 to 255: about 127 for photographs of
different things. `docs/data.md` has what this finds and what it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from pipeline.data.perceptual_hash import HASH_BYTES

NEAR_DISTANCE = 51  # signs: another shot of the same thing from the same place, or most of it
ALIKE_DISTANCE = 13  # signs: the same, in a set whose pictures are all alike
COPY_DISTANCE = 8  # signs: the same picture, compressed, scaled or coloured otherwise
COPY_LIMITS = (COPY_DISTANCE, 4, 2, 0)  # signs, each for what the one before makes a chain of
NEAR_LIMITS = (NEAR_DISTANCE, ALIKE_DISTANCE, *COPY_LIMITS)

_ORDERS = 32  # that hashes are sorted in
_WINDOW = 4  # hashes that follow in an order, with which one is compared
_CHUNK = 2**15  # hashes compared at a time, few enough for a processor's cache
# Kept before they are thinned to a tree: so many, or so many for each hash.
_MAX_LINKS, _MAX_LINKS_A_HASH = 2**16, 1
_TOO_MANY = 2**28  # hashes, for the codes of their pairs, with 6 bits for the distance, in int64
_CHAIN = 20  # hashes: a larger cluster must have a centre
_CHAINED_SHARE = 0.01  # of the hashes; with more of them in chains, near pictures can't be told

_BYTES_IN_ORDER = np.dtype(">u8")  # so that a word's bits are in the order of the hash's signs

_Bits = NDArray[np.uint8]
_Words = NDArray[np.uint64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AlikeImages:
    """Which images are alike.

    Attributes:
        distance: in signs; images that are farther apart were not linked.
        of_image: int64 [images], a number that the images of a cluster share, in the order of
            their first images; -1 for an image that is like no other.
    """

    distance: int
    of_image: _Ints


def find(hashes: _Bits, limits: Sequence[int] = NEAR_LIMITS) -> AlikeImages:
    """Finds near-duplicates; time and memory are nearly proportional to the number of hashes.

    Hashes are sorted in several orders, in each by other signs of low frequencies first, and each
    is compared with those that follow it. Near hashes begin alike in some order: almost surely for
    copies, and mostly for the others.

    Args:
        hashes: uint8 [images, HASH_BYTES], of `perceptual_hash`; fewer than 2**28.
        limits: in signs: those that are linked within the first are a cluster, unless they only
            make a chain: these are clustered by the next limit, and so on. Where so many are in
            chains that shots can't be told from others, as from a camera over a production line,
            the first limit is left out for all. At most `NEAR_DISTANCE`, descending, the last is 0.

    Raises:
        ValueError: the hashes have another type or shape, or are too many.
    """
    if hashes.dtype != np.uint8 or hashes.ndim != 2 or hashes.shape[1] != HASH_BYTES:
        expected = f"uint8 [images, {HASH_BYTES}]"
        raise ValueError(f"expected {expected}, got {hashes.dtype} {list(hashes.shape)}")
    if len(hashes) >= _TOO_MANY:
        raise ValueError(f"expected fewer than {_TOO_MANY:,} hashes, got {len(hashes):,}")
    distinct = _Distinct.of(hashes)
    links = _nearest_links(distinct.words)
    parts = _parts(links, limits[0], len(distinct.words))
    chained = _in_chains(distinct.words, parts, limits[0])
    if np.count_nonzero(chained) > _CHAINED_SHARE * len(chained):
        limits = limits[1:]
    cluster = _clusters(distinct.words, links, limits)
    known = distinct.of_image >= 0
    labels = np.full(len(known), -1, np.int64)
    labels[known] = cluster[distinct.of_image[known]]
    return AlikeImages(limits[0], _numbered(labels))


@dataclass(frozen=True)
class _Links:
    """Pairs of hashes by their positions, `first` before `second`, and their distances."""

    first: _Ints
    second: _Ints
    distance: _Ints

    def __len__(self) -> int:
        return len(self.first)

    def codes(self, hashes: int) -> _Ints:
        """A number for each pair of so many hashes; numbers sort by distance."""
        return (self.distance * hashes + self.first) * hashes + self.second

    @classmethod
    def decoded(cls, codes: _Ints, hashes: int) -> _Links:
        rest, second = np.divmod(codes, hashes)
        distance, first = np.divmod(rest, hashes)
        return cls(first, second, distance)

    def where(self, chosen: NDArray[np.bool_]) -> _Links:
        return _Links(self.first[chosen], self.second[chosen], self.distance[chosen])


@dataclass(frozen=True)
class _Distinct:
    """The different hashes that have content.

    Attributes:
        words: uint64 [hashes, 4], big-endian, in the order of the first images that have them.
        of_image: int64 [images], the position of an image's hash, or -1 where it has no content.
    """

    words: _Words
    of_image: _Ints

    @classmethod
    def of(cls, hashes: _Bits) -> _Distinct:
        words = np.ascontiguousarray(hashes).view(_BYTES_IN_ORDER)
        order = np.lexsort(words.T)  # stable: of equal hashes, the first image comes first
        order = order[hashes[order, 0] >= 0x80]
        starts = np.zeros(len(order), np.bool_)
        starts[:1] = True
        for column in words.T:  # all at once would take the memory of two more copies
            starts[1:] |= np.diff(column[order]) != 0
        firsts = order[starts]
        rank = np.empty(len(firsts), np.int64)
        rank[np.argsort(firsts)] = np.arange(len(firsts))
        of_image = np.full(len(hashes), -1, np.int64)
        of_image[order] = rank[np.cumsum(starts) - 1]
        return cls(words[np.sort(firsts)], of_image)


def _numbered(labels: _Ints) -> _Ints:
    """Numbers the labels that several images share, in ascending order; any other becomes -1."""
    counts = np.bincount(labels + 1, minlength=1)
    shared = counts > 1
    shared[0] = False  # of the images without content
    return np.where(shared, np.cumsum(shared) - 1, -1)[labels + 1]


def _nearest_links(words: _Words) -> _Links:
    """A tree of the nearest pairs found, for each set of hashes that are linked at all.

    A minimum spanning tree: cut at any distance, it falls into the same parts as all pairs would.
    """
    hashes = len(words)
    tree, new = np.empty(0, np.int64), [np.empty(0, np.int64)]
    reach, parts = 0, np.arange(hashes)
    for links in _candidates(words):
        # Others join what shorter links have joined: a tree has no use for them.
        useful = links.where((links.distance < reach) | (parts[links.first] != parts[links.second]))
        new.append(useful.codes(hashes))
        if sum(map(len, new)) > max(_MAX_LINKS, _MAX_LINKS_A_HASH * hashes):
            tree, new = _tree(np.concatenate([tree, *new]), hashes), []
            joined = _Links.decoded(tree, hashes)
            reach = int(np.quantile(joined.distance, 0.9))
            parts = _parts(joined, reach, hashes)
    return _Links.decoded(_tree(np.concatenate([tree, *new]), hashes), hashes)


def _candidates(words: _Words) -> Iterator[_Links]:
    """Compares neighbours in each order of the hashes; a near pair may come up several times."""
    hashes = len(words)
    for table in _key_tables():
        order = np.argsort(_keys(words[:, 0], table), kind="stable")
        for start in range(0, hashes, _CHUNK):
            places = order[start : start + _CHUNK + _WINDOW]
            columns = words[places].T.astype(np.uint64, order="C")
            for step in range(1, _WINDOW + 1):
                right = columns[:, step : step + _CHUNK]
                distance = _ones(columns[:, : right.shape[1]] ^ right)
                near = np.flatnonzero(distance <= NEAR_DISTANCE)
                one, other = places[near], places[step + near]
                first, second = np.minimum(one, other), np.maximum(one, other)
                yield _Links(first, second, distance[near])


@lru_cache(maxsize=1)
def _key_tables() -> tuple[_Words, ...]:
    """For each order, uint64 [8, 256]: where it moves the bits of each byte of a word."""
    tables = []
    random = np.random.RandomState(0)  # whose numbers NumPy has promised not to change
    byte_bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.uint64)
    for _ in range(_ORDERS):
        places = np.uint64(1) << random.permutation(64).astype(np.uint64).reshape(8, 8)
        tables.append((byte_bits @ places.T).T)
    return tuple(tables)


def _keys(words: _Words, table: _Words) -> _Words:
    byte_columns = words.astype(_BYTES_IN_ORDER).view(np.uint8).reshape(-1, 8).T
    keys = np.zeros(len(words), np.uint64)
    for moved, values in zip(table, byte_columns, strict=True):
        keys |= moved[values]
    return keys


def _ones(words: _Words) -> _Ints:
    """The number of set bits, fewer than 256, in each column of uint64 [4, columns]."""
    # Counts in fields of 2, 4 and 8 bits (Warren, Hacker's Delight, 5-1). NumPy 1 has no popcount.
    words = words - (words >> np.uint64(1) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    words = (words & pairs) + (words >> np.uint64(2) & pairs)
    words = words + (words >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    total = words.sum(axis=0, dtype=np.uint64) * np.uint64(0x0101010101010101)
    return (total >> np.uint64(56)).astype(np.int64)


def _tree(codes: _Ints, hashes: int) -> _Ints:
    """The codes of a minimum spanning tree of coded pairs, in ascending order."""
    codes = np.sort(codes)
    codes = codes[np.diff(codes, prepend=-1) > 0]
    # No two weights are equal: SciPy would choose between them in an order that processors differ
    # in.
    weights = np.arange(1, len(codes) + 1, dtype=np.float64)
    links = _Links.decoded(codes, hashes)
    graph = coo_matrix((weights, (links.first, links.second)), (hashes, hashes))
    chosen = minimum_spanning_tree(graph.tocsr()).data.astype(np.int64) - 1
    return codes[np.sort(chosen)]


def _clusters(words: _Words, links: _Links, limits: Sequence[int]) -> _Ints:
    """The first hash of the cluster of each hash, which may be itself.

    Hashes that are linked by pairs within the first limit are a cluster, unless they only make a
    chain: these are clustered by the next limit. The last limit is 0.
    """
    cluster = np.arange(len(words))
    rest = np.ones(len(words), np.bool_)
    for limit in limits:
        inside = links.where(rest[links.first] & rest[links.second])
        parts = _parts(inside, limit, len(words))
        chained = _in_chains(words, parts, limit)
        settled = rest & ~chained
        cluster[settled] = parts[settled]
        rest &= chained
    return cluster


def _parts(links: _Links, limit: int, hashes: int) -> _Ints:
    """The first hash of the connected part in which each hash is."""
    near = links.where(links.distance <= limit)
    graph = coo_matrix((np.ones(len(near)), (near.first, near.second)), (hashes, hashes))
    _, part = connected_components(graph, directed=False)
    _, first = np.unique(part, return_index=True)
    return first[part]


def _in_chains(words: _Words, parts: _Ints, limit: int) -> NDArray[np.bool_]:
    """Tells which hashes are in large parts that reach farther than the limit from their centre.

    Copies of one picture lie around it, and so do shots of one thing. Pictures that are merely
    alike are linked through each other: a few false pairs would make one cluster of thousands.
    """
    chained = np.zeros(len(words), np.bool_)
    order = np.argsort(parts, kind="stable")
    sizes = np.bincount(parts)
    ends = np.cumsum(sizes)
    for part in np.flatnonzero(sizes > _CHAIN):
        members = order[ends[part] - sizes[part] : ends[part]]
        chained[members] = _radius(words[members]) > limit
    return chained


def _radius(words: _Words) -> int:
    """The largest distance from the hash that has the signs of the majority."""
    chunks = [words[start : start + _CHUNK] for start in range(0, len(words), _CHUNK)]
    counts = sum(_bits(chunk).sum(axis=0, dtype=np.int64) for chunk in chunks)
    centre = np.packbits(counts * 2 > len(words)).view(_BYTES_IN_ORDER)
    return max(int(_ones((chunk ^ centre).T).max()) for chunk in chunks)


def _bits(words: _Words) -> _Bits:
    """uint8 [hashes, 256] of uint64 [hashes, 4]."""
    return np.unpackbits(words.astype(_BYTES_IN_ORDER).view(np.uint8), axis=1)
