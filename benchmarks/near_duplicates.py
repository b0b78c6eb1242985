"""What the search for near-duplicates finds, what it takes for one wrongly, and how far it scales.

Runs on ELPV's solar cells, which all look alike, on crops of scikit-learn's two photographs, and
on folders of JPEG and PNG files: `python -m benchmarks.near_duplicates PHOTOS`. Promised: hashing a
photo takes less than half of what decoding it does; a million hashes, however they are spread, take
under a minute and under a gigabyte.
"""

from __future__ import annotations

import importlib.util
import io
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images
from tabulate import tabulate

from pipeline.data.near_duplicates import (
    ALIKE_DISTANCE,
    COPY_DISTANCE,
    COPY_LIMITS,
    NEAR_DISTANCE,
    NEAR_LIMITS,
    find,
)
from pipeline.data.perceptual_hash import HASH_BYTES, perceptual_hash

CHANGED = 150  # images of a set that are changed
MANY = 1_000_000  # hashes
BLOCK = 4096  # hashes whose distances to all others are taken at once
CROP = 128  # pixels a side
LIMITS = (COPY_DISTANCE, ALIKE_DISTANCE, NEAR_DISTANCE, 64)

Pictures = Sequence[Callable[[], Image.Image]]


def main(folders: Sequence[Path] = ()) -> None:
    """Prints all of it."""
    print_cost()
    print_scale()  # before anything large: a process counts what its parent held
    sets: dict[str, Pictures] = {"ELPV": elpv(), "crops": crops()}
    sets |= {folder.name: files(folder) for folder in folders}
    for name, pictures in sets.items():
        hashes = hashes_of(open_picture() for open_picture in pictures)
        print_different(name, hashes)
        print_changed(name, pictures)


def print_cost() -> None:
    """Prints what a hash costs against decoding."""
    photo = Image.fromarray(load_sample_images().images[0])
    rows = []
    for size in ((64, 64), (500, 375), (4000, 3000)):
        image = photo.resize(size)
        encoded = jpeg(image, 90)
        decoding = milliseconds(partial(decode, encoded))
        hashing = milliseconds(partial(perceptual_hash, image))
        ratio = hashing / decoding
        rows.append([f"{size[0]}x{size[1]}", f"{decoding:.2f}", f"{hashing:.2f}", f"{ratio:.2f}"])
    print(tabulate(rows, headers=["", "decoding, ms", "hashing, ms", "ratio"], tablefmt="plain"))


def print_different(name: str, hashes: NDArray[np.uint8]) -> None:
    """Prints how many of all pairs are within each limit, and what is made of them."""
    counts = np.cumsum(distance_counts(hashes))
    content = (hashes[:, 0] & 0x80 > 0).sum()
    print(f"\n{name}: {len(hashes):,} images, {content:,} with content, {counts[-1]:,} pairs")
    print("  " + ", ".join(f"{counts[limit]:,} within {limit} signs" for limit in LIMITS))
    for limits, what in ((COPY_LIMITS, "copies"), (NEAR_LIMITS, "near")):
        found = find(hashes, limits)
        sizes = np.bincount(found.of_image[found.of_image >= 0])
        print(
            f"  {what}, within {found.distance}: {sizes.sum():,} images in {len(sizes):,} clusters,"
            f" the largest of {sizes.max(initial=0)}"
        )


