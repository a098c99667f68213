"""Compressed CT slices: exact values, independent encoders, and files that are made to harm."""

import base64
import io
import struct
import time
import tracemalloc

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
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
from cdam_core.nodules import jpeg_lossless, load_nodules, packed
from cdam_core.nodules.dicom import DicomArchive
from cdam_core.nodules.own import open_own
from cdam_core.nodules.slices import is_readable, read_slice
from tests.scans import slice_dataset, write_series

NODULE = load_nodules()[0]
ROW, COL = np.mgrid[:16, :20]
# 16 × 20 samples of 12 bits with steps and smooth parts, and of the same times 16.
ROUGH = (ROW * 37 + COL * 91 + (ROW * COL) ** 2) % 4096
ROUGH[4:9, 5:12] = (100 + ROW + COL)[4:9, 5:12]
SMOOTH = (ROW + COL) * 8 + (ROW > 8) * 200
# The same, written by libjpeg-turbo (predictor 1, 12 bits; predictor 6, 16 bits) and by OpenJPEG
# (12 bits unsigned; 16 bits signed, 300 less).
TURBO_1 = "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALDAAQABQBAREA/8QAHAAAAQUBAQEAAAAAAAAAAAAACwcICQoMAQYE/9oACAEBAAEAAM/+ratq2ratq2ratq2ratq2ratq2ratq2rfpVcV5YFiWRZloWpbFuXBcl0XZeF6XxfnAelV9Z1vXdf3DuPcu5907r3bu/eO896733zvv9Ksi7OIc06x3z0HxP0kGkYkqk8lOlglywwcy01HpVrcW6t5dWzve973ayz14gqxXZLs12i7VfpV0dM9iQqlx3ve97aZtmW/rmF2LHJ3xr/HpV/ePIfKuPk73ve90dt9/ITEbyW5P/KjFj/SuMfdKhNkLw73ve9WEpIWGy85ko1ZnDTuHpXNyNzN2Gw7ne973uj1zTRxs82Aa0TYRoM16V1kp0+FpK5pfWyO5Rot5mXTgGeh0IgOXTECKRZetuoH+ld/MPZPuL338lMVvMb5v4+OCO0q4h4XNrr6O1T6AaM70r1JxrXF6ok5ljTQGdx0MgVXUkDOaFdR2A9gPxvmnY9K+uwXcrIl5Wo0WerBlB6tYXQqqlQ1IU6ucu3WQLylXpZBLK16gn1mSzzwO/UhDk6csG6EvcsXXgMmiYkO7Ax/SyP2pyF5bfOfaMcScPWqvRzLfPvd/KD5o7QLhnhk2yv9LJ5b+JgZoHQiCBdeRWJaXIdizySRlQArp2BzNVtjr4P/2Q=="  # noqa: E501
TURBO_6 = "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAQABQBAREA/8QAHQAAAQUBAQEBAAAAAAAAAAAADwoLDA0OBAkHEP/aAAgBAQAGAAD87YO2Dtg7YO2Dtg7YO2Dtg7YO2Dtg7YO2Dtg7YO2Dtg7YKUPTj1g9mPeBRwqgWMLoHDhzgdmHmB84kEEkYlEEs4mME2YUoerHugp4WoOLDsg98SJCUsTFCc8WGhZrFsIXHxeCF+saLQ0zwpQ9eFIC1hzAeeJEBK2JsBYPFngW6xdoF+8aQA1GxrgDZvA5Px+rqUPZhVg4cPGGQt89v5fXyB/iBcfr42FwE/6uY2PgOLcf9+HlyfYFg4Uoe3CyB0YfoGmfo6Ojo6OgppA3tx/vkiYKPAW7imH4IupQ92FyDvxJEGWfo6Ojo6OgypBD2CboZh3o8+v1z5ISfhSh78OAD2xKgGGfo6Ojo6Og7pGP983fmhYi36/izANFsKUFDDjg/cS/COz9HR0dHR0AlHLgxU17BuB6+4GNS4bu4UoKOHOCRMTWAPi4Rrx07mhQDZvky8IG5DEKg3O9BIGLmg1hwP8AfKkwpQUsOqEl4naFqsXogJffYCG7WMPnlV4pE86LDshb/GrkCAsFZQrXdSgp4dwJSxYIFu8aAA1OxtQDAu5PQM8rm7A+8WcBp9gev+Ud6y/eWFKCph4wlnFjYXMwIu/W3G58CPMZavM5wyXzJjQuG3uCe4GiYAZeHzdSgq4eoJgxZkF3caXg2MwPt8m3BeIIAuuguLjXsBHmDCwIt7mg3AwpQVsPiEz4tJC92NRobV4Iehk9elj2PecIaTY3qgV3iGnhDX2AhkPdSgr4fgJuxbAAf99XgDlXJGAWfg2gAB17iA2HwS0CnVwKf6T4I0Aadj//2Q=="  # noqa: E501
OPEN_12 = "/0//UQApAAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABCwEB/1IADAAAAAEAAQQEAAH/XAAHQGBoaHD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAACAAAH/k9/hXBIuF1avGC6HzrJGugPVPPHhg4eIGxedNTZ9F9HQuH2m0c2fLbEsyTMVoBWS9NVVUp5uq6qqv0GlI6WlJznPQPajEY6A9S3n0C9M4/S3pcXwN8oQTEpOc8APkCQH2hpA5AaXRkqJk5hEIEABkBfxv//Z"  # noqa: E501
OPEN_16 = "/0//UQApAAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABjwEB/1IADAAAAAEAAQQEAAH/XAAHQICIiJD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAB1AAH/k8A/NKARHcEymUEasHvC6w+Mr8fbh9nEm45BXGuMpQnlzFO/n1nVSyZCzLjTK01U0QnpSczPSTDyDeUbV51BFTllOc5zneIS0fu71qUnP8AA+QJAB9oaQOQGl0ZKiZOYRCBAAZAX8b//2Q=="  # noqa: E501


