"""Image files as they lie about in folders, for the tests of training and of the device alike.

`READ` holds files that are images, with what is seen in them; `UNREAD` files that are not read,
with what they are called.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image

RNG = np.random.default_rng(11)
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A file, the RGB pixels to be seen in it, and what ingest says that it changed."""

    data: bytes
    pixels: Pixels
    changes: tuple[str, ...]
    tolerance: int = 0


def photo(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Returns a smooth random picture: JPEG alters it little, and no two corners are alike."""
    small = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_of(*chunks: bytes) -> bytes:
    """Returns a PNG of chunks, each its kind and content."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def png_chunks(data: bytes) -> list[bytes]:
    """Returns what `png_of` was made of."""
    chunks, position = [], 8
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        chunks.append(data[position + 4 : position + 8 + length])
        position += 12 + length
    return chunks


def png_with(image: Image.Image, chunk: bytes, *, at: int) -> bytes:
    """Returns a PNG with one more chunk: at 1 before the pixels, at -1 after them."""
    chunks = png_chunks(encoded(image, "PNG"))
    chunks.insert(at, chunk)
    return png_of(*chunks)


def tiff(rows: bytes, size: tuple[int, int], tags: dict[int, tuple[int, ...]]) -> bytes:
    """Returns an unpacked little-endian TIFF of one strip, for what Pillow does not write."""
    width, height = size
    tags = {
        256: (width,), 257: (height,), 258: (8,), 259: (1,), 262: (1,), 273: (8,), 277: (1,),
        278: (height,), 279: (len(rows),),
    } | tags  # fmt: skip
    entries, spilled = b"", b""
    after = 8 + len(rows) + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        value = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            value, spilled = struct.pack("<I", after + len(spilled)), spilled + value
        entries += struct.pack("<HHI", tag, 4, len(values)) + value
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + directory + spilled


def bmp(pixels: Pixels) -> bytes:
    """Returns a 32-bit BMP with masks for all of red, green, blue and alpha."""
    height, width, _ = pixels.shape
    rows = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0)
    header += struct.pack("<IIII", *masks) + bytes(52)
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + rows


def heic(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95)
    return buffer.getvalue()


def media(*brands: bytes) -> bytes:
    """Returns the start of a file of the ISO base media family."""
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(content)) + b"ftyp" + content + bytes(64)


