"""From what readers drew to where the nodule is: signed distances, and how many agree.

Curves are drawn in slices that may lie millimetres apart; between slices the distances to the
curves are interpolated, so that the shape changes smoothly.
"""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from cdam_core.nodules.crops import AXIS_MM, MIDDLE, PIXEL_MM, SIDE, Plane, take_plane
from cdam_core.nodules.pack import Nodule, Outline, Reader, Scan

FINER = 2  # curves are filled at this many times the crop's resolution
SMOOTHING = 1.2  # fine pixels; takes the staircase off
OUTSIDE_BY = 0.5  # slice pixels between the nodule's edge and the curve around it


def signed_distances(nodule: Nodule, offsets: np.ndarray = AXIS_MM) -> np.ndarray:
    """Distance of every voxel of the crop to each reader's surface.

    Args:
        nodule: its outlines and geometry are read, no rating.
        offsets: (planes,) mm along z from the nodule's centre.

    Returns:
        (readers, planes, 64, 64) float32 mm, negative inside; readers whose curves are too small
        to fill anything are left out.
    """
    volumes = [_reader_volume(reader, nodule, offsets) for reader in nodule.readers]
    return np.stack([volume for volume in volumes if volume is not None])


def agreement(nodule: Nodule, plane: Plane = MIDDLE) -> np.ndarray:
    """(64, 64) share of the readers whose outline holds the pixel; 0.5 bounds the consensus."""
    if plane.axis == "axial":
        return (signed_distances(nodule, AXIS_MM[plane.index : plane.index + 1]) < 0).mean(0)[0]
    return take_plane((signed_distances(nodule) < 0).mean(0), plane)


def _reader_volume(reader: Reader, nodule: Nodule, offsets: np.ndarray) -> np.ndarray | None:
    middle = nodule.centre[0]
    slices = {}
    for z in sorted({outline.z for outline in reader.outlines}):
        drawn = [outline for outline in reader.outlines if outline.z == z]
        distances = _slice_distances(drawn, nodule.centre[1:], nodule.scan.pixel_spacing)
        if distances is not None:
            slices[z - middle] = distances
    return _between_slices(slices, offsets, nodule.scan) if slices else None


def _slice_distances(
    drawn: list[Outline], centre: tuple[float, float], spacing: float
) -> np.ndarray | None:
    """(64, 64) mm, negative inside, of one reader's curves in one slice; None: nothing is inside.

    Holes are cut after everything else is filled.
    """
    mask = Image.new("1", (FINER * SIDE, FINER * SIDE))
    draw = ImageDraw.Draw(mask)
    for outline in sorted(drawn, key=lambda outline: not outline.inclusion):
        # from slice pixels to fine pixels, whose centres are whole numbers
        places = ((outline.points - centre) * spacing / PIXEL_MM + SIDE / 2) * FINER - 0.5
        draw.polygon([(col, row) for row, col in places.tolist()], fill=int(outline.inclusion))
    inside = np.asarray(mask)
    if not inside.any():
        return None
    to_edge = ndimage.distance_transform_edt
    fine = (to_edge(~inside) - to_edge(inside)).astype(np.float32) * (PIXEL_MM / FINER)
    fine = ndimage.gaussian_filter(fine, SMOOTHING)
    return fine.reshape(SIDE, FINER, SIDE, FINER).mean((1, 3)) + np.float32(OUTSIDE_BY * spacing)


def _between_slices(slices: dict[float, np.ndarray], offsets: np.ndarray, scan: Scan) -> np.ndarray:
    """Interpolate along z; above and below the last slices the shape closes in half a slice."""
    heights, distances = np.array(list(slices)), np.stack(list(slices.values()))
    low = np.clip(np.searchsorted(heights, offsets) - 1, 0, max(len(heights) - 2, 0))
    high = np.minimum(low + 1, len(heights) - 1)
    gap = np.maximum(heights[high] - heights[low], 1e-6)
    share = np.clip((offsets - heights[low]) / gap, 0, 1).astype(np.float32)[:, None, None]
    volume = distances[low] * (1 - share) + distances[high] * share
    beyond = np.maximum(heights[0] - offsets, offsets - heights[-1]).clip(0)[:, None, None]
    deepest = max(float(-distances[[0, -1]].min()), 0.5)
    half_slice = 0.5 * float(np.median(np.diff(scan.slice_z)))
    slope = max(1.0, deepest / (half_slice + 0.5))
    return (volume + beyond * slope).astype(np.float32)
