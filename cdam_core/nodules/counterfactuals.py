"""The same nodule with one thing changed: does the output move, and does CDAM move to the change?

    before, after, changed = counterfactuals.pair(nodule, "calcification", seed=0)
    found = counterfactuals.measure(model, nodules, "calcification")

Only a phantom can answer this, because only there everything else can be held equal: surroundings,
noise and every grey value outside ``changed`` are the same bit by bit. All pairs start from the
solid nodule without calcium, whatever its readers rated; no rating is read. docs/nodules.md says
what that proves and what not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cdam_core.explanation import explain
from cdam_core.models import VisionModel
from cdam_core.nodules.crops import AXIS_MM, PIXEL_MM, to_image
from cdam_core.nodules.outlines import signed_distances
from cdam_core.nodules.pack import Nodule, Reader
from cdam_core.nodules.phantom import (
    GROUND_GLASS,
    HEIGHTS_MM,
    REACH,
    WHOLE,
    Look,
    render,
)
from cdam_core.nodules.quality import map_shares, patch_cover, with_interval

LEAST_CHANGE_HU = 5.0  # below one grey level of the models' input (5.5 HU); set back to equal
SMALL_MM, LARGE_MM = 5.0, 15.0
SMOOTHING_MM = 1.0  # of the outline that the spicules grow on
SPICULES = (9, 15)  # at least, fewer than
SPICULE_RADII_MM = (0.8, 0.3)  # where it leaves the nodule, and at its tip
TILT = 0.12  # rad, of the spicules out of the plane
STEP_MM = 0.25  # along a ray that looks for the edge
Answer = Callable[[VisionModel, np.ndarray, str], tuple[float, np.ndarray]]


class Pair(NamedTuple):
    """Two crops that differ in one thing.

    Attributes:
        before, after: (64, 64) float32 HU of the central plane.
        changed: (64, 64) bool; elsewhere the two are the same bit by bit.
    """

    before: np.ndarray
    after: np.ndarray
    changed: np.ndarray


def pair(nodule: Nodule, kind: str, seed: int = 0) -> Pair:
    """A nodule before and after one change, in the same surroundings.

    Args:
        nodule: whose outlines.
        kind: in ``KINDS``.
        seed: of surroundings, density, noise and spicules, with the nodule's id.

    Raises:
        ValueError: for another kind.
    """
    looks = _kind(kind).looks(nodule, seed)
    around = np.minimum(*(look.surface for look in looks))
    before, after = (render(nodule, look, seed, around)[REACH] for look in looks)
    changed = np.abs(after - before) >= LEAST_CHANGE_HU
    return Pair(before, np.where(changed, after, before), changed)


# ---- the four changes ----------------------------------------------------------------------------


def _calcified(nodule: Nodule, seed: int) -> tuple[Look, Look]:
    plain = Look(signed_distances(nodule, HEIGHTS_MM))
    return plain, replace(plain, calcification=WHOLE)


def _hazy(nodule: Nodule, seed: int) -> tuple[Look, Look]:
    solid = Look(signed_distances(nodule, HEIGHTS_MM))
    return solid, replace(solid, texture=GROUND_GLASS)


def _spiculated(nodule: Nodule, seed: int) -> tuple[Look, Look]:
    """The outline without its fine detail, and the same with spicules on it."""
    drawn = signed_distances(nodule, HEIGHTS_MM)
    width = SMOOTHING_MM / PIXEL_MM
    smooth = Look(ndimage.gaussian_filter(drawn, (0, 0, width, width)))
    spicules = _spicules(smooth.surface, np.random.default_rng([seed, nodule.id, len(KINDS)]))
    return smooth, replace(smooth, distances=np.minimum(smooth.distances, spicules))


def _grown(nodule: Nodule, seed: int) -> tuple[Look, Look]:
    small, large = (Look(signed_distances(resized(nodule, mm), HEIGHTS_MM))
                    for mm in (SMALL_MM, LARGE_MM))  # fmt: skip
    return small, large


def resized(nodule: Nodule, diameter: float) -> Nodule:
    """The nodule with every outline scaled around its centre, in the plane and along z.

    Args:
        nodule: to be scaled; slice thickness, and with it the blur, stays.
        diameter: mm, the mean of the readers' after it.
    """
    factor, middle = diameter / nodule.diameters.mean(), nodule.centre[0]
    scan = replace(nodule.scan, pixel_spacing=nodule.scan.pixel_spacing * factor,
                   slice_z=middle + (nodule.scan.slice_z - middle) * factor)  # fmt: skip

    def scaled(reader: Reader) -> Reader:
        outlines = (replace(outline, z=middle + (outline.z - middle) * factor)
                    for outline in reader.outlines)  # fmt: skip
        return replace(reader, outlines=tuple(outlines))

    return replace(nodule, scan=scan, readers=tuple(map(scaled, nodule.readers)))


def _spicules(surface: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(planes, 64, 64) mm to thin cones that leave a surface, nearly within the central plane.

    Each lies on a ray from the deepest point of that plane and is one third to three quarters as
    long as the nodule is deep there, and 1.5 mm more.
    """
    middle = (REACH, *np.unravel_index(surface[REACH].argmin(), surface.shape[1:]))
    axes = (HEIGHTS_MM, AXIS_MM, AXIS_MM)
    start = np.array([axis[index] for axis, index in zip(axes, middle, strict=True)])
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1) - start
    count, depth = int(rng.integers(*SPICULES)), max(float(-surface[REACH].min()), 0.0)
    turns = (np.arange(count) + rng.uniform(0, 1) + rng.normal(0, 0.15, count)) / count
    found = np.full(surface.shape, np.inf)
    for turn in turns * 2 * np.pi:
        rise = rng.normal(0, TILT)
        along = np.array([np.sin(rise), np.cos(rise) * np.sin(turn), np.cos(rise) * np.cos(turn)])
        edge = _edge(surface, middle, along)
        length = 1.5 + depth * rng.uniform(0.33, 0.75)
        found = np.minimum(found, _cone(places, along, edge, edge + length))
    return found.astype(np.float32)


