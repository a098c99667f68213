"""File to image: safe decoding to RGB, and fitting a picture into the frame a model expects.

First station of the data flow (images → models → targets → methods → maps → pictures). It knows
Pillow and numpy only: nothing of models, tensors or normalisation.

Files come from strangers. The size is read from the header and checked before any pixel is
decoded, only six formats are tried, every failure is a ``BadImage``, and what leaves this file is
rebuilt from pixels, so that no name, position or other metadata can reach an export.
"""

import hashlib
import os
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from cdam_core.errors import BadImage

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
FITS = ("pad", "crop", "stretch")
MAX_BYTES = 20 * 2**20
MAX_MEGAPIXELS = 40  # a stricter bound can be stated in the environment, before this is loaded
PIXELS_VARIABLE = "CDAM_MEGAPIXELS"
MIN_SIDE = 16  # pixels
MAX_ASPECT = 20  # long side over short side
MAX_COUNTED_FRAMES = 1000  # counting the pages of a hostile TIFF takes quadratic time
WINDOW_PERCENTILES = (0.5, 99.5)
MEAN_COLOUR = (124, 116, 104)  # ImageNet's mean: padding that means nothing to most models


def _allowed_pixels(stated: str) -> int:
    """Pixels of one picture.

    Args:
        stated: a whole number of megapixels, or nothing.

    Raises:
        ValueError: it is none, or more than can be decoded safely.
    """
    text = stated.strip() or str(MAX_MEGAPIXELS)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_MEGAPIXELS):
        raise ValueError(f"The environment variable {PIXELS_VARIABLE} is {stated!r}; expected a "
                         f"whole number of megapixels from 1 to {MAX_MEGAPIXELS}.")
    return int(text) * 10**6


MAX_PIXELS = _allowed_pixels(os.environ.get(PIXELS_VARIABLE, ""))
# Pillow's own guard; it refuses at twice this number, _check_size at this number.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_ASK = "please use a PNG, JPEG, TIFF, WebP, BMP or GIF file."
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112
_PHOTOMETRIC_TAG = 262
_WHITE_IS_ZERO = 0
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# ---- opening -------------------------------------------------------------------------------------

def open_image(source: bytes | str | os.PathLike | BinaryIO,
               max_bytes: int = MAX_BYTES) -> Image.Image:
    """Decode one picture safely: upright, opaque, 8-bit RGB, without metadata.

    Several frames or pages: the first. EXIF orientation is applied. Transparency goes onto white.
    16-bit, 32-bit and float values are mapped linearly so that the percentiles 0.5 and 99.5 of the
    picture become black and white (minimum and maximum where those coincide; a constant picture
    becomes mid grey 128). Colour profiles are ignored.

    Args:
        source: the file's bytes, its path, or an open binary file (read from its start if it can
            be rewound).
        max_bytes: larger files are refused.

    Returns:
        RGB image whose ``info`` is ``{"notes": [...]}``: one short sentence per change made.

    Raises:
        BadImage: for everything else; the message never contains the file's name or content.
    """
    data = _read(source, max_bytes)
    try:
        return _decode(data)
    except BadImage:
        raise
    except Exception as error:  # decoders raise anything on hostile files
        raise _refusal(error) from None