RGB = photo()
SEEN = np.asarray(RGB)
SMOOTH = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
GREY_16 = RNG.integers(0, 2**16, (32, 48), dtype=np.uint16)
GREY_8 = np.repeat((GREY_16 >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
RGB_16 = RNG.integers(0, 2**16, (32, 48, 3), dtype=np.uint16)
RED = np.zeros((4, 6, 4), np.uint8)
RED[..., 0] = 255
HALF_RED = RED.copy()
HALF_RED[0, 0, 3] = 255
WHITE_BUT_FOR_ONE = np.full((4, 6, 3), 255, np.uint8)
WHITE_BUT_FOR_ONE[0, 0] = 255, 0, 0
ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[0x0112] = 6
LONG_TEXT = b"Comment\0\0" + zlib.compress(b"la " * 1_000_000)
BOMB = b"profile\0\0" + zlib.compress(bytes(50_000_000))
DOTS = RNG.integers(0, 256, (1, 1, 3), dtype=np.uint8)

READ = {
    "a BMP whose alpha is zero everywhere": Case(bmp(RED), RED[..., :3], ("format BMP",)),
    "a BMP whose alpha is zero nearly everywhere": Case(
        bmp(HALF_RED), WHITE_BUT_FOR_ONE, ("format BMP", "transparency")
    ),
    "a PNG that is clear everywhere": Case(
        encoded(Image.fromarray(RED), "PNG"), np.full((4, 6, 3), 255, np.uint8), ("transparency",)
    ),
    "a WebP that is clear everywhere": Case(
        encoded(Image.fromarray(RED), "WEBP", lossless=True),
        np.full((4, 6, 3), 255, np.uint8),
        ("format WEBP", "transparency"),
    ),
    "a PNG whose alpha hides nothing": Case(
        encoded(RGB.convert("RGBA"), "PNG"), SEEN, ("alpha channel",)
    ),
    "a PNG with a long text before the pixels": Case(
        png_with(RGB, b"zTXt" + LONG_TEXT, at=1), SEEN, ("oversized text",)
    ),
    "a PNG with a long text after the pixels": Case(
        png_with(RGB, b"zTXt" + LONG_TEXT, at=-1), SEEN, ("oversized text",)
    ),
    "a PNG with a long international text": Case(
        png_with(RGB, b"iTXtComment\0\1\0\0\0" + LONG_TEXT[9:], at=1), SEEN, ("oversized text",)
    ),
    "a PNG with a bomb for a text": Case(
        png_with(RGB, b"zTXt" + BOMB, at=1), SEEN, ("oversized text",)
    ),
    "a PNG with a bomb for a colour profile": Case(
        png_with(RGB, b"iCCP" + BOMB, at=1), SEEN, ("oversized text",)
    ),
    "a PNG with more text than pixels": Case(
        png_with(RGB, b"tEXtComment\0" + bytes(5_000_000), at=1), SEEN, ("unusual encoding",)
    ),
    "a TIFF": Case(encoded(RGB, "TIFF"), SEEN, ("format TIFF",)),
    "an LZW TIFF": Case(encoded(RGB, "TIFF", compression="tiff_lzw"), SEEN, ("format TIFF",)),
    "a TIFF of a JPEG": Case(
        encoded(SMOOTH, "TIFF", compression="jpeg", quality=95),
        np.asarray(SMOOTH),
        ("format TIFF",),
        tolerance=8,
    ),
    "a TIFF of several pages": Case(
        encoded(RGB, "TIFF", save_all=True, append_images=[photo(), photo("L")]),
        SEEN,
        ("format TIFF", "several frames"),
    ),
    "a TIFF on its side": Case(
        encoded(RGB.rotate(90, expand=True), "TIFF", exif=ON_ITS_SIDE),
        SEEN,
        ("format TIFF", "EXIF orientation"),
    ),
    "a 16-bit grey TIFF": Case(
        encoded(Image.fromarray(GREY_16), "TIFF"), GREY_8, ("format TIFF", "16-bit")
    ),
    "a big-endian 16-bit grey TIFF": Case(
        encoded(Image.fromarray(GREY_16.astype(">u2")), "TIFF"), GREY_8, ("format TIFF", "16-bit")
    ),
    "a 16-bit grey TIFF on its side": Case(
        encoded(Image.fromarray(np.rot90(GREY_16).copy()), "TIFF", exif=ON_ITS_SIDE),
        GREY_8,
        ("format TIFF", "EXIF orientation", "16-bit"),
    ),
    "a 16-bit colour TIFF": Case(
        tiff(RGB_16.astype("<u2").tobytes(), (48, 32), {258: (16, 16, 16), 262: (2,), 277: (3,)}),
        (RGB_16 >> 8).astype(np.uint8),
        ("format TIFF", "16-bit"),
    ),
    "a CMYK TIFF": Case(
        encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"),
        np.full((8, 8, 3), (255, 0, 0), np.uint8),
        ("format TIFF", "CMYK"),
    ),
    "a black and white TIFF": Case(
        encoded(Image.new("1", (8, 8), 1), "TIFF", compression="group4"),
        np.full((8, 8, 3), 255, np.uint8),
        ("format TIFF", "1-bit"),
    ),
    "an AVIF": Case(
        encoded(SMOOTH, "AVIF", quality=95), np.asarray(SMOOTH), ("format AVIF",), tolerance=8
    ),
    "a clear AVIF": Case(
        encoded(Image.new("RGBA", (8, 8), (200, 0, 0, 0)), "AVIF"),
        np.full((8, 8, 3), 255, np.uint8),
        ("format AVIF", "transparency"),
    ),
    "a HEIC": Case(heic(SMOOTH), np.asarray(SMOOTH), ("format HEIF",), tolerance=8),
    "a PNG of one pixel": Case(encoded(Image.fromarray(DOTS), "PNG"), DOTS, ()),
    "a BMP of one pixel": Case(encoded(Image.fromarray(DOTS), "BMP"), DOTS, ("format BMP",)),
    "a JPEG of one pixel": Case(
        encoded(Image.fromarray(DOTS), "JPEG", quality=100), DOTS, (), tolerance=4
    ),
}

GREY_ROWS = bytes(range(48)) * 32
UNREAD = {
    "nothing": (b"", "an empty file, not an image"),
    "text": (b"This is not an image.\n" * 20, "not an image in a known format"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF, not an image"),
    "an SVG": (b'<?xml version="1.0"?>\n<svg xmlns="..."/>', "an SVG drawing, not an image"),
    "a web page": (b"\n<!DOCTYPE html><title>404</title>", r"a web page \(HTML\), not an image"),
    "a ZIP": (b"PK\3\4" + bytes(40), "a ZIP archive, not an image"),
    "an MP4": (media(b"isom", b"mp41"), "an MP4 or QuickTime video, not an image"),
    "a MOV": (media(b"qt  "), "an MP4 or QuickTime video, not an image"),
    "macOS's shadow of a photo": (
        b"\0\5\x16\7\0\2\0\0Mac OS X", r".* \(AppleDouble\), not an image"
    ),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer .*, not an image"
    ),
    "a PSD": (b"8BPS\0\1", r"a Photoshop document \(PSD\), which is not read"),
    "a JPEG XL": (b"\xff\x0a" + bytes(30), "a JPEG XL image, which is not read"),
    "a CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera's raw file, which is not read"),
    "a CR3": (media(b"crx ", b"isom"), "a camera's raw file, which is not read"),
    "a DNG": (tiff(GREY_ROWS, (48, 32), {50706: (1,)}), "a camera's raw file, which is not read"),
    "a NEF": (tiff(GREY_ROWS, (48, 32), {254: (1,)}), "a camera's raw file, which is not read"),
    "a TIFF of fractions": (
        encoded(Image.new("F", (4, 4)), "TIFF"),
        "a TIFF with floating-point samples, which is not read",
    ),
    "a TIFF of 32-bit numbers": (
        encoded(Image.new("I", (4, 4)), "TIFF"),
        "a TIFF with wide integer samples, which is not read",
    ),
    "a 12-bit TIFF": (tiff(bytes(12), (4, 2), {258: (12,)}), "a 12-bit TIFF, which is not read"),
    "a 16-bit TIFF in negative": (
        tiff(bytes(16), (4, 2), {258: (16,), 262: (0,)}),
        "a 16-bit TIFF in which 0 is white, which is not read",
    ),
    "a TIFF of five colours": (
        tiff(bytes(40), (4, 2), {258: (8,) * 5, 277: (5,)}),
        "a damaged TIFF, or one of a kind that is not read",
    ),
    "a TIFF with one huge tile": (
        tiff(GREY_ROWS, (48, 32), {322: (65_536,), 323: (65_536,), 324: (8,), 325: (1_536,)}),
        "cannot be decoded.* far larger than the image",
    ),
    "half a TIFF": (encoded(photo(), "TIFF")[:2_000], "cannot be decoded|damaged TIFF"),
    "half an AVIF": (encoded(photo(), "AVIF")[:400], "cannot be decoded|damaged AVIF"),
    "half a HEIC": (heic(photo())[:600], "cannot be decoded"),
}  # fmt: skip
