"""The crop that everything here speaks of: 32 mm around a nodule, 64 x 64 pixels, in HU.

Sources, outlines, models and pictures share this geometry; see ``Plane`` for which slice it is.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from cdam_core.errors import BadScan
from cdam_core.nodules.pack import Nodule

SIDE = 64  # pixels
PIXEL_MM = 0.5
# Offsets in mm of the 64 planes (rows, columns) from the nodule's centre, the same on every axis.
AXIS_MM = (np.arange(SIDE) - (SIDE - 1) / 2) * PIXEL_MM
AXIS_MM.setflags(write=False)
CENTRAL = SIDE // 2  # index of the central plane
WINDOW_HU = (-1000.0, 400.0)  # what the models see; values outside are clamped
AXES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Plane:
    """One of the slices through the nodule's centre.

    Attributes:
        offset: mm from the central plane, in steps of ``PIXEL_MM`` (rounded to the nearest).
        axis: "axial" (offset along z), "coronal" (along rows) or "sagittal" (along columns).
    """

    offset: float = 0.0
    axis: str = "axial"

    @property
    def index(self) -> int:
        """Number of the plane along its axis; ``CENTRAL`` for offset 0.

        Raises:
            BadScan: "wrong-type" for a plane outside the crop.
        """
        index = CENTRAL + round(self.offset / PIXEL_MM)
        if self.axis not in AXES or not 0 <= index < SIDE:
            raise BadScan("wrong-type", f"A plane at {self.offset} mm along {self.axis} was asked "
                          f"for; expected one of {', '.join(AXES)} and at most "
                          f"{PIXEL_MM * (CENTRAL - 1)} mm.")  # fmt: skip
        return index


MIDDLE = Plane()


class NoduleSource(Protocol):
    """Where crops come from; who asks does not need to know.

    Attributes:
        source: "phantom" (simulated density) or "dicom" (a real scan).
    """

    source: str

    def crop(self, nodule: Nodule, plane: Plane = MIDDLE) -> np.ndarray:
        """(64, 64) float32 HU inside ``WINDOW_HU``; rows and columns as in the slice.

        Raises:
            BadScan: if there is no such crop.
        """


def take_plane(volume: np.ndarray, plane: Plane) -> np.ndarray:
    """The (64, 64) slice of a (z, row, col) volume; coronal and sagittal ones have z upwards."""
    if plane.axis == "axial":
        return volume[plane.index]
    return (volume[::-1, plane.index] if plane.axis == "coronal" else volume[::-1, :, plane.index])


def windowed(hu: np.ndarray, low: float = WINDOW_HU[0], high: float = WINDOW_HU[1]) -> np.ndarray:
    """HU to grey values in [0, 1]; what lies outside the window is clamped."""
    return np.clip((hu - low) / (high - low), 0, 1)


def to_image(hu: np.ndarray, low: float = WINDOW_HU[0], high: float = WINDOW_HU[1]) -> Image.Image:
    """HU to a PIL RGB picture of the same size, grey, 255 at ``high``.

    Models are fed with the default window alone.
    """
    grey = np.rint(255 * windowed(hu, low, high)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
