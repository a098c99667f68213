"""What readers drew as curves in a crop: each reader's outline, and that of the 50 % consensus."""

from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from PIL import Image

from cdam_core.nodules.crops import AXIS_MM, MIDDLE, SIDE, Plane, take_plane
from cdam_core.nodules.outlines import signed_distances
from cdam_core.nodules.pack import Nodule

Curve = np.ndarray  # (n, 2) (row, col) in pixels of the crop; pixel (0, 0) covers 0 to 1


@dataclass(frozen=True, eq=False)
class Drawn:
    """The curves of one plane.

    Attributes:
        readers: per reader, closed curves; none where the reader drew nothing there.
        consensus: closed curves around what at least half of the readers call nodule.
    """

    readers: tuple[tuple[Curve, ...], ...]
    consensus: tuple[Curve, ...]


class Curves:
    """All curves of a nodule; the distances behind them are computed once.

    Args:
        nodule: whose outlines.
        first, last: numbers of the first and last plane along z that will be asked for; coronal
            and sagittal planes need all of them.
    """

    def __init__(self, nodule: Nodule, first: int = 0, last: int = SIDE - 1):
        self._first = first
        self._distances = signed_distances(nodule, AXIS_MM[first : last + 1])

    def at(self, plane: Plane = MIDDLE) -> Drawn:
        """The curves of one plane of the crop."""
        planes = self._planes(plane)
        return Drawn(tuple(_curves(each) for each in planes), _curves(consensus(planes)))

    def mask(self, plane: Plane, side: int) -> np.ndarray:
        """(side, side) bool: what at least half of the readers call nodule in a plane."""
        small = Image.fromarray(consensus(self._planes(plane)).astype(np.float32))
        return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR)) < 0

    def _planes(self, plane: Plane) -> np.ndarray:
        """(readers, 64, 64) signed distances."""
        if plane.axis == "axial":
            return self._distances[:, plane.index - self._first]
        return np.stack([take_plane(volume, plane) for volume in self._distances])


def consensus(distances: np.ndarray) -> np.ndarray:
    """Distances that are negative where at least half of the readers are inside.

    Args:
        distances: (readers, ...) signed, negative inside.
    """
    enough = -(-len(distances) // 2)
    return np.sort(distances, 0)[enough - 1]


def _curves(distances: np.ndarray) -> tuple[Curve, ...]:
    # what leaves the crop is closed along its border
    padded = np.pad(distances, 1, constant_values=max(1.0, float(np.abs(distances).max())))
    lines = contour_generator(z=padded).lines(0.0)
    return tuple((line[:, ::-1] - 0.5).clip(0, SIDE) for line in lines if len(line) > 3)
