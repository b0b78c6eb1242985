"""Images become the numbers that TensorFlow would make of them, or an ImageError."""

import io
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeline.contract import PreprocessingContract
from edgeline.errors import ImageError
from edgeline.preprocessing import load_image, load_pixels, preprocess, resize_bilinear
from tests.odd_images import READ, UNREAD, Case


def _noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SIZES = [
    ((1, 1), (5, 7)),
    ((2, 3), (1, 1)),
    ((8, 8), (8, 8)),
    ((10, 10), (20, 30)),
    ((17, 31), (31, 17)),
    ((33, 47), (150, 150)),
    ((299, 301), (150, 150)),
    ((480, 640), (96, 224)),
    ((1200, 900), (224, 1)),
]


@pytest.mark.parametrize(("size", "new_size"), SIZES, ids=str)
def test_resizing_equals_tensorflow(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    import tensorflow as tf

    image = _noise(*size)
    expected = tf.image.resize(tf.cast(image, tf.float32), new_size).numpy()
    actual = resize_bilinear(image, *new_size)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_preprocessing_equals_the_training_side() -> None:
    import tensorflow as tf

    image = _noise(123, 77)
    contract = PreprocessingContract(height=50, width=60, max_side=512, labels=("a", "b"))
    expected = tf.image.resize(tf.cast(image, tf.float32), (50, 60)) / 255.0
    actual = preprocess(contract, image)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-6)


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = _noise(6, 9)
    image = Image.fromarray(pixels)
    path = tmp_path / "image.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, pixels):
        np.testing.assert_array_equal(load_image(source), pixels)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (300, 200), (8, 8)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pixels_of_an_image_are_those_of_its_steps(size: tuple[int, int], mode: str) -> None:
    contract = PreprocessingContract(height=8, width=9, max_side=64, labels=("a", "b"))
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    for source in (image, file.getvalue(), noise):
        before = image.tobytes()
        expected = preprocess(contract, load_image(source))
        np.testing.assert_array_equal(load_pixels(contract, source), expected)
        assert image.tobytes() == before


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF", "JPEG"])
def test_reads(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encoded(Image.new("RGB", (5, 4), (200, 10, 90)), kind, **options)
    loaded = load_image(data)
    assert loaded.shape == (4, 5, 3)
    np.testing.assert_allclose(loaded[0, 0], (200, 10, 90), atol=3)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data)[0, 0].tolist() == [255, 0, 0]


