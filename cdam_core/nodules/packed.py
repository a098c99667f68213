"""The compressed pixels of a DICOM slice, undone: one place for a visitor's files and for folders.

What arrives may be made to harm. So the size that a stream states is compared with the header's
before anything is decoded, the header's with a limit, and what comes out with both. Two decoders
are written in Python: run lengths, because pydicom's expands a segment 64-fold before it counts,
and JPEG Lossless (``jpeg_lossless``). JPEG and JPEG 2000 are Pillow's, JPEG-LS is CharLS by way of
pyjpegls.
"""

import io
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cdam_core.errors import BadScan
from cdam_core.nodules import jpeg_lossless
from cdam_core.nodules.jpeg_lossless import Undecodable, segments

try:
    import jpeg_ls
except ImportError:  # pyjpegls has no wheel for every version of Python
    jpeg_ls = None

MAX_PIXELS = 2048 * 2048
MAX_FRAGMENTS = 4096
MAX_TILES = 1024  # of JPEG 2000; and so on
MAX_PRECINCTS = 8192
MAX_LAYERS = 64
SLACK = 2**16  # bytes of headers and tables in a frame
ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
# May have changed pixels; the others never do.
LOSSY = frozenset(map(str, (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)))


class Coded(NamedTuple):
    """What a stream held.

    Attributes:
        values: (rows, cols) int32 as coded: bit patterns from 0 on, or numbers with signs.
        precision: bits of each.
        is_signed: which of the two.
    """

    values: np.ndarray
    precision: int
    is_signed: bool = False


def can_unpack(syntax: str) -> bool:
    """Whether the compression of a transfer syntax can be undone here."""
    return syntax in DECODERS and (jpeg_ls is not None or DECODERS[syntax] is not _jpeg_ls)


def unpack(pixels: memoryview, syntax: str, rows: int, cols: int, allocated: int) -> Coded:
    """The values of one encapsulated frame.

    Args:
        pixels: what follows the length of the element (7FE0,0010): items up to their delimiter.
        syntax: a transfer syntax that ``can_unpack`` affirms.
        rows, cols: what the header states.
        allocated: bits per pixel that the header states, 8 or 16.

    Raises:
        BadScan: "too-large"; "compressed" for lossy JPEG of 12 bits; "damaged" for anything else
            than such a frame of that size.
    """
    if rows * cols > MAX_PIXELS:
        raise BadScan("too-large", f"A compressed DICOM file states more than {MAX_PIXELS} pixels; "
                      "a CT slice has a quarter of a million.")  # fmt: skip
    try:
        frame = _frame(pixels)
        if len(frame) > 2 * rows * cols * allocated // 8 + SLACK:
            raise Undecodable("twice as large as without compression")
        coded = DECODERS[syntax](frame, rows, cols, allocated)
        if coded.values.shape != (rows, cols) or not 1 <= coded.precision <= allocated:
            raise Undecodable("another size")
    except BadScan:
        raise
    except Exception:  # decoders raise whatever the first broken part leads to
        raise BadScan("damaged", "The compressed pixels of a DICOM file are damaged, or are not "
                      "what its header states; expected one whole grey slice. Copy or export it "
                      "again, uncompressed.") from None  # fmt: skip
    return coded


def _frame(pixels: memoryview) -> bytes:
    """The fragments of the only frame, joined; DICOM PS3.5 A.4."""
    at, parts = 0, []
    while pixels[at : at + 4] != END:
        tag, length = struct.unpack_from("<4sI", pixels, at)
        at += 8
        if tag != ITEM or at + length > len(pixels) or len(parts) > MAX_FRAGMENTS:
            raise Undecodable("no fragments, or too many")
        parts.append(pixels[at : at + length])
        at += length
    return b"".join(parts[1:])  # the first item is the table of offsets


# ---- decoders ------------------------------------------------------------------------------------


def _run_lengths(frame: bytes, rows: int, cols: int, allocated: int) -> Coded:
    """DICOM PS3.5 Annex G: the high bytes, then the low ones, each as PackBits."""
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != allocated // 8 or sorted(offsets[:count]) != offsets[:count] or offsets[0] < 64:
        raise Undecodable("other segments")
    values = np.zeros(rows * cols, np.int32)
    for first, last in zip(offsets[:count], [*offsets[1:count], len(frame)], strict=True):
        plane = np.frombuffer(_runs(frame[first:last], rows * cols), np.uint8)
        values = values << 8 | plane
    return Coded(values.reshape(rows, cols), allocated)


def _runs(segment: bytes, size: int) -> bytearray:
    """PackBits, never more than ``size`` bytes and one run."""
    found, at = bytearray(), 0
    while len(found) < size:
        head = segment[at]
        if head < 128:
            part = segment[at + 1 : at + 2 + head]
            if len(part) <= head:
                raise Undecodable("a segment ends too early")
            found += part
            at += 2 + head
        else:
            if head > 128:
                found += segment[at + 1 : at + 2] * (257 - head)
            at += 2 if head > 128 else 1
    del found[size:]
    return found


def _lossless(frame: bytes, rows: int, cols: int, allocated: int) -> Coded:
    return Coded(*jpeg_lossless.decode(frame, rows, cols))


