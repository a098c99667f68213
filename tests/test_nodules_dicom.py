"""Real scans: written with the collection's UIDs and geometry, read back through the real path."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless
from scipy import ndimage

from cdam_core.errors import BadScan
from cdam_core.nodules.crops import AXIS_MM, Plane
from cdam_core.nodules.dicom import DicomArchive
from cdam_core.nodules.outlines import signed_distances
from cdam_core.nodules.pack import load_nodules
from tests.scans import LUNG, ROWS, TISSUE, slice_dataset, write_series

SECRETS = ("SECRET", "19990101", "1.3.6.1.4.1.14519", ".dcm")


def small_one():
    """A nodule of few slices, so that its series is written fast."""
    return next(n for n in load_nodules() if n.scan.slice_thickness >= 2.5
                and n.biomarkers["diameter"] > 8 and np.ptp(np.diff(n.scan.slice_z)) < 0.01)


@pytest.fixture(scope="module")
def nodule():
    return small_one()


@pytest.fixture(scope="module")
def series(tmp_path_factory, nodule):
    """The files of one whole series in the layout of the archive's own download tool."""
    folder = tmp_path_factory.mktemp("tcia")
    write_series(folder / "LIDC-IDRI" / "LIDC-IDRI-0001" / "01-01-2000-30178" / "3000566-03192",
                 nodule)
    return folder


def copy_of(series, target, change=None, only=None):
    """The series' files in a flat folder, each changed by ``change(dataset, index)``."""
    target.mkdir(exist_ok=True)
    for index, path in enumerate(sorted(series.rglob("*.dcm"))):
        if only is None or only(index):
            dataset = pydicom.dcmread(path)
            if change:
                change(dataset, index)
            dataset.save_as(target / f"{index}.dcm", enforce_file_format=True)
    return target


def overlap(volume, nodule):
    """Centre shift in mm per axis and intersection over union with the readers' consensus."""
    bright = volume > (LUNG + TISSUE) / 2
    agreed = (signed_distances(nodule) < 0).mean(0) >= 0.5
    shift = np.subtract(*(ndimage.center_of_mass(mask) for mask in (bright, agreed))) * 0.5
    return shift, (bright & agreed).sum() / (bright | agreed).sum()


# ---- geometry ------------------------------------------------------------------------------------

@pytest.mark.slow
def test_round_trip_of_24_nodules(tmp_path):
    """Centre within 0.5 mm; overlap with the consensus at least 0.8 in the median, 0.6 for all."""
    nodules = load_nodules()
    uneven = [n for n in nodules if np.ptp(np.diff(n.scan.slice_z)) > 0.01][:1]
    chosen = np.random.default_rng(7).choice(len(nodules), 24 - len(uneven), replace=False)
    shifts, overlaps = [], []
    for number, each in enumerate([nodules[i] for i in chosen] + uneven):
        write_series(tmp_path / str(number), each)
        archive = DicomArchive(tmp_path / str(number), [each])
        shift, share = overlap(archive.volume(each), each)
        shifts.append(np.abs(shift).max())
        overlaps.append(share)
        for path in (tmp_path / str(number)).iterdir():
            path.unlink()
    print(f"centre shift at most {max(shifts):.2f} mm, overlap {min(overlaps):.2f} to "
          f"{max(overlaps):.2f}, median {np.median(overlaps):.2f}")
    assert max(shifts) <= 0.5
    assert np.median(overlaps) >= 0.8
    assert min(overlaps) >= 0.6


def test_a_crop_of_the_middle_and_of_all_axes(series, nodule):
    archive = DicomArchive(series)
    assert archive.nodules == (nodule,) or nodule in archive.nodules
    shift, share = overlap(archive.volume(nodule), nodule)
    assert np.abs(shift).max() <= 0.5
    assert share >= 0.6
    for plane in (Plane(), Plane(2.0), Plane(0, "coronal"), Plane(-1.5, "sagittal")):
        hu = archive.crop(nodule, plane)
        assert hu.shape == (64, 64)
        assert hu.min() >= -1000
        assert {hu[0, 0].round()} <= {LUNG, -1000}