def _paletted() -> Image.Image:
    return Image.new("RGB", (2, 2), (255, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE)


def _paletted_with_a_clear_colour() -> bytes:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return _encoded(image, transparency=0)


@pytest.mark.parametrize(
    ("source", "pixel"),
    [
        pytest.param(Image.new("L", (2, 2), 77), [77, 77, 77], id="gray"),
        pytest.param(Image.new("1", (2, 2), 1), [255, 255, 255], id="black and white"),
        pytest.param(_paletted(), [255, 0, 0], id="a palette"),
        pytest.param(_paletted_with_a_clear_colour(), [255] * 3, id="a palette with a clear one"),
        pytest.param(Image.new("RGBA", (2, 2), (255, 0, 0, 255)), [255, 0, 0], id="opaque"),
        pytest.param(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), [255] * 3, id="clear"),
        pytest.param(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), [127] * 3, id="half clear"),
        pytest.param(Image.new("LA", (2, 2), (0, 0)), [255] * 3, id="clear gray"),
        pytest.param(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), [255, 0, 0], id="CMYK"),
        pytest.param(
            _encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100),
            [254, 0, 0],
            id="a CMYK JPEG",
        ),
        pytest.param(
            Image.fromarray(np.full((2, 2), 0xABCD, np.uint16)), [0xAB] * 3, id="16-bit gray"
        ),
        pytest.param(
            _encoded(Image.fromarray(np.full((2, 2), 0xABCD, np.uint16))),
            [0xAB] * 3,
            id="a 16-bit PNG",
        ),
        pytest.param(np.full((2, 2), 9, np.uint8), [9, 9, 9], id="a gray array"),
        pytest.param(np.full((2, 2, 1), 9, np.uint8), [9, 9, 9], id="an array of one channel"),
        pytest.param(np.zeros((2, 2, 4), np.uint8), [255] * 3, id="a clear array"),
    ],
)
def test_makes_rgb_of(source: Any, pixel: list[int]) -> None:
    loaded = load_image(source)
    assert loaded.dtype == np.uint8
    assert loaded.shape[2] == 3
    np.testing.assert_allclose(loaded[0, 0], pixel, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stored_in_any_orientation_comes_out_upright(orientation: int) -> None:
    upright = _noise(3, 5)
    # What a camera stores for each orientation: the inverse of what a viewer must do.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(load_image(data), upright)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"])
def test_broken_exif_does_not_spoil_an_image(exif: bytes) -> None:
    data = _encoded(Image.fromarray(_noise(3, 5)), "JPEG", exif=exif)
    assert load_image(data).shape == (3, 5, 3)


def _bomb() -> bytes:
    """A small PNG whose header claims 20000 x 20000 pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + _encoded(Image.new("RGB", (1, 1)))[33:]
    )


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GIF89a", id="a bare header"),
        pytest.param(b"<svg/>", id="an SVG"),
        pytest.param(_encoded(Image.fromarray(_noise(64, 64)))[:-2000], id="half a PNG"),
        pytest.param(_encoded(Image.fromarray(_noise(64, 64)), "JPEG")[:-900], id="half a JPEG"),
        pytest.param(_encoded(Image.fromarray(_noise(64, 64)), "WEBP")[:-900], id="half a WebP"),
        pytest.param(_bomb(), id="a bomb"),
        pytest.param(np.broadcast_to(np.uint8(0), (10_001, 10_000)), id="a huge array"),
        pytest.param(np.zeros((4, 4, 3), np.float32), id="an array of floats"),
        pytest.param(np.zeros((4, 4, 2), np.uint8), id="an array of two channels"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), id="an empty array"),
        pytest.param(Image.new("F", (2, 2)), id="floating-point samples"),
        pytest.param("missing.png", id="a file that does not exist"),
        pytest.param("/", id="a folder"),
    ],
)
def test_refuses(source: Any) -> None:
    with pytest.raises(ImageError):
        load_image(source)


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_an_odd_image_is_read_as_viewers_show_it(case: Case) -> None:
    np.testing.assert_allclose(load_image(case.data).astype(int), case.pixels, atol=case.tolerance)


@pytest.mark.parametrize(("data", "reason"), UNREAD.values(), ids=UNREAD)
def test_a_file_that_is_not_read_is_called_what_it_is(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"photo.jpg (is )?({reason})"):
        load_image(path)


def test_heic_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"HEIC.*pip install 'edgeline.*\[heif\]'"):
        load_image(READ["a HEIC"].data)


@pytest.mark.parametrize("kind", ["a text", "a colour profile"])
def test_a_bomb_beside_the_pixels_takes_no_memory(kind: str) -> None:
    data = READ[f"a PNG with a bomb for {kind}"].data
    load_image(data)
    tracemalloc.start()
    load_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000, "the bomb unpacks to 50 MB"


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Between our limit and the one at which Pillow itself refuses to go on.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300_000_000)
    with pytest.raises(ImageError, match="unpacks to 20000 x 20000 pixels"):
        load_image(_bomb())


@pytest.mark.parametrize(
    ("top", "hint"),
    [
        (1.0, r"from 0 to 1\. Give np\.round\(values \* 255\)\.astype\(np\.uint8\)"),
        (255.0, r"from 0 to 255\. Give np\.round\(values\)\.astype\(np\.uint8\)"),
        (256.0, r"got float32 \[2, 2, 3\]$"),
    ],
)
def test_an_array_of_floats_is_refused_with_a_hint(top: float, hint: str) -> None:
    with pytest.raises(ImageError, match=hint):
        load_image(np.full((2, 2, 3), top, np.float32))


@pytest.mark.parametrize(
    ("mode", "memory", "refused"),
    [("RGB", 79, True), ("RGB", 81, False), ("RGBA", 81, True), ("I;16", 81, True)],
)
def test_an_image_for_which_there_is_no_memory_is_refused(
    mode: str, memory: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million pixels take 80 MB at least, and 190 with transparency or 16 bits."""
    data = _encoded(Image.new(mode, (5000, 2000)))
    monkeypatch.setattr("edgeline.preprocessing.available_memory", lambda: memory * 1_000_000)
    if not refused:
        load_image(data)
        return
    with pytest.raises(ImageError, match=r"5000 x 2000 pixels takes \d+ MB of memory, and"):
        load_image(data)
