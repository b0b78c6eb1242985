"""From an image in any common format to the numbers a model takes, without TensorFlow.

    pixels = preprocess(contract, load_image("photo.jpg"))

The same decoding feeds the training data, and `resize_bilinear` equals `tf.image.resize`: a device
computes the very numbers that the model was trained and evaluated on.
"""

import io
from os import PathLike
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeline.contract import PreprocessingContract
from edgeline.errors import ImageError
from edgeline.image_files import EXPECTED, UnreadableKindError, read_image
from edgeline.runtime.memory import available_memory

MAX_PIXELS = 100_000_000  # what an image may unpack to

# Bytes a pixel takes at most while it is decoded and turned, and while it is reduced to 8-bit RGB.
_DECODING = 8
_REDUCING = 19
_LARGE = 8_000_000  # pixels from which on the memory is looked at

ImageSource: TypeAlias = str | PathLike[str] | bytes | Image.Image | NDArray[Any]

_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource) -> NDArray[np.uint8]:
    """Decode an image to uint8 `[height, width, 3]`, RGB, the way its EXIF orientation says.

    Takes a path, the bytes of a file, a Pillow image, or a uint8 array `[height, width]` or
    `[height, width, channels]` with 1, 3 or 4 channels. Files are JPEG, PNG, WebP, BMP, GIF, TIFF,
    AVIF or, with the extra `heif`, HEIC; of several frames or pages the first counts. Transparency
    is laid over white; of 16-bit samples the upper 8 bits count; colour profiles are ignored.

    Raises:
        ImageError: there is no such file, or it is not a complete image of one of these kinds, or
            it has more than `MAX_PIXELS` pixels.
    """
    return np.asarray(_load(source))


def load_pixels(contract: PreprocessingContract, source: ImageSource) -> NDArray[np.float32]:
    """Return what `preprocess(contract, load_image(source))` does, with fewer copies on the way.

    Raises:
        ImageError: as `load_image`.
    """
    return _resized(contract, _load(source))


def load_limited(source: ImageSource, max_side: int) -> NDArray[np.uint8]:
    """Return what `load_image` does, scaled down until no side has more than `max_side` pixels.

    Raises:
        ImageError: as `load_image`.
    """
    return np.asarray(limit_side(_load(source), max_side))


def resize_bilinear(image: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Resize `[h, w, channels]` as `tf.image.resize(image, (height, width))` does.

    Bilinear with half-pixel centres and without antialiasing, in float32: each output pixel blends
    four input pixels, however large the input is.
    """
    top, bottom, down = _neighbours(image.shape[0], height)
    left, right, across = _neighbours(image.shape[1], width)
    upper = _blend(_gather(image, top, left), _gather(image, top, right), across[:, None])
    lower = _blend(_gather(image, bottom, left), _gather(image, bottom, right), across[:, None])
    return _blend(upper, lower, down[:, None, None])


def preprocess(contract: PreprocessingContract, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn a decoded image, `[h, w, 3]`, into the model's input.

    Returns:
        float32 `[height, width, 3]` in the contract's value range.
    """
    if max(image.shape[:2]) > contract.max_side:
        return _resized(contract, Image.fromarray(image))
    return resize_bilinear(image, contract.height, contract.width) / np.float32(255)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, where EXIF says nothing."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # An EXIF block that cannot be parsed says nothing; viewers show such an image as it is.
        return 1
    return value if value in _TRANSPOSITIONS else 1


def upright(image: Image.Image) -> Image.Image:
    """Return a loaded image turned the way its EXIF orientation says."""
    transposition = _TRANSPOSITIONS.get(orientation(image))
    return image if transposition is None else image.transpose(transposition)


def has_transparency(image: Image.Image) -> bool:
    """Tell whether an image has an alpha channel, or a clear colour, that means something.

    An alpha that is zero everywhere makes an image invisible, and viewers show it so, but for BMP:
    most programs that write 32-bit BMPs leave the fourth byte at zero, and browsers take such a
    file as opaque.
    """
    if image.format == "BMP" and image.mode == "RGBA":
        return image.getchannel("A").getextrema() != (0, 0)
    return image.has_transparency_data


def to_8_bit(image: Image.Image) -> Image.Image:
    """Return a loaded image as 8-bit RGB or gray (L).

    Transparency is laid over white, the ground that cut-out pictures are mostly shown on; of 16-bit
    gray the upper 8 bits count, as in libpng's own reduction.
    """
    if image.mode.startswith("I"):
        # Pillow's own conversion would make everything above 255 white.
        samples = np.asarray(image).astype(np.int64)
        gray = (np.clip(samples, 0, 0xFFFF) >> 8).astype(np.uint8)
        gray[samples == image.info.get("transparency", -1)] = 255
        return Image.fromarray(gray)
    if has_transparency(image):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def limit_side(image: Image.Image, max_side: int) -> Image.Image:
    """Return an image scaled down (Lanczos) until its longer side is at most `max_side` pixels.

    Bilinear sampling of a large photo without antialiasing would skip most of its pixels.
    """
    longer = max(image.size)
    if longer <= max_side:
        return image
    width, height = (max(1, round(side * max_side / longer)) for side in image.size)
    # As Pillow does it at once, but always in this order: newer versions of it take the other one
    # where an image is more than 100 times as high as wide.
    across = image.resize((width, image.height), Image.Resampling.LANCZOS)
    return across.resize((width, height), Image.Resampling.LANCZOS)


def _load(source: ImageSource) -> Image.Image:
    """Decode an image to 8-bit RGB, the way its EXIF orientation says; see `load_image`."""
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "the array")
    if isinstance(source, Image.Image):
        return _decode(source, "the image")
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), "the image")
    if not isinstance(source, str | PathLike):
        # None is what cameras give when they have no frame.
        raise ImageError(
            "Expected an image as a path, a file's bytes, a Pillow image or a uint8 array; got "
            f"{type(source).__name__}"
        )
    try:
        with Path(source).open("rb") as file:
            return _open(file, str(source))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"Cannot read {source}: {reason}") from None


