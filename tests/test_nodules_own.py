"""A visitor's own CT: what is opened, what is refused, and that nobody's name gets anywhere."""

import io
import json
import logging
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pypdfium2 as pdfium
import pytest
from PIL import Image
from pydicom import dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core.errors import BadScan
from cdam_core.nodules import load_nodules, slices
from cdam_core.nodules.crops import AXIS_MM, CENTRAL, MIDDLE, WINDOW_HU
from cdam_core.nodules.own import Place, open_own, reaches_beyond, take_volume
from pages import _nodules_case, _nodules_files, _nodules_maps, _nodules_own, _state
from tests.scans import slice_dataset
from tests.test_nodules_page import every, text_of
from tests.test_pages import FOLDER

NODULE = load_nodules()[0]
PHI = {"PatientName": "Jones^Mary", "PatientID": "PID-4711", "PatientBirthDate": "19510203",
       "StudyDate": "20240506", "AccessionNumber": "ACC-0815", "InstitutionName": "St Elsewhere",
       "ReferringPhysicianName": "House^Greg", "StudyDescription": "Thorax of Mary",
       "SeriesDescription": "for Jones", "OtherPatientIDs": "OTHER-99"}  # fmt: skip
SECRETS = ("Jones", "Mary", "PID-4711", "19510203", "20240506", "ACC-0815", "Elsewhere", "House",
           "Thorax", "OTHER-99", "1.3.6.1.4.1.14519", "SECRET")  # fmt: skip


def ball(rows=128, spacing=0.7, middle=(64, 64), radius=6.0):
    """(rows, rows) HU: lung with a round nodule of ``radius`` mm."""
    row, col = np.mgrid[:rows, :rows]
    away = np.hypot(row - middle[0], col - middle[1]) * spacing
    return np.where(away < radius, 40, -850).astype(np.int16)


def dicom(hu=None, z=0.0, syntax=None, **headers) -> bytes:
    """The bytes of one slice, full of things that name somebody."""
    hu = ball() if hu is None else hu
    values = {"PixelSpacing": [0.7, 0.7]} | PHI | headers
    dataset = slice_dataset(NODULE, z, hu, **values)
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # some values are wrong on purpose
        warnings.simplefilter("ignore")
        if syntax is None:
            dcmwrite(buffer, dataset, enforce_file_format=True)
        else:
            dcmwrite(buffer, dataset, implicit_vr=syntax == ImplicitVRLittleEndian,
                     little_endian=syntax != ExplicitVRBigEndian, force_encoding=True)
    return buffer.getvalue()


def png(grey) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


# ---- what is opened ------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_uncompressed_way_of_writing_gives_the_same_hu(syntax):
    scan = open_own([dicom(syntax=syntax)])
    np.testing.assert_array_equal(scan.values[0], ball())
    assert scan.is_hu
    assert scan.spacing == (0.7, 0.7)
    assert scan.notes == ()


def test_rescale_window_and_stored_bits_are_read():
    stored = (ball() + 1024).astype(np.uint16) | 0xF000  # high bits that do not count
    scan = open_own([dicom(PixelData=stored.tobytes(), BitsStored=12, HighBit=11,
                           PixelRepresentation=0, WindowCenter=[40, 50], WindowWidth=[400, 1])])
    np.testing.assert_array_equal(scan.values[0], ball())
    assert scan.window == (-160, 240)
    twice = open_own([dicom(RescaleSlope=2, RescaleIntercept=-2048 - 1000)])
    np.testing.assert_array_equal(twice.values[0], (2 * ball().astype(int) - 1000).clip(-1024))


@pytest.mark.parametrize("width", [0, -5, 1e9])
def test_a_window_without_width_is_passed_over(width):
    assert open_own([dicom(WindowCenter=40, WindowWidth=width)]).window is None


def test_an_inverted_slice_is_turned_as_viewers_show_it():
    stored = 4095 - (ball() + 1024)
    scan = open_own([dicom(PixelData=stored.astype("<u2").tobytes(), BitsStored=12, HighBit=11,
                           PixelRepresentation=0, PhotometricInterpretation="MONOCHROME1")])
    np.testing.assert_array_equal(scan.values[0], ball())
    assert "MONOCHROME1" in scan.notes[0]


def test_a_series_is_sorted_by_position_whatever_the_order_of_files():
    heights = [0.0, 2.5, 5.0, 7.5]
    files = [dicom(ball(radius=3 + k), z) for k, z in enumerate(heights)]
    scan = open_own([files[k] for k in (2, 0, 3, 1)])
    np.testing.assert_array_equal(scan.heights, heights)
    for k in range(4):
        np.testing.assert_array_equal(scan.values[k], ball(radius=3 + k))


def test_a_picture_becomes_hu_by_the_stated_window():
    grey = np.arange(128 * 128, dtype=np.uint8).reshape(128, 128)
    scan = open_own([png(grey)])
    assert not scan.is_hu
    assert scan.spacing is None
    np.testing.assert_allclose(scan.hu(0, (-1350, 150)), -1350 + grey / 255 * 1500.0, atol=1e-3)


