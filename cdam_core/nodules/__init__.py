"""Lung nodules of LIDC-IDRI: real outlines and ratings, and crops of CT, simulated or real.

    from cdam_core import nodules

    nodule = nodules.load_nodules()[0]
    hu = nodules.Phantom().crop(nodule)  # (64, 64) Hounsfield units, simulated
    hu = nodules.DicomArchive("folder").crop(nodule)  # the same crop of the real scan

The outlines and ratings are bundled (``assets/nodules``); scans are not.
"""