def _resized(contract: PreprocessingContract, image: Image.Image) -> NDArray[np.float32]:
    limited = np.asarray(limit_side(image, contract.max_side))
    return resize_bilinear(limited, contract.height, contract.width) / np.float32(255)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.has_transparency_data:
        # Of what is decoded already, as much again is not needed.
        _check_memory(*image.size, name, _REDUCING - _DECODING)
    image = to_8_bit(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _neighbours(
    size: int, new_size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Along one axis, return the two inputs that each output lies between, and how far along."""
    # In float32 and in this order, as TensorFlow does: the weights are equal to the last bit.
    scale = np.float32(size) / np.float32(new_size)
    position = (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(position)
    before = np.maximum(floor, 0).astype(np.intp)
    after = np.minimum(np.ceil(position), size - 1).astype(np.intp)
    return before, after, position - floor


def _gather(
    image: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    return image[rows[:, None], columns[None, :]].astype(np.float32)


def _blend(
    first: NDArray[np.float32], second: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    return first + (second - first) * weight


def _open(file: IO[bytes], name: str) -> Image.Image:
    try:
        image, _ = read_image(file, lambda width, height: _check_pixels(width, height, name))
        return _to_rgb(upright(image), name)
    except ImageError:
        raise
    except UnreadableKindError as error:
        expected = "" if error.is_image else f"; expected {EXPECTED}"
        raise ImageError(f"{name} is {error}{expected}") from None
    except Exception as error:
        # On hostile bytes Pillow's decoders raise nearly anything: OSError, SyntaxError,
        # struct.error, IndexError, ... Each means that this one image is unusable.
        raise _undecodable(name, error) from error


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Decode an image that the caller has opened."""
    _check_pixels(*image.size, name)
    if image.mode == "F":
        raise ImageError(f"{name} has floating-point samples, whose range is anybody's guess")
    try:
        image.load()
        return _to_rgb(upright(image), name)
    except ImageError:
        raise
    except Exception as error:
        raise _undecodable(name, error) from error


def _undecodable(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name} cannot be decoded; it is damaged, incomplete or too large: {error}")


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} unpacks to {width} x {height} pixels; at most {MAX_PIXELS} are read"
        )
    _check_memory(width, height, name, _DECODING)


def _check_memory(width: int, height: int, name: str, bytes_per_pixel: int) -> None:
    """Refuse what would have the kernel end some process of this device.

    Raises:
        ImageError: there is not enough memory for so many pixels.
    """
    needed = width * height * bytes_per_pixel
    available = available_memory() if width * height > _LARGE else None
    if available is not None and needed > available:
        raise ImageError(
            f"{name} of {width} x {height} pixels takes {needed / 1e6:.0f} MB of memory, and "
            f"{available / 1e6:.0f} MB are available. Make it smaller, or stop other programs"
        )


def _from_array(array: NDArray[Any]) -> Image.Image:
    """Return a uint8 array of pixels as a Pillow image."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    known = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not known or array.size == 0:
        raise ImageError(
            "Expected an image as a uint8 array [height, width] or [height, width, 1, 3 or 4]; "
            f"got {array.dtype} {list(array.shape)}{_hint(array)}"
        )
    _check_pixels(array.shape[1], array.shape[0], "the array")
    return Image.fromarray(np.ascontiguousarray(array))


def _hint(array: NDArray[Any]) -> str:
    """Return how to make a uint8 array of one of floating-point numbers in a usual range."""
    if array.dtype.kind != "f" or array.size == 0 or not 0 <= array.min() <= array.max() <= 255:
        return ""
    scaled, scale = ("values * 255", 1) if array.max() <= 1 else ("values", 255)
    return f" with values from 0 to {scale}. Give np.round({scaled}).astype(np.uint8)"