# ---- the crop ------------------------------------------------------------------------------------


def test_the_crop_is_32_mm_around_the_place_whatever_the_spacing():
    for spacing in (0.5, 0.7, 1.4):
        hu = ball(128, spacing, (64, 60), radius=6.0)
        scan = open_own([dicom(hu, PixelSpacing=[spacing, spacing])])
        values, offsets = take_volume(scan, Place(0, 64.5, 60.5, (spacing, spacing)))
        assert values.shape == (1, 64, 64)
        assert offsets.tolist() == [0]
        inside = values[0] > -400
        places = np.argwhere(inside)
        np.testing.assert_allclose(places.mean(0), 31.5, atol=0.3)
        assert inside.sum() * 0.25 == pytest.approx(np.pi * 36, rel=0.12)


def test_a_series_is_cut_at_its_real_positions():
    heights = [-10.0, -4.0, 0.0, 5.0]  # uneven
    files = [dicom(np.full((128, 128), 100 * k - 500, np.int16), z)
             for k, z in enumerate(heights)]  # fmt: skip
    scan = open_own(files)
    values, offsets = take_volume(scan, Place(2, 64, 64, (0.7, 0.7)))
    assert values.shape == (64, 64, 64)
    assert offsets[CENTRAL] == 0
    expected = np.interp(offsets, heights, [-500, -400, -300, -200])
    there = (offsets >= -10) & (offsets <= 5)
    np.testing.assert_allclose(values[there, 32, 32], expected[there], atol=1e-2)
    assert (values[~there] == WINDOW_HU[0]).all()


def test_what_lies_beyond_the_slice_is_air_and_is_said():
    scan = open_own([dicom()])
    corner = Place(0, 0, 0, (0.7, 0.7))
    values, _ = take_volume(scan, corner)
    assert (values[0, AXIS_MM < -0.5] == WINDOW_HU[0]).all()
    assert reaches_beyond(scan, corner)
    assert not reaches_beyond(scan, Place(0, 64, 64, (0.7, 0.7)))


# ---- what is refused -----------------------------------------------------------------------------


def refused(*files) -> str:
    """The reason, after checking that the sentence names nobody."""
    with pytest.raises((BadScan, cdam.BadImage)) as caught:
        open_own(list(files))
    assert not any(secret in str(caught.value) for secret in SECRETS)
    return caught.value.reason


def deflated_bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    inside = packer.compress(bytes(200 * 2**20)) + packer.flush()
    plain = dicom(syntax=None)
    head = plain[: plain.index(b"\x08\x00")]
    uid = str(DeflatedExplicitVRLittleEndian).encode()
    meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(uid)) + uid
    return head[:132] + meta + inside


def test_deflated_and_unknown_files_are_refused_before_anything_is_parsed(monkeypatch):
    monkeypatch.setattr(slices.pydicom, "dcmread", lambda *_, **__: pytest.fail("it was parsed"))
    assert refused(deflated_bomb()) == "compressed"
    content = dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.2", 1)
    assert refused(content[:132]) != "compressed"
    assert refused(content) == "compressed"


@pytest.mark.parametrize(("headers", "reason"), [
    ({"Modality": "CR"}, "wrong-type"),
    ({"NumberOfFrames": 3}, "wrong-type"),
    ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "wrong-type"),
    ({"Rows": 60000, "Columns": 60000}, "too-large"),
    ({"Rows": 129}, "truncated"),
    ({"Rows": 0}, "wrong-type"),
    ({"BitsAllocated": 32}, "wrong-type"),
    ({"BitsStored": 17}, "wrong-type"),
    ({"RescaleSlope": "0"}, "damaged"),
    ({"PixelData": None}, "truncated"),
])  # fmt: skip
def test_unusable_headers_are_refused(headers, reason):
    assert refused(dicom(**headers)) == reason


def test_damaged_files_are_refused_in_one_sentence():
    good = dicom()
    assert refused(b"") in ("empty", "unreadable")
    assert refused() == "empty"
    assert refused(good[132:]) == "unreadable"  # no preamble
    assert refused(good[:-1000]) == "truncated"
    assert refused(bytes(21 * 2**20)) == "too-large"
    assert refused(*[good] * 41) == "too-large"
    assert refused(b"a text, renamed") == "unreadable"
    assert refused(good, png(np.zeros((64, 64), np.uint8))) == "unreadable"
    huge = slice_dataset(NODULE, 0.0, ball())
    huge.add_new(0x00091001, "OB", bytes(2**20))
    buffer = io.BytesIO()
    huge.save_as(buffer, enforce_file_format=True)
    assert refused(buffer.getvalue()) == "too-large"


