"""What `normalise` keeps, mends and refuses, with files made by Pillow."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data.image_files import BadImageError, NormalImage, NotAnImageError, normalise
from tests.odd_images import READ, UNREAD, Case

RNG = np.random.default_rng(7)


def photo(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Returns a smooth random picture: JPEG alters it little, and no two corners are alike."""
    small = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def file(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """Returns a PNG of raw rows (each after its filter byte), for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [b"IHDR" + header, *chunks, b"IDAT" + zlib.compress(rows), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in body
    )


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :]


def normal(data: bytes, *, max_side: int = 512, max_pixels: int = 10**6) -> NormalImage:
    return normalise(data, max_side=max_side, max_pixels=max_pixels)


def seen(data: bytes) -> npt.NDArray[np.uint8]:
    """Returns the pixels that TensorFlow sees, after checking that Pillow sees the same."""
    pixels: npt.NDArray[np.uint8]
    pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    # The default JPEG method is a little less exact.
    default = tf.io.decode_image(data, channels=3).numpy()
    np.testing.assert_allclose(default.astype(int), pixels.astype(int), atol=16)
    return pixels


def format_of(data: bytes) -> str | None:
    return Image.open(io.BytesIO(data)).format


KEPT = {
    "a colour JPEG": file(photo(), "JPEG"),
    "a grey JPEG": file(photo("L"), "JPEG"),
    "a progressive JPEG": file(photo(), "JPEG", progressive=True),
    "a JPEG whose EXIF says upright": file(photo(), "JPEG", exif=exif(1)),
    "a JPEG whose EXIF names no known orientation": file(photo(), "JPEG", exif=exif(99)),
    "a JPEG with damaged EXIF": file(photo(), "JPEG", exif=b"Exif\0\0garbage, not a TIFF header"),
    "a colour PNG": file(photo(), "PNG"),
    "a grey PNG": file(photo("L"), "PNG"),
    "a picture exactly at the limit": file(photo(size=(512, 100)), "PNG"),
}


@pytest.mark.parametrize("data", KEPT.values(), ids=KEPT)
def test_a_fit_file_is_kept_byte_for_byte(data: bytes) -> None:
    image = normal(data)
    assert (image.data, image.changes) == (data, ())
    np.testing.assert_array_equal(seen(data), np.asarray(image.pixels.convert("RGB")))


RGB = photo()
HALF_CLEAR = photo("RGBA")
HALF_CLEAR.putalpha(128)
GREY_16 = RNG.integers(0, 2**16, (32, 48), dtype=np.uint16)
ANIMATION = {"save_all": True, "append_images": [photo(), photo()]}
MENDED = {
    "a palette PNG": (file(RGB.convert("P"), "PNG"), ["palette"], "PNG"),
    "a palette PNG with a clear colour": (
        file(RGB.convert("P"), "PNG", transparency=0),
        ["transparency", "palette"],
        "PNG",
    ),
    "an RGBA PNG": (file(HALF_CLEAR, "PNG"), ["transparency"], "PNG"),
    "a grey PNG with alpha": (file(photo("LA"), "PNG"), ["alpha channel"], "PNG"),
    "an RGB PNG with a clear colour": (
        file(RGB, "PNG", transparency=(0, 0, 0)),
        ["transparency"],
        "PNG",
    ),
    "a 1-bit PNG": (file(photo("1"), "PNG"), ["1-bit"], "PNG"),
    "a 16-bit grey PNG": (file(Image.fromarray(GREY_16), "PNG"), ["16-bit"], "PNG"),
    "an animated PNG": (file(RGB, "PNG", **ANIMATION), ["several frames"], "PNG"),
    "a PNG lying on its side": (file(RGB, "PNG", exif=exif(6)), ["EXIF orientation"], "PNG"),
    "a BMP": (file(RGB, "BMP"), ["format BMP"], "PNG"),
    "a GIF": (file(RGB, "GIF"), ["format GIF", "palette"], "PNG"),
    "an animated GIF": (
        file(RGB, "GIF", **ANIMATION),
        ["format GIF", "several frames", "palette"],
        "PNG",
    ),
    "a lossless WebP": (file(RGB, "WEBP", lossless=True), ["format WEBP"], "PNG"),
    "a lossy WebP": (file(RGB, "WEBP"), ["format WEBP"], "JPEG"),
    "a CMYK JPEG": (file(photo("CMYK"), "JPEG"), ["CMYK"], "JPEG"),
    "a JPEG lying on its side": (
        file(RGB, "JPEG", exif=exif(8)),
        ["EXIF orientation"],
        "JPEG",
    ),
    "a camera's MPO": (file(RGB, "MPO", **ANIMATION), ["format MPO", "several frames"], "JPEG"),
    "a large JPEG": (file(photo(size=(600, 300)), "JPEG"), ["downscaled"], "JPEG"),
    "a large PNG": (file(photo(size=(300, 600)), "PNG"), ["downscaled"], "PNG"),
}


@pytest.mark.parametrize(("data", "changes", "format"), MENDED.values(), ids=MENDED)
def test_an_odd_file_is_mended_and_says_why(data: bytes, changes: list[str], format: str) -> None:
    image = normal(data)
    assert list(image.changes) == changes
    assert format_of(image.data) == format
    seen(image.data)
    assert normal(image.data).changes == (), "a mended file is fit"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_comes_out_upright_whatever_the_camera_held(orientation: int) -> None:
    upright = photo(size=(48, 32))
    laid = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.rotate(180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.rotate(90, expand=True),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.rotate(-90, expand=True),
    }[orientation]
    image = normal(file(laid, "PNG", exif=exif(orientation)))
    np.testing.assert_array_equal(seen(image.data), np.asarray(upright))


def test_16_bit_grey_keeps_the_high_byte() -> None:
    pixels = seen(normal(file(Image.fromarray(GREY_16), "PNG")).data)
    np.testing.assert_array_equal(pixels[..., 0], GREY_16 >> 8)


def test_16_bit_colour_keeps_the_high_byte() -> None:
    samples = RNG.integers(0, 2**16, (5, 7, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    image = normal(png(7, 5, 16, 2, rows))
    assert image.changes == ("16-bit",)
    np.testing.assert_array_equal(seen(image.data), samples >> 8)


def test_a_clear_colour_in_16_bit_grey_becomes_white() -> None:
    rows = b"\0" + np.array([0x1234, 0x1235], ">u2").tobytes()
    image = normal(png(2, 1, 16, 0, rows, b"tRNS\x12\x34"))
    assert seen(image.data)[0, :, 0].tolist() == [255, 0x12]


def test_transparency_is_composited_over_white() -> None:
    red_fading = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        red_fading.putpixel((x, 0), (255, 0, 0, alpha))
    pixels = seen(normal(file(red_fading, "PNG")).data)
    assert pixels.tolist() == [[[255, 255, 255], [255, 127, 127], [255, 0, 0]]]


def test_cmyk_keeps_its_colours() -> None:
    pixels = seen(normal(file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).data)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), [255, 0, 0], atol=3)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = file(first, "GIF", save_all=True, append_images=[second])
    assert seen(normal(data).data)[0, 0].tolist() == [255, 0, 0]


def test_a_lossless_picture_loses_nothing() -> None:
    np.testing.assert_array_equal(seen(normal(file(RGB, "BMP")).data), np.asarray(RGB))


@pytest.mark.parametrize(
    ("size", "expected"), [((600, 300), (512, 256)), ((100, 700), (73, 512)), ((9999, 1), (512, 1))]
)
def test_the_longer_side_is_scaled_down_to_the_limit(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    data = normal(file(photo(size=size), "PNG")).data
    assert Image.open(io.BytesIO(data)).size == expected


def test_a_file_that_pillow_alone_can_read_is_made_fit_for_tensorflow() -> None:
    endless = file(RGB, "PNG").removesuffix(b"IEND\xaeB`\x82")
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_image(endless)
    image = normal(endless)
    assert image.changes == ("unusual encoding",)
    np.testing.assert_array_equal(seen(image.data), np.asarray(RGB))


def test_a_colour_profile_is_not_carried_to_another_colour_space() -> None:
    data = normal(file(photo("CMYK"), "JPEG", icc_profile=b"a profile for print")).data
    assert "icc_profile" not in Image.open(io.BytesIO(data)).info


WHOLE = file(photo(size=(200, 200)), "JPEG")
WHOLE_PNG = file(photo(size=(200, 200)), "PNG")
REFUSED = {
    "half a JPEG": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "half a PNG": (WHOLE_PNG[: len(WHOLE_PNG) // 2], "truncated"),
    "a PNG with a damaged pixel": (flipped(WHOLE_PNG, len(WHOLE_PNG) // 2), "cannot be decoded"),
    "a PNG that claims 60000x60000 pixels": (png(60_000, 60_000, 8, 2, b"\0"), "image bomb"),
    "a PNG just above the limit": (png(1_000, 1_001, 8, 2, b"\0"), "image bomb"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_file_is_refused_and_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        normal(data)


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_an_odd_image_is_read_as_viewers_show_it(case: Case) -> None:
    image = normal(case.data)
    assert image.changes == case.changes
    assert image.data == case.data or case.changes
    np.testing.assert_allclose(
        np.asarray(image.pixels.convert("RGB")).astype(int), case.pixels, atol=case.tolerance
    )
    np.testing.assert_allclose(seen(image.data).astype(int), case.pixels, atol=2 * case.tolerance)


@pytest.mark.parametrize(("data", "reason"), UNREAD.values(), ids=UNREAD)
def test_a_file_that_is_not_read_is_called_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason) as refused:
        normal(data)
    assert isinstance(refused.value, NotAnImageError) == ("not an image" in reason)
