"""Lung nodules of LIDC-IDRI: real outlines and ratings, and crops of CT, simulated or real.

    from cdam_core import nodules

    nodule = nodules.load_nodules()[0]
    hu = nodules.Phantom().crop(nodule)  # (64, 64) Hounsfield units, simulated
    hu = nodules.DicomArchive("folder").crop(nodule)  # the same crop of the real scan

The outlines and ratings are bundled (``assets/nodules``); scans are not.
"""

from cdam_core.nodules.crops import MIDDLE, NoduleSource, Plane, to_image
from cdam_core.nodules.dicom import DicomArchive
from cdam_core.nodules.pack import BIOMARKERS, Nodule, load_nodules
from cdam_core.nodules.phantom import Phantom
from cdam_core.nodules.splits import Split, load_split, make_split

__all__ = [
    "BIOMARKERS",
    "MIDDLE",
    "DicomArchive",
    "Nodule",
    "NoduleSource",
    "Phantom",
    "Plane",
    "Split",
    "load_nodules",
    "load_split",
    "make_split",
    "to_image",
]
