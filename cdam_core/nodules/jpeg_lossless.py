"""JPEG Lossless (ITU-T T.81, process 14): the compression of most archives of CT, undone exactly.

Written here because the packages that decode it are under the GPL or take a whole imaging library
along, and because memory cannot be damaged by a file that numpy reads. Grey slices of 2 to 16 bits,
all seven predictors, point transform and restart intervals; not hierarchical, not arithmetic.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SOF3, DHT, SOI, SOS, DRI = 0xC3, 0xC4, 0xD8, 0xDA, 0xDD
LONGEST = 4  # bytes of a code and its difference
CHUNK = 2**20  # bits whose codes are looked up at a time
NEVER = 2**30  # a step beyond every file: these bits are no code


class Undecodable(ValueError):
    """The bytes are no picture of this kind, or not the whole of one."""


@dataclass(frozen=True)
class _Header:
    """What the segments before the entropy-coded bits say.

    Attributes:
        rows, cols, precision: of the frame; bits per sample.
        predictor: 1 to 7, T.81 Table H.1.
        shift: the point transform: low bits that were left out.
        interval: samples between restarts; 0: none.
        lengths: (65536,) bits of the code that 16 bits begin with; 0: none.
        categories: (65536,) its meaning: how many bits the difference has.
        start: where the entropy-coded bits begin.
    """

    rows: int
    cols: int
    precision: int
    predictor: int
    shift: int
    interval: int
    lengths: np.ndarray
    categories: np.ndarray
    start: int


def decode(content: bytes, rows: int, cols: int) -> tuple[np.ndarray, int]:
    """The samples of a JPEG Lossless file of one component.

    Args:
        content: the file.
        rows, cols: what it has to hold; nothing larger is decoded.

    Returns:
        (rows, cols) int32 from 0 to 2 ** precision − 1, and the precision in bits.

    Raises:
        Undecodable: for anything else than such a file of that size.
    """
    header = _header(content)
    if (header.rows, header.cols) != (rows, cols):
        raise Undecodable("another size")
    per_part = header.interval or rows * cols
    if per_part % cols:
        raise Undecodable("restarts within a row")
    parts, samples = _parts(content, header.start), np.empty((rows, cols), np.int32)
    for number, top in enumerate(range(0, rows, per_part // cols)):
        block = samples[top : top + per_part // cols]
        if number >= len(parts):
            raise Undecodable("ends too early")
        differences = _differences(parts[number], block.size, header).reshape(block.shape)
        block[:] = _predicted(differences, header)
    return samples << header.shift, header.precision


# ---- segments ------------------------------------------------------------------------------------


def _header(content: bytes) -> _Header:
    """T.81 Annex B."""
    frame, tables, interval = None, {}, 0
    for marker, at, segment in segments(content):
        if marker == SOF3:
            precision, rows, cols, count = struct.unpack_from(">BHHB", segment)
            if count != 1 or not 2 <= precision <= 16 or not rows * cols:
                raise Undecodable("not one grey component")
            frame = (rows, cols, precision)
        elif 0xC0 <= marker <= 0xCF and marker != DHT:
            raise Undecodable("another process")
        elif marker == DHT:
            tables |= _tables(segment)
        elif marker == DRI:
            interval, = struct.unpack(">H", segment)
        elif marker == SOS:
            count, _, table, predictor, _, shift = struct.unpack(">BBBBBB", segment)
            shift &= 15
            if frame is None or count != 1 or not 1 <= predictor <= 7 or shift >= frame[2]:
                raise Undecodable("no such scan")
            if table >> 4 not in tables:
                raise Undecodable("no table of codes")
            return _Header(*frame, predictor, shift, interval, *tables[table >> 4], at)
    raise Undecodable("no scan")


def segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(marker, where its segment ends, the segment) of everything before the end of the image."""
    if content[:2] != bytes((0xFF, SOI)):
        raise Undecodable("no JPEG")
    at = 2
    while at + 4 <= len(content):
        marker = content[at + 1]
        if content[at] != 0xFF or marker in (0x00, 0xFF):
            raise Undecodable("no marker where one belongs")
        length, = struct.unpack_from(">H", content, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(content):
            raise Undecodable("a segment ends too early")
        yield marker, end, content[at + 4 : end]
        at = end


def _tables(segment: bytes) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Number -> (code lengths, categories) by the 16 bits that a code begins; T.81 Annex C."""
    found, at = {}, 0
    while at + 17 <= len(segment):
        counts, first = segment[at + 1 : at + 17], at + 17
        values = segment[first : first + sum(counts)]
        lengths, categories = np.zeros(2**16, np.int32), np.zeros(2**16, np.int32)
        code = used = 0
        for bits, count in enumerate(counts, 1):
            width = 2 ** (16 - bits)
            for value in values[used : used + count]:
                if value > 16 or code + width > 2**16:
                    raise Undecodable("impossible codes")
                lengths[code : code + width], categories[code : code + width] = bits, value
                code += width
            used += count
        if used != len(values):
            raise Undecodable("a table ends too early")
        found[segment[at] & 15] = (lengths, categories)
        at = first + used
    return found


def _parts(content: bytes, start: int) -> list[bytes]:
    """The entropy-coded bytes between restarts, stuffing removed, up to the next marker."""
    data = np.frombuffer(content, np.uint8)[start:]
    after = np.flatnonzero(data[:-1] == 0xFF) + 1
    after = after[data[after] != 0]  # FF 00 is a byte of data
    parts, begin = [], 0
    for at in after.tolist():
        parts.append(data[begin : at - 1].tobytes().replace(b"\xff\x00", b"\xff"))
        begin = at + 1
        if not 0xD0 <= data[at] <= 0xD7:
            return parts
    return [*parts, data[begin:].tobytes().replace(b"\xff\x00", b"\xff")]


# ---- samples -------------------------------------------------------------------------------------


def _differences(packed: bytes, count: int, header: _Header) -> np.ndarray:
    """(count,) int32 out of Huffman codes; T.81 Annex H.1.2.2.

    Which bits a code begins at, only the code before tells. So every bit is looked up as if one
    began there, all at once, and what is left for a loop is to hop from code to code.
    """
    packed = packed[: LONGEST * count]
    total = 8 * len(packed)
    data = np.frombuffer(packed + bytes(4), np.uint8).astype(np.uint32)
    words = data[:-3] << 24 | data[1:-2] << 16 | data[2:-1] << 8 | data[3:]  # 32 bits from each
    found, left, at = [], count, 0
    while left:
        if at >= total:
            raise Undecodable("ends too early, or holds bits that are no code")
        first, last = at, min(at + CHUNK, total)
        steps, starts = _steps(words, first, last, header).tolist(), []
        while at < last and len(starts) < left:
            starts.append(at)
            at += steps[at - first]
        found.append(np.array(starts))
        left -= len(starts)
    return _values(words, np.concatenate(found), total, header)


def _values(words: np.ndarray, places: np.ndarray, total: int, header: _Header) -> np.ndarray:
    """The differences whose codes begin at these bits, of ``total`` in all; T.81 F.1.2.1, H.2."""
    codes = _window(words, places)
    bits = header.categories[codes]
    ends = places + header.lengths[codes] + np.where(bits == 16, 0, bits)
    if not header.lengths[codes].all() or ends.max(initial=0) > total:
        raise Undecodable("ends too early, or holds bits that are no code")
    extra = _window(words, places + header.lengths[codes]) >> (16 - bits)
    negative = extra < 1 << np.maximum(bits - 1, 0)
    values = np.where(negative, extra - (1 << bits) + 1, extra)
    return np.where(bits == 16, 2**15, np.where(bits == 0, 0, values)).astype(np.int32)


def _steps(words: np.ndarray, first: int, last: int, header: _Header) -> np.ndarray:
    """How far the next code would be from a code that begins at each of these bits."""
    codes = _window(words, np.arange(first, last))
    lengths, bits = header.lengths[codes], header.categories[codes]
    return np.where(lengths == 0, NEVER, lengths + np.where(bits == 16, 0, bits))


def _window(words: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The 16 bits from each place on; zeros beyond the end."""
    inside = np.minimum(places >> 3, len(words) - 1)
    return (words[inside] >> (16 - (places & 7)).astype(np.uint32) & 0xFFFF).astype(np.int32)


def _predicted(differences: np.ndarray, header: _Header) -> np.ndarray:
    """(rows, cols) samples out of differences from their neighbours; T.81 Annex H.1.1, H.2.

    The first row follows its left neighbours, the first column those above, from half of the range
    on; all else goes by diagonals, whose samples do not depend on each other.
    """
    rows, cols = differences.shape
    samples = np.empty((rows, cols), np.int32)
    samples[0] = np.cumsum(differences[0]) + (1 << (header.precision - header.shift - 1)) & 0xFFFF
    samples[:, 0] = np.cumsum(differences[:, 0]) + samples[0, 0] - differences[0, 0] & 0xFFFF
    flat, changes, across = samples.reshape(-1), differences.reshape(-1), cols - 1
    for diagonal in range(2, rows + cols - 1):
        top, low = max(1, diagonal - cols + 1), min(rows - 1, diagonal - 1)
        if top > low:
            continue
        first, last = top * across + diagonal, low * across + diagonal + 1
        here, left = slice(first, last, across), flat[first - 1 : last - 1 : across]
        above = flat[first - cols : last - cols : across]
        corner = flat[first - cols - 1 : last - cols - 1 : across]
        flat[here] = _prediction(header.predictor, left, above, corner) + changes[here] & 0xFFFF
    return samples


def _prediction(kind: int, left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """T.81 Table H.1."""
    if kind == 1:
        return left
    if kind == 2:
        return above
    if kind == 3:
        return corner
    if kind == 4:
        return left + above - corner
    if kind == 5:
        return left + (above - corner >> 1)
    if kind == 6:
        return above + (left - corner >> 1)
    return left + above >> 1