def test_resampling_agrees_with_one_voxel_at_a_time(series, nodule):
    archive = DicomArchive(series)
    volume = archive.volume(nodule)
    stack = {}
    for path in series.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        stack[float(dataset.ImagePositionPatient[2])] = (
            np.clip(dataset.pixel_array.astype(float) - 1024, -1024, 3071))
    heights = np.array(sorted(stack))
    middle, row, col = nodule.centre
    rng = np.random.default_rng(1)
    for k, i, j in rng.integers(8, 56, (60, 3)):
        z = middle + AXIS_MM[k]
        y, x = (c + AXIS_MM[n] / nodule.scan.pixel_spacing for c, n in ((row, i), (col, j)))
        above = np.searchsorted(heights, z)
        low, high = heights[above - 1], heights[above]

        def at(height, y=y, x=x):
            image, r, c = stack[height], int(y), int(x)
            dr, dc = y - r, x - c
            return ((1 - dr) * (1 - dc) * image[r, c] + (1 - dr) * dc * image[r, c + 1]
                    + dr * (1 - dc) * image[r + 1, c] + dr * dc * image[r + 1, c + 1])

        expected = at(low) + (at(high) - at(low)) * (z - low) / (high - low)
        assert volume[k, i, j] == pytest.approx(np.clip(expected, -1000, 400), abs=0.05)


def test_slope_and_intercept_are_applied(tmp_path, nodule):
    write_series(tmp_path, nodule, flat=True, RescaleSlope=0.5, RescaleIntercept=-700)
    # stored is -850 + 1024 = 174
    assert DicomArchive(tmp_path).crop(nodule) == pytest.approx(174 * 0.5 - 700)


def test_run_length_encoding_is_read(series, tmp_path, nodule):
    copy_of(series, tmp_path / "rle", lambda dataset, _: dataset.compress(RLELossless))
    np.testing.assert_array_equal(DicomArchive(tmp_path / "rle").crop(nodule),
                                  DicomArchive(series).crop(nodule))


# ---- what is odd is said and left out ------------------------------------------------------------

def check_report(archive, *parts):
    text = "\n".join((*archive.report, archive.summary))
    for part in parts:
        assert part in text, text
    assert not any(secret in text for secret in SECRETS), text


def test_the_usual_folder_has_nothing_to_remark(series, nodule):
    archive = DicomArchive(series, [nodule])
    assert archive.report == ()
    check_report(archive, "1 CT series; 1 of 1 nodules of 1 patients can be shown; 0 remarks")


def test_other_files_series_and_modalities(series, tmp_path, nodule):
    folder = copy_of(series, tmp_path / "mixed")
    lung = np.full((ROWS, ROWS), LUNG, np.int16)
    z = nodule.centre[0]
    for name, headers in (("chest", {"Modality": "CR"}), ("other", {"SeriesInstanceUID": "1.2.3"}),
                          ("nowhere", {"ImagePositionPatient": None}),
                          ("flat", {"PixelSpacing": None})):
        slice_dataset(nodule, z, lung, **headers).save_as(folder / name)
    (folder / "notes").write_text("no DICOM at all, SECRET")
    whole = next(folder.glob("*.dcm")).read_bytes()
    (folder / "cut").write_bytes(whole[:140])
    archive = DicomArchive(folder)
    assert nodule in archive.nodules
    check_report(archive, "are no DICOM files", "are of another modality",
                 "1 CT series are of no nodule", "2 files are CT without a usable position")
    np.testing.assert_array_equal(archive.crop(nodule), DicomArchive(series).crop(nodule))


def test_two_series_in_one_folder(series, tmp_path, nodule):
    second = next(n for n in load_nodules() if n.scan.slice_thickness >= 2.5
                  and n.patient_id != nodule.patient_id)
    folder = copy_of(series, tmp_path / "both")
    for index, path in enumerate(write_series(tmp_path / "second", second)):
        path.rename(folder / f"second-{index}.dcm")
    archive = DicomArchive(folder, [nodule, second])
    assert archive.nodules == (nodule, second)
    np.testing.assert_array_equal(archive.crop(nodule), DicomArchive(series).crop(nodule))