def _jpeg(frame: bytes, rows: int, cols: int, allocated: int) -> Coded:
    """Lossy JPEG, of 8 bits; Pillow knows no others."""
    precision = _stated(frame, (0xC0, 0xC1, 0xC2), rows, cols)
    if precision != 8:
        raise BadScan("compressed", f"A DICOM file holds lossy JPEG of {precision} bits, which "
                      "cannot be undone here. Export it uncompressed.")  # fmt: skip
    with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
        if image.size != (cols, rows) or image.mode != "L":
            raise Undecodable("another size, or coloured")
        return Coded(np.asarray(image).astype(np.int32), 8)


def _stated(frame: bytes, markers: tuple[int, ...], rows: int, cols: int) -> int:
    """The precision that the frame header of a JPEG or JPEG-LS stream of that size states."""
    found = []
    for marker, _, segment in segments(frame):
        if marker in markers:
            found.append(struct.unpack_from(">BHHB", segment))
        elif marker == 0xF8 and segment[:1] == b"\x04":
            raise Undecodable("another size in an extension of JPEG-LS")
        elif marker == jpeg_lossless.SOS:
            break
    if len(found) != 1 or found[0][1:] != (rows, cols, 1):
        raise Undecodable("another size, or not grey")
    return found[0][0]


def _jpeg_ls(frame: bytes, rows: int, cols: int, allocated: int) -> Coded:
    """ITU-T T.87; the frame header is compared before CharLS makes room for a picture."""
    precision = _stated(frame, (0xF7,), rows, cols)
    # Where no marker ends the bits, CharLS counts two billion missing ones, for five seconds.
    decoded, _ = jpeg_ls.decode_pixel_data(frame + b"\xff\xd9")
    values = np.frombuffer(decoded, "<u2" if precision > 8 else "u1").reshape(rows, cols)
    return Coded(values.astype(np.int32), precision)


def _jpeg_2000(frame: bytes, rows: int, cols: int, allocated: int) -> Coded:
    """ITU-T T.800; the size segment is compared before OpenJPEG makes room for a picture."""
    start, _, _, *sizes, count, depth, across, down = struct.unpack_from(">IHH8IHBBB", frame)
    right, low, left, top, wide, high, _, _ = sizes
    size = (low - top, right - left)
    if start != 0xFF4FFF51 or size != (rows, cols) or (count, across, down) != (1, 1, 1):
        raise Undecodable("no codestream of that size")
    if -(-right // wide) * -(-low // high) > MAX_TILES:
        raise Undecodable("too many tiles")
    for segment in _codings(frame):
        _check_coding(segment, rows, cols)
    precision, is_signed = (depth & 127) + 1, depth > 127
    if precision > 16:
        raise Undecodable("more than 16 bits")
    with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as image:
        if image.size != (cols, rows):
            raise Undecodable("another size")
        values = np.asarray(image).astype(np.int32)
    # Pillow gives what it decodes the full range of 8 or 16 bits, from 0 on.
    values >>= (16 if precision > 8 else 8) - precision
    return Coded(values - (2 ** (precision - 1) if is_signed else 0), precision, is_signed)


def _codings(frame: bytes) -> Iterator[bytes]:
    """What the segments COD and COC of the main header and of every tile say, as COD says it."""
    at, part = 2, 0
    while at + 4 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker < 0xFF00:
            raise Undecodable("no marker where one belongs")
        if marker == 0xFF90:  # a part of a tile begins
            part = at + struct.unpack_from(">I", frame, at + 6)[0]
        elif marker == 0xFF93:  # its data, which has no length of its own
            if part <= at:
                return
            at = part
            continue
        elif marker == 0xFFD9:
            return
        if length < 2:
            raise Undecodable("a segment without a length")
        segment = frame[at + 4 : at + 2 + length]
        if marker == 0xFF52:
            yield segment
        elif marker == 0xFF53:
            yield segment[1:2] + bytes(4) + segment[2:]
        at += 2 + length


def _check_coding(segment: bytes, rows: int, cols: int) -> None:
    """OpenJPEG makes room for every precinct, of which a header of 60 bytes can state millions."""
    (layers,), levels = struct.unpack_from(">H", segment, 2), segment[5]
    sizes = segment[10:] if segment[0] & 1 else b"\xff" * (levels + 1)
    if len(sizes) != levels + 1 or layers > MAX_LAYERS:
        raise Undecodable("too many layers, or sizes that are missing")
    count = 0
    for fewer, size in zip(range(levels, -1, -1), sizes, strict=True):
        wide, high = 1 << fewer + (size & 15), 1 << fewer + (size >> 4)
        count += -(-cols // wide) * -(-rows // high)
    if count > MAX_PRECINCTS:
        raise Undecodable("too many precincts")


DECODERS: dict[str, Callable[[bytes, int, int, int], Coded]] = {
    str(RLELossless): _run_lengths,
    str(JPEGBaseline8Bit): _jpeg,
    str(JPEGExtended12Bit): _jpeg,
    str(JPEGLossless): _lossless,
    str(JPEGLosslessSV1): _lossless,
    str(JPEGLSLossless): _jpeg_ls,
    str(JPEGLSNearLossless): _jpeg_ls,
    str(JPEG2000Lossless): _jpeg_2000,
    str(JPEG2000): _jpeg_2000,
}