def limit_side(image: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side at most ``side`` pixels (Lanczos), aspect ratio kept.

    Args:
        image: as ``open_image`` returns it.
        side: in pixels.

    Returns:
        The picture itself where it is small enough, else a smaller copy whose ``info`` notes the
        change in words, and ``side`` as "reduced_to".
    """
    if max(image.size) <= side:
        return image
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    notes = [*image.info.get("notes", ()), f"reduced from {image.width} × {image.height} pixels"]
    small.info = {"notes": notes, "reduced_to": side}
    return small


def digest(image: Image.Image) -> str:
    """SHA-256 (hex) of mode, size and every pixel: equal exactly when the pictures are equal."""
    width, height = image.size
    header = f"{image.mode} {height} {width} ".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def _read(source, max_bytes: int) -> bytes:
    try:
        data = _read_at_most(source, max_bytes + 1)
    except (OSError, ValueError, AttributeError, TypeError):
        raise BadImage("unreadable", "There is no readable image file there; expected the bytes, "
                                     "the path or the open binary file of a picture.") from None
    if not data:
        raise BadImage("empty", f"The image file is empty; {_ASK}")
    if len(data) > max_bytes:
        raise BadImage("too-large", f"The image file has more than the {max_bytes / 2**20:.3g} MB "
                                    "allowed; please save a smaller copy.")
    return data


def _read_at_most(source, n_bytes: int) -> bytes:
    """Up to ``n_bytes`` of the source; ordinary file errors and TypeError for anything else."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source[:n_bytes])
    if isinstance(source, (str, os.PathLike)):
        with Path(source).open("rb") as file:
            return file.read(n_bytes)
    if source.seekable():
        source.seek(0)
    return bytes(memoryview(source.read(n_bytes)))  # a text file raises TypeError here


def _refusal(error: Exception) -> BadImage:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return _too_many_pixels()
    if isinstance(error, EOFError) or "truncated" in str(error):
        return BadImage("truncated", "The image file ends too early; please copy or save it again.")
    return BadImage("unreadable", f"This is not a readable image; {_ASK}")


def _decode(data: bytes) -> Image.Image:
    with Image.open(BytesIO(_without_colour_profile(data)), formats=FORMATS) as file:
        _check_size(*file.size)
        notes = _frame_notes(file)
        white_is_zero = getattr(file, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
        rgb = _to_rgb(_upright(file, notes), white_is_zero, notes)
    clean = Image.new("RGB", rgb.size)
    clean.paste(rgb)
    clean.info = {"notes": notes}
    return clean


def _without_colour_profile(data: bytes) -> bytes:
    """A PNG without its iCCP chunk, for whose sake alone the decoder would refuse the file."""
    position = len(_PNG_SIGNATURE)
    while data.startswith(_PNG_SIGNATURE) and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + length + 12
        if kind == b"iCCP":
            return data[:position] + data[end:]
        if kind == b"IDAT":
            break
        position = end
    return data


def _check_size(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if width * height > MAX_PIXELS:
        raise _too_many_pixels()
    if short < MIN_SIDE:
        raise BadImage("too-small", f"The image is {width} x {height} pixels; both sides must have "
                                    f"at least {MIN_SIDE}.")
    if long > MAX_ASPECT * short:
        raise BadImage("too-elongated", f"The image is {width} x {height} pixels; one side may be "
                                        f"at most {MAX_ASPECT} times the other: please crop it.")


def _too_many_pixels() -> BadImage:
    return BadImage("too-many-pixels", f"The image has more than {MAX_PIXELS // 10**6} million "
                                       "pixels; please save a smaller copy.")


def _frame_notes(file: Image.Image) -> list[str]:
    n_frames = _count_pages(file) if file.format == "TIFF" else getattr(file, "n_frames", 1)
    file.seek(0)
    count = n_frames if n_frames < MAX_COUNTED_FRAMES else f"{MAX_COUNTED_FRAMES} or more"
    return [f"frame 1 of {count}"] if n_frames > 1 else []


def _count_pages(file: Image.Image) -> int:
    for index in range(1, MAX_COUNTED_FRAMES):
        try:
            file.seek(index)
        except Exception:  # a damaged later page is no reason to refuse the first
            return index
    return MAX_COUNTED_FRAMES


# ---- pixels to upright 8-bit RGB -----------------------------------------------------------------

def _upright(file: Image.Image, notes: list[str]) -> Image.Image:
    """Decode the pixels and apply the orientation tag (Pillow's TIFF reader does so by itself)."""
    if _orientation(file) in _TO_UPRIGHT:
        notes.append("turned upright as its orientation tag says")
    file.load()
    orientation = _orientation(file)
    return file.transpose(_TO_UPRIGHT[orientation]) if orientation in _TO_UPRIGHT else file


def _orientation(file: Image.Image) -> int:
    try:
        return file.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF: the pixels are still good
        return 1


def _to_rgb(image: Image.Image, white_is_zero: bool, notes: list[str]) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = _window(np.asarray(image), notes)
        return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")
    if image.has_transparency_data:
        return _onto_white(image, notes)
    if image.mode in ("CMYK", "YCbCr", "LAB"):
        notes.append(f"colours converted from {image.mode} to RGB")
    return image.convert("RGB")


def _onto_white(image: Image.Image, notes: list[str]) -> Image.Image:
    straight = {"La": "LA", "RGBa": "RGBA"}  # premultiplied modes convert only to their sibling
    image = image.convert(straight.get(image.mode, image.mode)).convert("RGBA")
    if image.getchannel("A").getextrema()[0] < 255:
        notes.append("transparent areas shown on white")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _window(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """(H, W) numbers of any range to (H, W) uint8, linearly between two percentiles."""
    if not np.isfinite(values).all():
        raise BadImage("not-finite", "The image contains infinite or undefined values; please "
                                     "replace them by numbers and save it again.")
    low, high = map(float, np.percentile(values, WINDOW_PERCENTILES))
    if low == high:  # nearly all background: the few other pixels must not be lost
        low, high = float(values.min()), float(values.max())
    if low == high:
        notes.append(f"every pixel has the value {low:g}, shown as mid grey")
        return np.full(values.shape, 128, np.uint8)
    notes.append(f"values {low:g} to {high:g} shown as black to white")
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), 256):  # in bands: float64 of a whole large picture is heavy
        band = (values[top:top + 256].astype(np.float64) - low) / (high - low)
        grey[top:top + 256] = np.rint(band.clip(0, 1) * 255)
    return grey


# ---- fitting -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Placement:
    """Where a resized picture lies in a frame; (row, col) and (height, width) throughout.

    Attributes:
        original: (H0, W0) of the picture before.
        resized: (h, w) it is resized to.
        offset: (top, left) of the resized picture in the frame; negative where it is cut off.
        size: (H, W) of the frame.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) pixels of the frame that show real picture."""
        (top, left), (height, width) = self.offset, self.resized
        return (max(top, 0), max(left, 0),
                min(top + height, self.size[0]), min(left + width, self.size[1]))

    def to_original(self, row: float, col: float) -> tuple[float, float]:
        """Position in the original picture of a position in the frame.

        Positions count from the outer top left corner: pixel (r, c) covers r to r + 1 and c to
        c + 1. A result outside 0..H0 or 0..W0 lies in the padding.
        """
        (top, left), (height, width) = self.offset, self.resized
        return ((row - top) * self.original[0] / height, (col - left) * self.original[1] / width)


@dataclass(frozen=True)
class Fitted:
    """A picture fitted into a frame.

    Attributes:
        image: RGB of exactly the frame's size.
        placement: where the original picture lies in it.
    """

    image: Image.Image
    placement: Placement

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) pixels of ``image`` that show real picture, not padding."""
        return self.placement.content


def fit_image(image: Image.Image, size: tuple[int, int], fit: str = "pad",
              fill: tuple[int, int, int] = MEAN_COLOUR) -> Fitted:
    """Resize a picture (bicubic, antialiased) into a frame of exactly ``size``.

    A picture with the frame's aspect ratio comes out the same, bit for bit, for every ``fit``.

    Args:
        image: RGB image, as ``open_image`` returns it; other modes are converted.
        size: (H, W) in pixels.
        fit: "pad" keeps the aspect ratio and centres the whole picture on ``fill``; "crop" makes
            the shorter side fit and cuts the middle out of the longer one; "stretch" distorts.
        fill: colour of the padding, 0..255 each.

    Raises:
        ValueError: for another ``fit`` or a size below one pixel.
    """
    placement = place(image.size[::-1], size, fit)
    rgb = _to_rgb(image, white_is_zero=False, notes=[])
    resized = rgb.resize(placement.resized[::-1], Image.Resampling.BICUBIC)
    return Fitted(_in_frame(resized, placement, tuple(fill)), placement)


def fit_mask(mask: np.ndarray, size: tuple[int, int], fit: str = "pad") -> np.ndarray:
    """Carry a mask of object numbers through the geometry of ``fit_image`` (nearest neighbour).

    Args:
        mask: (H0, W0) uint8, object numbers; 0 is background and fills the padding.
        size: (H, W) in pixels.
        fit: as for ``fit_image``.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: for a mask of another type or shape, or another ``fit``.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"expected a mask of shape (H, W) and type uint8, got shape {mask.shape} "
                         f"and type {mask.dtype}")
    placement = place(mask.shape, size, fit)
    resized = Image.fromarray(mask).resize(placement.resized[::-1], Image.Resampling.NEAREST)
    return np.array(_in_frame(resized, placement, 0))