def test_a_missing_slice(series, tmp_path, nodule):
    files = sorted(series.rglob("*.dcm"))
    z = [float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2]) for f in files]
    nearest = int(np.abs(np.array(z) - nodule.centre[0]).argmin())
    archive = DicomArchive(copy_of(series, tmp_path / "gap", only=lambda i: i != nearest), [nodule])
    assert archive.nodules == ()
    check_report(archive, f"{nodule.patient_id}: left out: 1 slices at nodule {nodule.id}")
    with pytest.raises(BadScan) as caught:
        archive.crop(nodule)
    assert caught.value.reason == "missing-slices"


def test_of_two_slices_in_one_place_the_lower_instance_counts(series, tmp_path, nodule):
    folder = copy_of(series, tmp_path / "double")
    for path in list(folder.glob("*.dcm"))[:3]:
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = int(dataset.InstanceNumber) + 1000
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.save_as(folder / f"again-{path.name}", enforce_file_format=True)
    archive = DicomArchive(folder, [nodule])
    check_report(archive, "3 slices lie where another one does")
    np.testing.assert_array_equal(archive.crop(nodule), DicomArchive(series).crop(nodule))


@pytest.mark.parametrize(("change", "reason", "words"), [
    (lambda d, _: setattr(d, "PixelSpacing", [0.31, 0.31]), "geometry", "spacing differs"),
    (lambda d, _: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), "geometry", "turned"),
    (lambda d, i: i or setattr(d, "ImageOrientationPatient", [0, 1, 0, 1, 0, 0]), "geometry",
     "turned"),
])
def test_another_geometry_is_refused(series, tmp_path, nodule, change, reason, words):
    archive = DicomArchive(copy_of(series, tmp_path / "turned", change), [nodule])
    assert archive.nodules == ()
    check_report(archive, nodule.patient_id, words)
    with pytest.raises(BadScan, match=words) as caught:
        archive.crop(nodule)
    assert caught.value.reason == reason


def test_compression_that_cannot_be_undone_is_named(series, tmp_path, nodule, monkeypatch):
    folder = tmp_path / "jpeg"
    copy_of(series, folder)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" * 8])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.save_as(path)
    archive = DicomArchive(folder, [nodule])
    if archive.nodules:  # a decoder happens to be installed: then the broken pixels are named
        with pytest.raises(BadScan) as caught:
            archive.crop(nodule)
        assert caught.value.reason == "unreadable"
        return
    check_report(archive, "compressed in a way")
    with pytest.raises(BadScan) as caught:
        archive.crop(nodule)
    assert caught.value.reason == "compressed"


def test_pixels_that_are_cut_off_are_named(series, tmp_path, nodule):
    folder = copy_of(series, tmp_path / "cut")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadScan) as caught:
        DicomArchive(folder).crop(nodule)
    assert caught.value.reason == "unreadable"


def test_nothing_of_a_header_is_warned_logged_or_printed(series, tmp_path, nodule, capfd, recwarn,
                                                         caplog):
    folder = copy_of(series, tmp_path / "spoilt")
    whole = sorted(folder.iterdir())
    for path, (old, new) in zip(whole, ((b"-180.0", b"SECRET"), (b"MONOCHROME2", b"MONOSECRETS"),
                                        (b"CT", b"\xffT")), strict=False):
        path.with_suffix("").write_bytes(path.read_bytes().replace(old, new))
    position = nodule.scan.slice_z[0]
    endless = slice_dataset(nodule, position, np.zeros((8, 8), np.int16)).to_json_dict()
    assert endless["00100010"]["Value"]  # there is a name to be quoted
    archive = DicomArchive(folder, [nodule])
    with pytest.raises(BadScan) as caught:
        archive.crop(nodule)
    printed = "".join(capfd.readouterr()) + "".join(str(w.message) for w in recwarn)
    said = [printed, caplog.text, str(caught.value), *archive.report, archive.summary]
    assert not any("SECRET" in text for text in said)


def test_an_empty_folder_and_none(tmp_path, nodule):
    archive = DicomArchive(tmp_path)
    assert archive.nodules == ()
    assert archive.summary.startswith("0 files, 0 CT series; 0 of 862 nodules")
    with pytest.raises(BadScan) as caught:
        archive.crop(nodule)
    assert caught.value.reason == "not-found"
    with pytest.raises(BadScan, match="no such folder"):
        DicomArchive(tmp_path / "nowhere")
