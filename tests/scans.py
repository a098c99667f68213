"""Synthetic CT series with the collection's own UIDs and geometry, for tests of the real path."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cdam_core.nodules.pack import Nodule, Reader

ROWS = 512
LUNG, TISSUE, PADDING = -850, 40, -2000
INTERCEPT = -1024


def drawn_inside(reader: Reader, z: float) -> np.ndarray:
    """(512, 512) bool: pixels inside a reader's curves of one slice, the curves left out."""
    mask = Image.new("1", (ROWS, ROWS))
    draw = ImageDraw.Draw(mask)
    for outline in (o for o in reader.outlines if abs(o.z - z) < 1e-3):
        places = [(int(col), int(row)) for row, col in outline.points]
        draw.polygon(places, fill=int(outline.inclusion))
        for place in places:
            mask.putpixel(place, 0)
    return np.asarray(mask)


def painted(nodules: Sequence[Nodule], z: float) -> np.ndarray:
    """(512, 512) int16 HU: lung, and tissue where half of a nodule's readers agree."""
    row, col = np.mgrid[:ROWS, :ROWS] - (ROWS - 1) / 2
    hu = np.where(np.hypot(row, col) < 255, LUNG, PADDING).astype(np.int16)
    for nodule in nodules:
        votes = sum(drawn_inside(reader, z).astype(int) for reader in nodule.readers)
        hu[votes >= len(nodule.readers) / 2] = TISSUE
    return hu


def slice_dataset(nodule: Nodule, z: float, hu: np.ndarray, instance: int = 1,
                  **headers) -> FileDataset:
    """One slice of the nodule's scan; ``headers`` replace or (None) remove what it says."""
    scan, meta = nodule.scan, FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = dict(
        SOPClassUID=CTImageStorage, SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
        StudyInstanceUID=scan.study_uid, SeriesInstanceUID=scan.series_uid,
        PatientID="SECRET-ID", PatientName="SECRET^NAME", StudyDate="19990101", Modality="CT",
        InstanceNumber=instance, ImagePositionPatient=[-180.0, -180.0, float(z)],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[scan.pixel_spacing] * 2,
        SliceThickness=scan.slice_thickness, Rows=hu.shape[0], Columns=hu.shape[1],
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16,
        BitsStored=16, HighBit=15, PixelRepresentation=1, RescaleSlope=1,
        RescaleIntercept=INTERCEPT,
        PixelData=(hu.astype(np.int32) - INTERCEPT).astype("<i2").tobytes(),
    ) | headers
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def write_series(folder: Path, nodule: Nodule, margin: float = 21.0, flat: bool = False,
                 **headers) -> list[Path]:
    """Write the part of a scan around a nodule, names in no order, instance numbers descending.

    Args:
        folder: made if missing.
        nodule: which is painted.
        margin: mm beyond the crop's middle.
        flat: lung everywhere, which is faster, in slices of little value.
        headers: as for ``slice_dataset``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [o.z for reader in nodule.readers for o in reader.outlines]
    heights = [z for z in nodule.scan.slice_z
               if min(drawn) - 1 <= z <= max(drawn) + 1 or abs(z - nodule.centre[0]) <= margin]
    paths = []
    for name, index in enumerate(np.random.default_rng(0).permutation(len(heights))):
        z = float(heights[index])
        hu = np.full((ROWS, ROWS), LUNG, np.int16) if flat else painted([nodule], z)
        dataset = slice_dataset(nodule, z, hu, len(heights) - int(index), **headers)
        paths.append(folder / f"1-{name + 1:03d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    (folder / "069.xml").write_text("<LidcReadMessage/>")
    return paths