def written(dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def with_frame(frame: bytes, syntax: UID, shape=(16, 20), **headers) -> bytes:
    """A slice whose pixels are one encapsulated frame; 1 less than nothing is stored as −1024."""
    dataset = slice_dataset(NODULE, 0.0, np.zeros(shape, np.int16), **headers)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


def coded(frame: bytes, syntax: UID, shape=(16, 20), allocated=16) -> packed.Coded:
    pixels = encapsulate([frame]) + packed.END + bytes(4)
    return packed.unpack(memoryview(pixels), str(syntax), *shape, allocated)


def reason_of(content: bytes) -> str:
    with pytest.raises(BadScan) as caught:
        read_slice(content)
    return caught.value.reason


# ---- exact values --------------------------------------------------------------------------------


def encoded(samples, predictor=1, precision=16, shift=0, interval=0) -> bytes:
    """JPEG Lossless, one sample at a time, straight from T.81 Annexes C, F and H."""
    rows, cols = samples.shape
    bits, restarts = "", []
    for index in range(rows * cols):
        row, col = divmod(index, cols)
        fresh = interval and index % interval == 0
        if fresh and index:
            restarts.append(bits)
            bits = ""
        top = (interval and row % (interval // cols) == 0) or row == 0
        a, b, c = (int(samples[r, k]) >> shift for r, k in
                   ((row, col - 1), (row - 1, col), (row - 1, col - 1)))
        if index == 0 or fresh:
            expected = 2 ** (precision - shift - 1)
        elif top:
            expected = a
        elif col == 0:
            expected = b
        else:
            expected = (None, a, b, c, a + b - c, a + (b - c >> 1), b + (a - c >> 1),
                        a + b >> 1)[predictor]
        change = ((int(samples[row, col]) >> shift) - expected) % 2**16
        change = change - 2**16 if change > 2**15 else change
        size = abs(change).bit_length()
        code = f"{size:05b}" if size < 16 else "10000"  # 17 categories, each a code of 5 bits
        extra = change if change > 0 else change + 2**size - 1
        bits += code + (f"{extra:0{size}b}" if 0 < size < 16 else "")
    restarts.append(bits)
    data = b""
    for number, part in enumerate(restarts):
        part += "1" * (-len(part) % 8)
        data += int(part, 2).to_bytes(len(part) // 8, "big").replace(b"\xff", b"\xff\0")
        data += bytes((0xFF, 0xD0 + number % 8)) if number < len(restarts) - 1 else b""
    table = bytes(5 * [0])[:4] + bytes([17]) + bytes(11) + bytes(range(17))
    parts = [(0xC4, b"\0" + table), (0xC3, struct.pack(">BHHB", precision, rows, cols, 1)
                                     + b"\1\x11\0")]  # fmt: skip
    parts += [(0xDD, struct.pack(">H", interval))] if interval else []
    parts += [(0xDA, bytes((1, 1, 0, predictor, 0, shift)))]
    head = b"".join(struct.pack(">BBH", 0xFF, m, len(s) + 2) + s for m, s in parts)
    return b"\xff\xd8" + head + data + b"\xff\xd9"


@pytest.mark.parametrize("predictor", range(1, 8))
def test_jpeg_lossless_is_exact(predictor):
    rng = np.random.default_rng(predictor)
    for shape in ((16, 20), (17, 16), (16, 33)):
        noise = rng.integers(0, 2**16, shape)  # with differences of all 16 bits and a half range
        noise[0, :2] = (2**15, 0)
        for samples, precision, shift, restart in (
            (noise, 16, 0, 0), (noise >> 4, 12, 0, 1), (noise >> 4, 12, 3, 4), (noise, 16, 1, 2),
        ):  # fmt: skip
            content = encoded(samples, predictor, precision, shift, restart * shape[1])
            values, stated = jpeg_lossless.decode(content, *shape)
            assert stated == precision
            np.testing.assert_array_equal(values, samples >> shift << shift)


def test_a_code_across_a_boundary_of_the_lookup(monkeypatch):
    samples = np.random.default_rng(0).integers(0, 2**16, (16, 40))
    for chunk in (8, 61, 2**20):
        monkeypatch.setattr(jpeg_lossless, "CHUNK", chunk)
        values, _ = jpeg_lossless.decode(encoded(samples, 7), 16, 40)
        np.testing.assert_array_equal(values, samples)


def test_streams_of_other_encoders():
    for blob, samples, precision in ((TURBO_1, ROUGH, 12), (TURBO_6, ROUGH * 16, 16)):
        values, stated = jpeg_lossless.decode(base64.b64decode(blob), 16, 20)
        assert stated == precision
        np.testing.assert_array_equal(values, samples)
    for blob, samples, kind in ((OPEN_12, SMOOTH, (12, False)),
                                (OPEN_16, SMOOTH - 300, (16, True))):  # fmt: skip
        found = coded(base64.b64decode(blob), JPEG2000Lossless)
        assert (found.precision, found.is_signed) == kind
        np.testing.assert_array_equal(found.values, samples)


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jpeg_ls_lossless",
                                  "MR_small_jp2klossless"])  # fmt: skip
def test_one_picture_in_every_compression(name):
    """Files that travel with pydicom: signed 16-bit pixels, each by an encoder of its own."""
    def as_ct(file):
        dataset = pydicom.dcmread(get_testdata_file(f"{file}.dcm", download=False))
        dataset.Modality = "CT"
        return read_slice(written(dataset)).hu

    plain = as_ct("MR_small")
    assert np.ptp(plain) > 1000
    np.testing.assert_array_equal(as_ct(name), plain)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize(("signed", "stored"), [(0, 12), (0, 16), (1, 16), (1, 12)])
def test_signs_and_stored_bits(syntax, signed, stored):
    hu = (np.random.default_rng(3).integers(-900, 900, (40, 30))).astype(np.int16)
    intercept = 0 if signed else -1024
    pixels = hu.astype(np.int32) - intercept & 2**stored - 1
    headers = dict(BitsStored=stored, HighBit=stored - 1, PixelRepresentation=signed,
                   RescaleIntercept=intercept)
    plain = slice_dataset(NODULE, 0.0, hu, **headers)
    plain.PixelData = pixels.astype("<u2").tobytes()
    np.testing.assert_array_equal(read_slice(written(plain)).hu, hu)
    plain.compress(syntax, generate_instance_uid=False)
    found = read_slice(written(plain))
    np.testing.assert_array_equal(found.hu, hu)
    assert found.notes == ()


def test_a_lossless_jpeg_becomes_hu_and_a_lossy_one_says_so():
    content = with_frame(base64.b64decode(TURBO_1), JPEGLosslessSV1, BitsStored=12, HighBit=11,
                         PixelRepresentation=0)
    scan = open_own([content])
    np.testing.assert_array_equal(scan.values[0], ROUGH - 1024)
    assert not any("detail" in note for note in scan.notes)
    grey, buffer = (SMOOTH // 3).astype(np.uint8), io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=98)
    eight = dict(BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    scan = open_own([with_frame(buffer.getvalue(), JPEGBaseline8Bit, **eight)])
    assert np.abs(scan.values[0].astype(int) + 1024 - grey).max() <= 4
    assert "compressed in a way that may lose detail" in scan.notes


# ---- both readers --------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_folder_is_read_by_the_same_decoder(tmp_path, monkeypatch, syntax):
    nodule = next(n for n in load_nodules() if n.scan.slice_thickness >= 2.5)
    paths = write_series(tmp_path, nodule, flat=True)
    plain = DicomArchive(tmp_path, [nodule]).crop(nodule)
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(folder / path.name)
    asked = []
    monkeypatch.setitem(packed.DECODERS, str(syntax), lambda *given, decoder=packed.DECODERS[
        str(syntax)]: asked.append(syntax) or decoder(*given))  # fmt: skip
    np.testing.assert_array_equal(DicomArchive(folder, [nodule]).crop(nodule), plain)
    assert asked
    open_own([(folder / paths[0].name).read_bytes()])
    assert len(asked) > 1


def test_without_the_decoder_of_jpeg_ls_it_is_said(monkeypatch):
    dataset = slice_dataset(NODULE, 0.0, np.zeros((32, 32), np.int16))
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    content = written(dataset)
    assert read_slice(content)
    monkeypatch.setattr(packed, "jpeg_ls", None)
    assert not is_readable(str(JPEGLSLossless))
    assert is_readable(str(RLELossless))
    assert reason_of(content) == "compressed"


# ---- files that are made to harm -----------------------------------------------------------------

GOOD = {
    RLELossless: None, JPEGLSLossless: None, JPEGLossless: base64.b64decode(TURBO_6),
    JPEG2000Lossless: base64.b64decode(OPEN_12),
}  # fmt: skip


def frame_of(syntax) -> bytes:
    if GOOD[syntax] is not None:
        return GOOD[syntax]
    dataset = slice_dataset(NODULE, 0.0, ROUGH.astype(np.int16))
    dataset.compress(syntax, generate_instance_uid=False)
    return pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)


@pytest.mark.parametrize("syntax", GOOD, ids=lambda s: s.name)
def test_another_size_than_stated_is_refused_before_decoding(syntax, monkeypatch):
    frame = frame_of(syntax)
    assert coded(frame, syntax).values.shape == (16, 20)
    for shape in ((17, 20), (16, 4000), (2048, 2048)):
        assert reason_of(with_frame(frame, syntax, shape)) == "damaged"
    assert reason_of(with_frame(frame, syntax, Rows=2048, Columns=2049)) == "too-large"
    monkeypatch.setattr(packed, "DECODERS", dict.fromkeys(
        packed.DECODERS, lambda *_: pytest.fail("it was decoded")))  # fmt: skip
    assert reason_of(with_frame(frame, syntax, Rows=2048, Columns=2049)) == "too-large"
    assert reason_of(with_frame(frame + bytes(2**17), syntax)) == "damaged"


@pytest.mark.parametrize("syntax", GOOD, ids=lambda s: s.name)
def test_every_cut_is_refused_at_once(syntax):
    """At once, too: CharLS alone would count for seconds after some of these cuts."""
    frame, start = frame_of(syntax), time.process_time()
    for end in range(16, int(0.9 * len(frame)), 7):
        if syntax == JPEG2000Lossless and end > 145:
            continue  # the stream may end anywhere after its first packets, by design
        with pytest.raises(BadScan) as caught:
            coded(frame[:end] + b"\0" * (end % 2), syntax)
        assert caught.value.reason == "damaged"
    assert time.process_time() - start < 4
    content = with_frame(frame, syntax)
    first = content.index(frame[:40])
    for end in range(first - 20, len(content) - 8, 9):
        assert reason_of(content[:end]) in ("damaged", "truncated")


def test_run_lengths_that_unpack_to_more_than_stated_take_no_memory():
    """Two million runs of 128 bytes: 256 MB if they were unpacked before they are counted."""
    runs = b"\x81\0" * 2_000_000
    frame = struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13) + runs + runs
    shape = (2048, 1024)
    tracemalloc.start()
    found = coded(frame, RLELossless, shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found.values.any()
    assert peak < 80e6


def test_headers_that_ask_for_endless_parts_are_refused():
    frame = base64.b64decode(OPEN_12)
    coding = bytes.fromhex("ff52000c00000001000104040001")
    assert coding in frame
    small = bytes.fromhex("ff52000e01000001000104040001") + b"\x11\x11"
    same = coded(frame.replace(coding, small[:-2] + b"\xff\xff"), JPEG2000Lossless)
    np.testing.assert_array_equal(same.values, SMOOTH)
    start = frame.replace(struct.pack(">I", 20), struct.pack(">I", 2048)).replace(
        struct.pack(">I", 16), struct.pack(">I", 2048))  # fmt: skip
    for changed in (start.replace(coding, small),  # two by two pixels in a precinct
                    frame.replace(coding, coding[:5] + b"\0\xff\xff" + coding[8:]),
                    frame.replace(coding, small[:-1]),
                    start[:24] + struct.pack(">II", 1, 1) + start[32:]):  # tiles of one pixel
        shape = (2048, 2048) if changed[8:12] == struct.pack(">I", 2048) else (16, 20)
        with pytest.raises(BadScan):
            coded(changed, JPEG2000Lossless, shape)
    with pytest.raises(packed.Undecodable, match="precincts"):
        packed._check_coding(small[4:], 2048, 2048)


def test_numbers_that_the_header_describes_otherwise_are_refused():
    twelve = dict(BitsStored=12, HighBit=11, PixelRepresentation=0)
    signed = base64.b64decode(OPEN_16)
    assert reason_of(with_frame(signed, JPEG2000Lossless, PixelRepresentation=0)) == "wrong-type"
    np.testing.assert_array_equal(
        read_slice(with_frame(signed, JPEG2000Lossless, RescaleIntercept=0)).hu, SMOOTH - 300)
    narrow = base64.b64decode(OPEN_12)  # bit patterns of 12 bits cannot tell a sign at 16
    assert reason_of(with_frame(narrow, JPEG2000Lossless)) == "wrong-type"
    assert read_slice(with_frame(narrow, JPEG2000Lossless, **twelve)).hu.shape == (16, 20)
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH.astype(np.uint8)).save(buffer, "JPEG")
    assert reason_of(with_frame(buffer.getvalue(), JPEGBaseline8Bit, **twelve)) == "wrong-type"


def test_lossy_jpeg_of_12_bits_is_named():
    dataset = pydicom.dcmread(get_testdata_file("JPGExtended.dcm", download=False))
    dataset.Modality = "CT"
    assert dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    assert reason_of(written(dataset)) == "compressed"


def test_jpeg_that_is_not_grey_or_not_of_this_process_is_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(buffer, "JPEG")
    eight = dict(BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    for syntax in (JPEGBaseline8Bit, JPEGLossless, JPEGLSNearLossless, JPEG2000Lossless):
        assert reason_of(with_frame(buffer.getvalue(), syntax, **eight)) == "damaged"
    for change in ((0xDA, 3, 0), (0xDA, 3, 8), (0xDA, 5, 12), (0xDA, 2, 0x30), (0xC3, 0, 17)):
        content = bytearray(base64.b64decode(TURBO_1))
        marker, place, value = change
        content[content.index(bytes((0xFF, marker))) + 4 + place] = value
        with pytest.raises(BadScan):
            coded(bytes(content), JPEGLossless)


def test_a_series_of_compressed_slices_stops_before_it_is_too_large():
    empty = np.zeros((2048, 2048), np.int16)
    dataset = slice_dataset(NODULE, 0.0, empty)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    content = written(dataset)
    assert len(content) < 10_000
    with pytest.raises(BadScan) as caught:
        open_own([content] * 40)
    assert caught.value.reason == "too-large"