def place(original: tuple[int, int], size: tuple[int, int], fit: str = "pad") -> Placement:
    """The geometry of ``fit_image`` alone, for a picture of ``original`` (H0, W0) pixels."""
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}; expected one of {', '.join(FITS)}")
    if min(*original, *size) < 1:
        raise ValueError(f"cannot fit {original} pixels into {size}: every side must be at least 1")
    resized = tuple(size) if fit == "stretch" else _scaled(original, size, cover=fit == "crop")
    # Rounding as in the usual centre crop, so that recipes of papers can be followed exactly.
    top, left = (-round((inner - outer) / 2)
                 for inner, outer in zip(resized, size, strict=True))
    return Placement(tuple(original), resized, (top, left), tuple(size))


def _scaled(original: tuple[int, int], size: tuple[int, int], cover: bool) -> tuple[int, int]:
    """Size in the picture's aspect ratio that covers the frame, or fits inside it."""
    (height0, width0), (height, width) = original, size
    whole = int if cover else round  # int is the usual recipe of resize and centre crop
    if (height * width0 >= width * height0) == cover:
        return height, max(1, whole(height * width0 / height0))
    return max(1, whole(width * height0 / width0)), width


def _in_frame(resized: Image.Image, placement: Placement, fill) -> Image.Image:
    frame = Image.new(resized.mode, placement.size[::-1], fill)
    frame.paste(resized, placement.offset[::-1])
    return frame
