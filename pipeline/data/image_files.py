"""Makes one image file fit for training: JPEG or PNG, upright, RGB or grey, 8 bits, not too large.

`normalise(data, ...)` takes a file's bytes and returns bytes that Pillow and TensorFlow (by its
accurate JPEG method, see `pipeline.data.preprocessing`) decode to the same pixels. A file that is
fit already is kept byte for byte; any other is encoded anew, and the reasons are given:

- EXIF orientation is applied, because TensorFlow ignores it;
- transparency is composited over white; TensorFlow would drop it and uncover whatever lies beneath;
- 16-bit samples keep their high byte;
- palettes, CMYK and 1-bit become RGB or grey;
- of several frames the first is taken;
- a longer side above the limit is scaled down to it (Lanczos);
- an encoding that TensorFlow may read in another way than Pillow (`pipeline.data.plain_files`)
  is replaced by a plain one, and what follows a JPEG's end is cut off.

Each is done by the function that a device does it with. A lossless source becomes PNG, a lossy one
JPEG of quality 95 without chroma subsampling. ICC profiles and gamma are left alone: the sample
values are what the model sees.
"""

import io
from dataclasses import dataclass

from PIL import Image

from edgeline.image_files import UnreadableKindError, read_image
from edgeline.preprocessing import has_transparency, limit_side, orientation, to_8_bit, upright
from pipeline.data.plain_files import MAX_RGB_BYTES, MAX_SIDE, plain_length

_JPEG_QUALITY = 95
_MAX_JPEG_SIDE = 65_500
_BITS_PER_SAMPLE = 258  # TIFF tag


class BadImageError(Exception):
    """The file cannot be used; the message says why, without naming the file."""


class NotAnImageError(BadImageError):
    """The file is of no kind of image that is known; the message says what it is, if that is."""


@dataclass(frozen=True)
class NormalImage:
    """A fit image.

    Attributes:
        data: The file's bytes, JPEG or PNG.
        changes: Why they are not the original's; empty if they are.
        format: What the original was, in Pillow's words: "JPEG", "WEBP", ...
        pixels: The decoded image, upright, 8-bit RGB or grey (L), before any scaling down.
    """

    data: bytes
    changes: tuple[str, ...]
    format: str
    pixels: Image.Image


def normalise(data: bytes, *, max_side: int, max_pixels: int) -> NormalImage:
    """Returns `data` if it is fit for training, or else a fit image made from it.

    Args:
        data: A whole image file.
        max_side: The longer side's limit in pixels; above it the image is scaled down.
        max_pixels: Above this many pixels, which the header tells, nothing is decoded.

    Raises:
        NotAnImageError: It is something else than an image.
        BadImageError: It is an image of a kind that is not read, is damaged, or is too large.
    """
    image, oversized_text = _read(data, max_pixels)
    try:
        pixels = to_8_bit(upright(image))
        changes = _changes(image, data, max_side)
        if oversized_text:
            changes.append("oversized text")
        if not changes:
            length = plain_length(data)
            if length:
                cut_off = ("trailing data",) if length < len(data) else ()
                return NormalImage(data[:length], cut_off, str(image.format), pixels)
            changes = ["unusual encoding"]
        normal = _encoded(limit_side(pixels, max_side), lossy=_is_lossy(image, data))
        return NormalImage(normal, tuple(changes), str(image.format), pixels)
    except Exception as error:
        # A hostile or damaged file makes a decoder raise almost anything: OSError, SyntaxError,
        # struct.error, zlib.error. Whichever it is, this one image is bad and no other.
        raise BadImageError(f"cannot be decoded: {error}") from error


def _read(data: bytes, max_pixels: int) -> tuple[Image.Image, bool]:
    """Returns the decoded image, as it is stored, and whether there is too much text with it."""

    def check_size(width: int, height: int) -> None:
        if width * height > max_pixels:
            raise BadImageError(
                f"image bomb: {width}x{height} is above the limit of {max_pixels} pixels"
            )

    # Pillow's own limit is one for the whole process and half ours: here, ours shall decide.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        return read_image(io.BytesIO(data), check_size)
    except BadImageError:
        raise
    except UnreadableKindError as error:
        raise (BadImageError if error.is_image else NotAnImageError)(str(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"image bomb: {error}") from error
    except Exception as error:  # see normalise
        raise BadImageError(f"cannot be decoded: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _changes(image: Image.Image, data: bytes, max_side: int) -> list[str]:
    """Returns what must be mended in a decoded image; nothing if its file can be kept."""
    depth = _depth(image, data)
    found = {
        f"format {image.format}": image.format not in ("JPEG", "PNG"),
        "several frames": getattr(image, "n_frames", 1) > 1,
        "EXIF orientation": _is_turned(image, data),
        _alpha(image): has_transparency(image),
        "palette": image.mode == "P",
        "CMYK": image.mode == "CMYK",
        f"{depth}-bit": depth != 8,
        "downscaled": max(image.size) > max_side,
    }
    return [change for change, needed in found.items() if needed]


def _alpha(image: Image.Image) -> str:
    """Returns what an alpha channel amounts to: many programs write one that hides nothing."""
    opaque = image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema()[0] == 255
    return "alpha channel" if opaque else "transparency"


def _is_turned(image: Image.Image, data: bytes) -> bool:
    if image.format == "TIFF":  # Pillow turns it as it decodes it, and forgets
        image = Image.open(io.BytesIO(data), formats=["TIFF"])
    return orientation(image) != 1


def _depth(image: Image.Image, data: bytes) -> int:
    """Returns the bits of a sample. Pillow's mode does not tell: 16-bit RGB opens as plain RGB."""
    if image.mode == "P":  # these are the indices' bits, and mean nothing
        return 8
    if image.format == "PNG" and data[12:16] == b"IHDR":
        return data[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))))  # type: ignore[attr-defined]
    return 8


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    if image.format == "WEBP":
        # The chunk of a lossless image. A chance match in a lossy one would only cost some space.
        return b"VP8L" not in data
    if image.format == "TIFF":
        return "jpeg" in image.info.get("compression", "")
    return image.format in ("JPEG", "MPO", "AVIF", "HEIF")


def _encoded(image: Image.Image, *, lossy: bool) -> bytes:
    if max(image.size) > MAX_SIDE or 3 * image.width * image.height >= MAX_RGB_BYTES:
        raise ValueError(f"TensorFlow would not read {image.width}x{image.height} pixels")
    # An orientation, a palette's transparency or a CMYK profile is true of the source only.
    image = image.copy()
    image.info = {}
    buffer = io.BytesIO()
    if lossy and max(image.size) <= _MAX_JPEG_SIDE:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
