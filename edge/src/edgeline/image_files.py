"""Reads an image file by what its first bytes say it is, or says what it is instead.

What is read is what everybody's pictures are in. Pillow reads it, and pi-heif an iPhone's HEIC
(the extra `heif`). A file's name and suffix are never looked at.
"""

import io
import re
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any

from PIL import Image, UnidentifiedImageError, features

from edgeline._distribution import pip_install

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")  # as Pillow names them
EXPECTED = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC"
SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png",
    ".tif", ".tiff", ".webp",
})  # fmt: skip

_HEAD = 1024  # bytes that tell what a file is

_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"(?!II\*\0....CR)(II\*\0|MM\0\*|II\+\0|MM\0\+)",  # but a Canon's raw file
}
_RAW = "a camera's raw file"
_OTHER_IMAGES = {
    "a Photoshop document (PSD)": rb"8BPS",
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a JPEG 2000 image": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ",
    _RAW: rb"II\*\0....CR|IIU\0|IIR[OS]|MMOR|\0MRM|FOVb|FUJIFILMCCD-RAW",
    "a DICOM image": rb".{128}DICM",
    "an OpenEXR image": rb"v/1\x01",
    "a Netpbm image": rb"P[1-7]\s",
    "an icon (ICO)": rb"\0\0\x01\0",
}
_OTHERS = {
    "an SVG drawing": rb"(\xef\xbb\xbf)?\s*<(svg|(\?xml|!--|!(?i:doctype) svg).*<svg)",
    "a web page (HTML)": rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html)",
    "a PDF": rb"%PDF-",
    "a PostScript file": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a ZIP archive": rb"PK\x03\x04",
    "a gzip archive": rb"\x1f\x8b",
    "a RAR archive": rb"Rar!",
    "a 7z archive": rb"7z\xbc\xaf",
    "an AVI video": rb"RIFF....AVI ",
    "a Matroska or WebM video": rb"\x1a\x45\xdf\xa3",
    "an MP4 or QuickTime video": rb"....(moov|mdat|wide|skip)",
    "a NumPy array": rb"\x93NUMPY",
    "an HDF5 file": rb"\x89HDF",
    "macOS's notes on another file (AppleDouble)": rb"\0\x05\x16\x07",
    "a Git LFS pointer (git lfs pull fetches the file)": rb"version https://git-lfs",
}

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"} | {
    b"mif1",
    b"msf1",
}
_CANON_RAW = b"crx "

# TIFF tags
_KIND_OF_PAGE, _BITS, _PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT, _DNG_VERSION = (
    254, 258, 262, 322, 323, 50706
)  # fmt: skip
_PREVIEW = 1
_WHITE_IS_ZERO = 0


class UnreadableKindError(Exception):
    """The file may be whole, but it is of a kind that is not read.

    The message completes "the file is ...", as in "a PDF, not an image".

    Attributes:
        is_image: Whether it is an image all the same.
    """

    def __init__(self, message: str, *, is_image: bool) -> None:
        super().__init__(message)
        self.is_image = is_image


def read_image(file: IO[bytes], check_size: Callable[[int, int], None]) -> tuple[Image.Image, bool]:
    """Decode a file's image, or the first of several; it may still lie on its side.

    Args:
        file: A whole file, open for reading, that can seek.
        check_size: Is given the width and height that the header tells; raises what it likes, and
            nothing is decoded.

    Returns:
        The image, and whether Pillow alone would have refused it: for a comment or a colour
        profile in a PNG that unpacks to megabytes, which does not spoil the pixels.

    Raises:
        UnreadableKindError: the file is of another kind.
        Exception: of almost any class, from a decoder, on a damaged or hostile file.
    """
    format = _format(file.read(_HEAD))
    try:
        return _decode(file, format, check_size), False
    except ValueError:
        if format != "PNG":
            raise
        return _decode(_without_text(file), format, check_size), True


def _format(head: bytes) -> str:
    """Return which of `FORMATS` a file is that starts so."""
    if head[4:8] == b"ftyp":
        return _format_of_media(head)
    for format, signature in _SIGNATURES.items():
        if re.match(signature, head, re.DOTALL):
            return format
    for kinds, is_image in ((_OTHER_IMAGES, True), (_OTHERS, False)):
        for kind, signature in kinds.items():
            if re.match(signature, head, re.DOTALL):
                raise _unreadable(kind, is_image=is_image)
    kind = "not an image in a known format" if head else "an empty file, not an image"
    raise UnreadableKindError(kind, is_image=False)


def _format_of_media(head: bytes) -> str:
    """Tell apart what is in an ISO base media file: its type box lists the kinds that it fits."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, min(size, _HEAD), 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIF"
    if _CANON_RAW in brands:
        raise _unreadable(_RAW, is_image=True)
    raise _unreadable("an MP4 or QuickTime video", is_image=False)


def _unreadable(kind: str, *, is_image: bool) -> UnreadableKindError:
    return UnreadableKindError(
        f"{kind}, which is not read" if is_image else f"{kind}, not an image", is_image=is_image
    )


def _decode(file: IO[bytes], format: str, check_size: Callable[[int, int], None]) -> Image.Image:
    file.seek(0)
    image = _open(file, format)
    check_size(*image.size)
    if format == "TIFF":
        _check_tiff(image)
    image.load()
    return image


def _open(file: IO[bytes], format: str) -> Image.Image:
    if format == "HEIF":
        return _open_heif(file)
    if format == "AVIF" and not ("avif" in features.modules and features.check("avif")):
        raise UnreadableKindError(
            "an AVIF image, which this Pillow does not read; pip install 'pillow>=11.3'",
            is_image=True,
        )
    try:
        return Image.open(file, formats=[format])
    except UnidentifiedImageError:
        raise UnreadableKindError(
            f"a damaged {format}, or one of a kind that is not read", is_image=True
        ) from None


def _open_heif(file: IO[bytes]) -> Image.Image:
    try:
        # Not at the top: it is an extra, and loading it takes longer than decoding a photo.
        from pi_heif import HeifImageFile
    except ImportError:
        raise UnreadableKindError(
            f"an HEIC image, which only pi-heif reads; {pip_install('heif')}",
            is_image=True,
        ) from None
    return HeifImageFile(file)


def _check_tiff(image: Image.Image) -> None:
    """Refuse what Pillow would read as something else than the picture."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    kind = None
    if _DNG_VERSION in tags or tags.get(_KIND_OF_PAGE, 0) & _PREVIEW:
        # The first page of a DNG, NEF or ARW is a thumbnail.
        kind = _RAW
    elif image.mode in ("F", "I"):
        kind = f"a TIFF with {'floating-point' if image.mode == 'F' else 'wide integer'} samples"
    elif tags.get(_BITS) == (12,):
        kind = "a 12-bit TIFF"
    elif image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        kind = "a 16-bit TIFF in which 0 is white"
    if kind is not None:
        raise _unreadable(kind, is_image=True)
    # A tile is unpacked whole, however little of it the image needs.
    if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0) > 2**24 + image.width * image.height:
        raise OSError("its tiles are far larger than the image")


def _without_text(file: IO[bytes]) -> IO[bytes]:
    """Return a PNG without its comments and colour profile."""
    file.seek(0)
    return io.BytesIO(file.read(8) + b"".join(_chunks_but_text(file)))


def _chunks_but_text(file: IO[bytes]) -> Iterator[bytes]:
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        rest = file.read(length + 4)
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            yield head + rest