def test_every_prefix_of_a_file_is_refused_not_a_crash():
    good = dicom()
    for end in [*range(0, 1500, 37), len(good) // 2]:
        assert refused(good[:end])


def test_files_that_are_not_one_series_are_refused():
    assert refused(dicom(z=0.0), dicom(z=0.0)) == "geometry"
    assert refused(dicom(), dicom(ball(64), z=1)) == "geometry"
    assert refused(dicom(), dicom(z=1, PixelSpacing=[0.6, 0.6])) == "geometry"
    assert refused(dicom(), dicom(z=1, ImagePositionPatient=None)) == "geometry"


def test_turned_slices_and_gaps_are_said():
    turned = open_own([dicom(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])])
    assert "upright" in " ".join(turned.notes)
    assert "slices are missing" in " ".join(
        open_own([dicom(z=z) for z in (0, 1, 2, 5)]).notes)
    assert open_own([dicom(PixelSpacing=None)]).spacing is None


# ---- nobody's name -------------------------------------------------------------------------------


def test_no_allowed_tag_can_name_anybody():
    words = ("Patient", "Name", "Date", "Time", "ID", "UID", "Physician", "Institution",
             "Description", "Accession", "Comments", "Station", "Address")  # fmt: skip
    harmless = ("ImagePositionPatient", "ImageOrientationPatient")
    for tag in slices.ALLOWED:
        assert tag in harmless or not any(word in tag for word in words)


def opened_with(files) -> AppTest:
    at = AppTest.from_file(str(FOLDER / "_frame.py"), default_timeout=300)
    at.session_state["frame"] = True
    at.session_state["nodules.source"] = "own"
    at.switch_page(str(FOLDER / "nodules.py")).run()
    at.file_uploader[0].set_value([(f"Jones Mary {k}.dcm", content, "application/dicom")
                                   for k, content in enumerate(files)]).run()
    assert not at.exception
    return at


def exported(case, monkeypatch) -> str:
    """The text and the bytes of everything that can be taken home."""
    monkeypatch.setattr(_state.st, "session_state", {})
    found = _nodules_case.answer(case)
    seen = _nodules_maps.Seen(case, MIDDLE, found, _nodules_maps.Look())
    text = "".join(_nodules_files.name_parts(seen))
    assert "research-use-only" in text
    with zipfile.ZipFile(io.BytesIO(_nodules_files.scores(seen, ("margin", "texture")))) as file:
        text += "".join(file.read(name).decode("latin-1") for name in file.namelist())
    text += _nodules_files.png(seen).decode("latin-1")
    for model_id in (_nodules_case.MALIGNANCY, _nodules_case.MARKERS):
        content = _nodules_files.report(seen, model_id)
        pages = pdfium.PdfDocument(content)
        assert len(pages) == 1
        words = pages[0].get_textpage().get_text_range()
        assert "RESEARCH USE ONLY" in words
        assert "NOT A MEDICAL DEVICE" in words
        text += words + content.decode("latin-1")
    return text


def test_no_name_id_or_date_reaches_page_log_export_or_address(caplog, monkeypatch):
    with caplog.at_level(logging.DEBUG):
        at = opened_with([dicom()])
        at.number_input(key="nodules.x").set_value(45.0).run()
        bad = dicom(Modality="CR")
    assert not at.exception
    assert "Your own crop" in text_of(at)
    slices = every(at, "ct")[0]
    assert slices["stamp"] == "RESEARCH USE ONLY · NOT A MEDICAL DEVICE"
    shown = text_of(at) + json.dumps([json.loads(e.proto.json) for e in
                                      at.get("bidi_component")]) + str(at.main) + str(at.sidebar)
    case = at.session_state["nodules.case"]
    state = "".join(repr(at.session_state[key]) for key in _nodules_own.KEYS
                    if key in at.session_state)
    with monkeypatch.context() as patch:
        exports = exported(case, patch)
    for secret in SECRETS:
        assert secret not in shown
        assert secret not in caplog.text
        assert secret not in str(dict(at.query_params))
        assert secret not in exports
        assert secret not in state
    at.file_uploader[0].set_value([("Jones.dcm", bad, "application/dicom")]).run()
    assert "not of a CT scan" in text_of(at)
    assert "Your own crop" in text_of(at)  # what was open stays
    assert not any(secret in text_of(at) for secret in SECRETS)
    at.button(key="nodules.forget").click().run()
    assert "Open a CT slice of your own" in text_of(at)
    assert "nodules.own" not in at.session_state


def test_what_is_no_box_changes_nothing(monkeypatch):
    state = {}
    monkeypatch.setattr(_nodules_own.st, "session_state", state)
    for sent in (None, "x", [0, 0, 1], [0, 0, 2, 1], [0.5, 0.5, 0.5, 0.6], [0, 0, "1", 1]):
        _nodules_own.take_box(sent)
    assert state == {}
    _nodules_own.take_box([0.2, 0.4, 0.4, 0.8])
    assert state["nodules.centre"] == pytest.approx((0.6, 0.3))
    assert _nodules_own.planned((64.0, 32.0)) == pytest.approx((-0.2, 0.35, 0.8, 0.85))