def print_changed(name: str, pictures: Pictures) -> None:
    """Prints how far changed pictures are from what they were made of."""
    chosen = [pictures[k]() for k in range(0, len(pictures), -(-len(pictures) // CHANGED))]
    originals = hashes_of(chosen)
    known = originals[:, 0] & 0x80 > 0
    rows = []
    for change, function in CHANGES.items():
        changed = hashes_of(function(picture) for picture in chosen)
        distances = np.unpackbits(originals ^ changed, axis=1)[known, 1:].sum(axis=1)
        shares = [f"{(distances <= limit).mean():.3f}" for limit in (COPY_DISTANCE, NEAR_DISTANCE)]
        rows.append([change, int(np.median(distances)), distances.max(), *shares])
    headers = [f"{len(chosen)} of {name}", "median", "most", "copies", "near"]
    print(tabulate(rows, headers=headers, tablefmt="plain"))


def print_scale() -> None:
    """Prints what `find` takes for a million hashes, in a process of its own each."""
    rows = []
    for spread in SPREADS:
        for number in (MANY // 4, MANY):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                seconds, peak, clusters = pool.submit(_found, spread, number).result()
            rows.append([spread, f"{number:,}", f"{seconds:.1f}", f"{peak / 1e6:.0f}", clusters])
    print()
    print(tabulate(rows, headers=["hashes", "", "CPU s", "MB", "near clusters"], tablefmt="plain"))


def _found(spread: str, number: int) -> tuple[float, int, int]:
    hashes = SPREADS[spread](np.random.default_rng(0), number)
    hashes[:, 0] |= 0x80
    started = time.process_time()  # `find` has one thread
    clusters = find(hashes).of_image
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds, peak, int(clusters.max()) + 1


def _independent(random: np.random.Generator, number: int) -> NDArray[np.uint8]:
    return random.integers(0, 256, (number, HASH_BYTES), np.uint8)


def _one(random: np.random.Generator, number: int) -> NDArray[np.uint8]:
    return np.repeat(_independent(random, 1), number, axis=0)


def _around_one(random: np.random.Generator, number: int) -> NDArray[np.uint8]:
    """Hashes that differ from one in 1 of 16 signs each: all are near each other."""
    noise = _independent(random, number)
    for _ in range(3):
        noise &= _independent(random, number)
    return noise ^ _independent(random, 1)


def _copied(random: np.random.Generator, number: int) -> NDArray[np.uint8]:
    """Each hash four times, a few signs apart."""
    noise = _independent(random, number)
    for _ in range(5):
        noise &= _independent(random, number)
    return noise ^ np.resize(_independent(random, number // 4), noise.shape)


SPREADS: dict[str, Callable[[np.random.Generator, int], NDArray[np.uint8]]] = {
    "independent": _independent,
    "four copies each": _copied,
    "all equal": _one,
    "all near one": _around_one,
}


def elpv() -> Pictures:
    """Every solar cell."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SystemExit("this benchmark needs elpv-dataset: pip install elpv-dataset")
    return files(Path(spec.origin).parent / "data" / "images")


def crops() -> Pictures:
    """The squares that scikit-learn's photographs fall into."""
    squares = []
    for pixels in load_sample_images().images:
        photo = Image.fromarray(pixels)
        for top in range(0, photo.height - CROP + 1, CROP):
            for left in range(0, photo.width - CROP + 1, CROP):
                squares.append(partial(photo.crop, (left, top, left + CROP, top + CROP)))
    return squares


def files(folder: Path) -> Pictures:
    """The JPEG and PNG files in a folder and below."""
    suffixes = (".jpg", ".jpeg", ".png")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return [partial(read, path) for path in found]


def read(path: Path) -> Image.Image:
    """An image file's picture, upright, grey or RGB."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    return upright if upright.mode in ("L", "RGB") else upright.convert("RGB")


def hashes_of(pictures: Iterator[Image.Image] | Sequence[Image.Image]) -> NDArray[np.uint8]:
    """uint8 [pictures, HASH_BYTES]."""
    joined = b"".join(perceptual_hash(picture) for picture in pictures)
    return np.frombuffer(joined, np.uint8).reshape(-1, HASH_BYTES)


def distance_counts(hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """int64 [256], the number of pairs with content at each distance; takes all of them."""
    bits = np.unpackbits(hashes[hashes[:, 0] & 0x80 > 0], axis=1)[:, 1:]
    signs = bits.astype(np.float32) * 2 - 1
    counts = np.zeros(256, np.int64)
    for start in range(0, len(signs), BLOCK):
        products = signs[start : start + BLOCK] @ signs[start:].T
        distances = ((signs.shape[1] - products) / 2).astype(np.uint8)
        for row, line in enumerate(distances):
            counts += np.bincount(line[row + 1 :], minlength=256)
    return counts


def milliseconds(work: Callable[[], object]) -> float:
    """The least time of 20."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times) * 1e3


def decode(data: bytes) -> None:
    """Decodes an image file."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def jpeg(image: Image.Image, quality: int, **options: bytes) -> bytes:
    """A JPEG file's bytes."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The picture of a JPEG file of it."""
    return Image.open(io.BytesIO(jpeg(image, quality))).convert(image.mode)


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """The picture with other sides."""
    sides = (max(1, round(side * factor)) for side in image.size)
    return image.resize((next(sides), next(sides)), Image.Resampling.LANCZOS)


def thumbnail(image: Image.Image) -> Image.Image:
    """The picture with a longer side of 160 pixels at most."""
    small = image.copy()
    small.thumbnail((160, 160))
    return small


def cropped(image: Image.Image, share: float) -> Image.Image:
    """The picture without a share of each side, taken from both ends alike."""
    across, down = (round(side * share / 2) for side in image.size)
    return image.crop((across, down, image.width - across, image.height - down))


def moved(image: Image.Image, share: float) -> Image.Image:
    """What a camera sees that turned by a share of the picture, and shows at its border."""
    across, down = (round(side * share) for side in image.size)
    return image.crop((across, down, image.width, image.height))


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    """The picture with normal noise, in grey levels."""
    pixels = np.asarray(image, np.float64)
    pixels = pixels + np.random.default_rng(0).normal(0, deviation, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def corrected(image: Image.Image, gamma: float) -> Image.Image:
    """The picture with its grey levels raised to a power."""
    levels = [round(255 * (level / 255) ** gamma) for level in range(256)]
    return image.point(levels * len(image.getbands()))


def stamped(image: Image.Image) -> Image.Image:
    """The picture with a line of text in a corner."""
    copy = image.copy()
    left, top = round(image.width * 0.03), round(image.height * 0.93)
    ImageDraw.Draw(copy).text((left, top), "2024-01-01 12:00", fill="white")
    return copy


def labelled(image: Image.Image) -> Image.Image:
    """The picture with a white label of 28% by 5% of it."""
    copy = image.copy()
    box = (image.width * 0.02, image.height * 0.93, image.width * 0.3, image.height * 0.98)
    ImageDraw.Draw(copy).rectangle(box, fill="white")
    return copy


def turned(image: Image.Image) -> Image.Image:
    """The upright picture of a file that lies on its side and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(image.transpose(Image.Transpose.ROTATE_90), 90, exif=exif.tobytes())
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))


def enhanced(
    kind: Callable[[Image.Image], ImageEnhance._Enhance], factor: float
) -> Callable[[Image.Image], Image.Image]:
    """A change of brightness, contrast or colour."""
    return lambda image: kind(image).enhance(factor)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 30": lambda image: compressed(image, 30),
    "JPEG of quality 50": lambda image: compressed(image, 50),
    "JPEG of quality 75": lambda image: compressed(image, 75),
    "JPEG of quality 95": lambda image: compressed(image, 95),
    "scaled to 25%": lambda image: scaled(image, 0.25),
    "scaled to 50%": lambda image: scaled(image, 0.5),
    "scaled to 90%": lambda image: scaled(image, 0.9),
    "scaled to 200%": lambda image: scaled(image, 2),
    "thumbnail, 160 pixels": thumbnail,
    "thumbnail, quality 50": lambda image: compressed(thumbnail(image), 50),
    "squeezed to 224x224": lambda image: image.resize((224, 224)),
    "turned by EXIF": turned,
    "grey": lambda image: image.convert("L"),
    "colour x 1.5": lambda image: ImageEnhance.Color(image.convert("RGB")).enhance(1.5),
    "brightness x 0.8": enhanced(ImageEnhance.Brightness, 0.8),
    "brightness x 1.2": enhanced(ImageEnhance.Brightness, 1.2),
    "contrast x 1.3": enhanced(ImageEnhance.Contrast, 1.3),
    "gamma 0.8": lambda image: corrected(image, 0.8),
    "gamma 1.25": lambda image: corrected(image, 1.25),
    "line of text": stamped,
    "white label": labelled,
    "noise of 10 levels": lambda image: noisy(image, 10),
    "cropped by 2%": lambda image: cropped(image, 0.02),
    "cropped by 5%": lambda image: cropped(image, 0.05),
    "moved by 1%": lambda image: moved(image, 0.01),
    "moved by 2%": lambda image: moved(image, 0.02),
    "moved by 5%": lambda image: moved(image, 0.05),
    "tilted by 1 degree": lambda image: cropped(image.rotate(1, Image.Resampling.BICUBIC), 0.05),
    "mirrored": ImageOps.mirror,
}

if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