def _edge(surface: np.ndarray, middle: tuple[int, ...], along: np.ndarray) -> float:
    """Mm from a voxel inside to where a ray leaves the nodule for good (or the slab)."""
    steps = np.arange(0, AXIS_MM[-1], STEP_MM)
    rays = np.array(middle)[:, None] + along[:, None] * steps / PIXEL_MM
    inside = ndimage.map_coordinates(surface, rays, order=1, cval=1.0) < 0
    return float(steps[np.flatnonzero(inside)[-1]]) if inside.any() else 0.0


def _cone(places: np.ndarray, along: np.ndarray, start: float, end: float) -> np.ndarray:
    """Distance of places (…, 3) mm to a tapered segment between two distances from the origin."""
    share = np.clip((places @ along - start) / (end - start), 0, 1)
    nearest = (start + share * (end - start))[..., None] * along
    wide, narrow = SPICULE_RADII_MM
    return np.linalg.norm(places - nearest, axis=-1) - (wide + share * (narrow - wide))


@dataclass(frozen=True)
class Kind:
    """One of the changes; named after the biomarker that it should move.

    Attributes:
        before, after: what the nodule is, in words.
        rises: whether the biomarker should.
        looks: of a nodule and a seed: before and after.
    """

    before: str
    after: str
    rises: bool
    looks: Callable[[Nodule, int], tuple[Look, Look]]


KINDS = {
    # the rating is a code: 6 is absent, 3 is calcified as a whole
    "calcification": Kind("without calcium", "calcified", False, _calcified),
    "texture": Kind("solid", "ground glass", False, _hazy),
    "spiculation": Kind("smooth outline", "spiculated outline", True, _spiculated),
    "diameter": Kind("5 mm", "15 mm", True, _grown),
}


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"kind is {name!r}; expected one of {', '.join(KINDS)}")
    return KINDS[name]


# ---- what a model makes of it --------------------------------------------------------------------


def answer(model: VisionModel, hu: np.ndarray, target: str) -> tuple[float, np.ndarray]:
    """Output of a target and its CDAM, (rows, cols), for a crop."""
    e = explain(model, model.encode_image(to_image(hu)), target)
    return float(e.values[0]), e.scores[0]


def compare(model: VisionModel, found: Pair, target: str, ask: Answer = answer) -> dict[str, float]:
    """How one pair moves an output and its map.

    Args:
        model: to ask.
        found: the pair.
        target: an output of the model.
        ask: output and map of a crop.

    Returns:
        ``before``, ``after``: the output; ``share``: of the summed absolute change of the map, what
        lies on changed pixels, each patch's change spread evenly over its pixels; ``pixels``: share
        of those pixels, which a change without any sense would reach; ``mass``, ``strongest``,
        ``patches``: the same by whole patches, as ``quality.map_shares``.
    """
    (old, old_map), (new, new_map) = (ask(model, hu, target) for hu in found[:2])
    cover, change = patch_cover(found.changed, model), new_map - old_map
    moved = np.abs(change)
    share = (moved * cover).sum() / max(moved.sum(), np.finfo(float).tiny)
    return {"before": old, "after": new, "share": float(share), "pixels": float(cover.mean()),
            **map_shares(change, cover)}  # fmt: skip


def measure(
    model: VisionModel, nodules: Sequence[Nodule], kind: str, seed: int = 0, ask: Answer = answer
) -> dict:
    """One kind of change over many nodules, with 95 % intervals over patients.

    Args:
        model: one of whose outputs is the biomarker of this name.
        nodules: none that the model was trained on.
        kind: in ``KINDS``.
        seed: as for ``pair``.
        ask: output and map of a crop.

    Returns:
        ``pairs``: how many; ``moves``: share of pairs whose output moves as it should; ``by``: by
        how much, in its unit, positive as it should; and the shares of ``compare``, averaged.
    """
    rows, patients = [], []
    for nodule in nodules:
        found = pair(nodule, kind, seed)
        if found.changed.any():
            rows.append(compare(model, found, kind, ask))
            patients.append(nodule.patient_id)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    sign = 1 if _kind(kind).rises else -1
    columns["by"] = sign * (columns.pop("after") - columns.pop("before"))
    columns["moves"] = (columns["by"] > 0).astype(float)
    return {"pairs": len(rows)} | {
        name: with_interval(_mean, patients, column) for name, column in columns.items()
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean())
