"""Simulated CT of real nodules: the shape is what readers drew, every grey value is computed.

What is read of a nodule: all readers' outlines, the scan's geometry, and two ratings (texture,
calcification) of one reader drawn by the seed; with ``variant="solid"`` no rating at all. Neither
malignancy nor any other rating is looked at, so a model trained on these crops cannot have been
told them. An edge is blurred where readers disagree about it. docs/nodules.md says what this
means for each output of a model.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import ndimage

from cdam_core.errors import BadScan
from cdam_core.nodules.crops import (
    AXIS_MM,
    CENTRAL,
    MIDDLE,
    PIXEL_MM,
    SIDE,
    WINDOW_HU,
    Plane,
)
from cdam_core.nodules.outlines import signed_distances
from cdam_core.nodules.pack import Nodule

VARIANTS = ("ratings", "solid")
REACH = 9  # planes rendered on each side of the central one
SHAPE = (2 * REACH + 1, SIDE, SIDE)
HEIGHTS_MM = AXIS_MM[CENTRAL - REACH : CENTRAL + REACH + 1]
LARGEST_OFFSET = REACH * PIXEL_MM
SOLID, GROUND_GLASS = 5, 1  # of the texture rating
ABSENT = 6  # of the calcification rating
POPCORN, LAMINATED, WHOLE, OFF_CENTRE, CENTRE = 1, 2, 3, 4, 5
CORE_DEPTH = {1: 0.0, 2: 0.25, 3: 0.5, 4: 0.8, 5: 1.0}  # solid share of the depth, by texture
LUNG_HU, TISSUE_HU, VESSEL_HU, BONE_HU = -865, 35, 30, 260
MEAN_VESSELS = 26
WALL_SHARE = 0.22  # of nodules near a chest wall or the mediastinum; drawn, so it tells no label


@dataclass(frozen=True)
class Phantom:
    """A source of simulated crops.

    Args:
        variant: "ratings" (density from one reader's texture and calcification) or "solid" (every
            nodule solid and without calcium: shape only).
        seed: of everything that is drawn by chance; with the nodule's id.

    Raises:
        BadScan: "wrong-type" for another variant.
    """

    variant: str = "ratings"
    seed: int = 0
    source = "phantom"

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise BadScan("wrong-type", f"A phantom of another variant was asked for; expected one "
                          f"of {', '.join(VARIANTS)}.")  # fmt: skip

    def crop(self, nodule: Nodule, plane: Plane = MIDDLE) -> np.ndarray:
        """(64, 64) float32 simulated HU inside ``WINDOW_HU``.

        Args:
            nodule: whose shape.
            plane: axial, at most ``LARGEST_OFFSET`` from the middle.

        Raises:
            BadScan: "wrong-type" for any other plane.
        """
        index = plane.index - (CENTRAL - REACH)
        if plane.axis != "axial" or not 0 <= index < len(HEIGHTS_MM):
            raise BadScan("wrong-type", f"The phantom has axial planes up to {LARGEST_OFFSET} mm "
                          "from the middle; expected one of them.")  # fmt: skip
        return _slab(nodule, self.variant, self.seed)[index]


@lru_cache(maxsize=8)
def _slab(nodule: Nodule, variant: str, seed: int) -> np.ndarray:
    """(planes, 64, 64) HU around the middle; all planes of a nodule belong together."""
    hu = render(nodule, look_of(nodule, variant, seed), seed)
    hu.setflags(write=False)
    return hu


@dataclass(frozen=True, eq=False)
class Look:
    """What is inside a nodule, and where its edge is.

    Attributes:
        distances: (readers, planes, 64, 64) mm as ``signed_distances`` at ``HEIGHTS_MM``.
        texture, calcification: ratings as the collection codes them.
    """

    distances: np.ndarray
    texture: int = SOLID
    calcification: int = ABSENT

    @cached_property
    def surface(self) -> np.ndarray:
        """(planes, 64, 64) signed distance of the median reader."""
        return np.sort(self.distances, 0)[len(self.distances) // 2]


def look_of(nodule: Nodule, variant: str, seed: int) -> Look:
    """Outlines as drawn; density by the ratings of one reader, or none's ("solid")."""
    distances = signed_distances(nodule, HEIGHTS_MM)
    if variant == "solid":
        return Look(distances)
    asked = nodule.readers[_streams(nodule, seed)["reader"].integers(len(nodule.readers))]
    return Look(distances, asked.ratings["texture"], asked.ratings["calcification"])


def render(nodule: Nodule, look: Look, seed: int, around: np.ndarray | None = None) -> np.ndarray:
    """A look of a nodule in the surroundings that the seed and the nodule's id draw.

    Args:
        nodule: whose id and scan; its outlines are read from ``look`` alone.
        look: of the nodule.
        seed: of everything drawn by chance.
        around: (planes, 64, 64) mm, the surface that vessels end at and walls keep away from; None:
            the look's own. Looks around the same surface have the same surroundings.

    Returns:
        (planes, 64, 64) float32 HU inside ``WINDOW_HU``.
    """
    scenery = _Scenery(nodule, look, seed, look.surface if around is None else around)
    return scenery.render().clip(*WINDOW_HU).astype(np.float32)


def _streams(nodule: Nodule, seed: int) -> dict[str, np.random.Generator]:
    """A generator for each part, so that changing one part leaves every other bit where it was."""
    parts = ("reader", "lung", "vessels", "wall", "tissue", "core", "calcium", "scanner")
    streams = np.random.SeedSequence([seed, nodule.id]).spawn(len(parts))
    return {name: np.random.default_rng(stream)
            for name, stream in zip(parts, streams, strict=True)}  # fmt: skip


# ---- smooth building blocks ----------------------------------------------------------------------

_Z, _Y, _X = np.meshgrid(HEIGHTS_MM, AXIS_MM, AXIS_MM, indexing="ij")
_PLACES = np.stack([_Z, _Y, _X], -1).astype(np.float32)  # (planes, 64, 64, 3) mm


def _soft(distance: np.ndarray, width: float = 0.3) -> np.ndarray:
    """1 inside (negative distances), 0 outside, blurred over about ``width`` mm."""
    return 1 / (1 + np.exp(np.clip(distance / width, -30, 30)))


def _texture(rng: np.random.Generator, grain: float) -> np.ndarray:
    """Smooth noise over the slab with unit variance, ``grain`` pixels wide."""
    counts = [max(int(np.ceil(n / grain)), 2) + 1 for n in SHAPE]
    field = rng.standard_normal(counts).astype(np.float32)
    for axis, (n, count) in enumerate(zip(SHAPE, counts, strict=True)):
        places = np.linspace(0, count - 1.001, n, dtype=np.float32)
        low = places.astype(int)
        share = (places - low).reshape([-1 if other == axis else 1 for other in range(3)])
        field = field.take(low, axis) * (1 - share) + field.take(low + 1, axis) * share
    return field / (field.std() + 1e-6)


def _direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector (z, row, col)."""
    vector = rng.standard_normal(3)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass(frozen=True)
class _Tube:
    """A bent tapering vessel: start and direction in mm, length, radii at both ends, bend."""

    start: np.ndarray
    along: np.ndarray
    aside: np.ndarray
    length: float
    radii: tuple[float, float]
    bend: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Tube":
        along = _direction(rng)
        aside = np.cross(along, _direction(rng))
        start = np.array([rng.uniform(-9, 9), *rng.uniform(-24, 24, 2)], np.float32)
        radius = 0.3 + rng.gamma(1.5, 0.28)
        return cls(start, along, aside / np.linalg.norm(aside), rng.uniform(8, 34),
                   (radius, radius * rng.uniform(0.3, 1)), rng.uniform(-5, 5))  # fmt: skip

    def box(self) -> tuple[slice, slice, slice] | None:
        """The part of the slab that it can touch; None: none of it."""
        ends = self.length * self.along
        points = self.start + np.stack([0 * ends, ends, ends + self.bend * self.aside,
                                        ends / 2 + self.bend / 4 * self.aside])  # fmt: skip
        margin = max(self.radii) + 1.2
        low, high = points.min(0) - margin, points.max(0) + margin
        found = [slice(*np.searchsorted(axis, (low[k], high[k])))
                 for k, axis in enumerate((HEIGHTS_MM, AXIS_MM, AXIS_MM))]  # fmt: skip
        return None if any(part.start >= part.stop for part in found) else tuple(found)

    def cover(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Share of each voxel of the box that is vessel."""
        away = _PLACES[box] - self.start
        along = np.clip(away @ self.along, 0, self.length)
        away = away - along[..., None] * self.along
        away = away - (self.bend * (along / self.length) ** 2)[..., None] * self.aside
        first, last = self.radii
        radius = first + (last - first) * along / self.length
        return _soft(np.sqrt((away * away).sum(-1)) - radius)


# ---- one nodule ----------------------------------------------------------------------------------


class _Scenery:
    """Everything around and inside one nodule; see ``render``."""

    def __init__(self, nodule: Nodule, look: Look, seed: int, around: np.ndarray):
        self.scan, self.look, self.around = nodule.scan, look, around
        self.surface = look.surface
        self.rng = _streams(nodule, seed)

    @cached_property
    def depth(self) -> float:
        """Largest distance from the edge inside the slab, mm."""
        return max(float(-self.surface.min()), 0.5)

    def render(self) -> np.ndarray:
        """(planes, 64, 64) HU."""
        hu = self._lung()
        self._vessels(hu)
        self._wall(hu)
        readers_inside = _soft(self.look.distances, 0.22).mean(0)
        hu += readers_inside * (self._nodule() - hu)
        return self._scanned(hu)

    def _lung(self) -> np.ndarray:
        rng = self.rng["lung"]
        level = LUNG_HU + 22 * rng.standard_normal()
        return (level + 20 * _texture(rng, 22) + 14 * _texture(rng, 4)).astype(np.float32)

    def _vessels(self, hu: np.ndarray) -> None:
        rng = self.rng["vessels"]
        outside = 1 - _soft(self.around - 0.8, 0.5)
        for _ in range(rng.poisson(MEAN_VESSELS)):
            tube, ends_at_nodule = _Tube.draw(rng), rng.random() < 0.75
            box = tube.box()
            if box is not None:
                cover = tube.cover(box)
                cover = cover * outside[box] if ends_at_nodule else cover
                hu[box] += cover * (VESSEL_HU - hu[box])

    def _wall(self, hu: np.ndarray) -> None:
        """Sometimes a chest wall (concave, fat, perhaps a rib) or a convex mediastinum."""
        rng = self.rng["wall"]
        if rng.random() >= WALL_SHARE:
            return
        normal = np.array([rng.normal(0, 0.15), rng.normal(0, 1), rng.choice([-1, 1]) * 1.2])
        normal = (normal / np.linalg.norm(normal)).astype(np.float32)
        along = _PLACES @ normal
        inside = self.around < 0
        reach = float(along[inside].max()) if inside.any() else 2.0
        sideways = ((_PLACES - along[..., None] * normal) ** 2).sum(-1)
        is_chest = rng.random() < 0.75
        to_wall = reach + rng.uniform(-1.5, 6) - along - (0.008 if is_chest else -0.010) * sideways
        tissue = 30 + 14 * _texture(rng, 6)
        if is_chest:
            fat = _soft(np.abs(to_wall + rng.uniform(3.5, 6)) - 1.0, 0.5)
            tissue = tissue - 115 * fat * (_texture(rng, 14) > -0.6)
            if rng.random() < 0.6:
                tissue = self._rib(tissue, to_wall, normal)
        hu += _soft(to_wall) * (tissue - hu)

    def _rib(self, tissue: np.ndarray, to_wall: np.ndarray, normal: np.ndarray) -> np.ndarray:
        rng = self.rng["wall"]
        middle = np.array([rng.normal(0, 3), *rng.normal(0, 5, 2)], np.float32)
        middle = middle - (middle @ normal) * normal
        across = np.cross(normal, [1.0, 0, 0]).astype(np.float32)
        ellipse = np.hypot((to_wall + 7.5) / 3.2, ((_PLACES - middle) @ across) / 9)
        bone = BONE_HU + 330 * _soft(0.75 - ellipse, 0.06)
        return tissue + _soft(ellipse - 1, 0.08) * (bone - tissue)

    def _nodule(self) -> np.ndarray:
        """HU inside: solid, ground glass or a solid core in ground glass; then calcium."""
        rng, texture = self.rng["tissue"], self.look.texture
        solid, haze = rng.normal(TISSUE_HU, 22), rng.normal(-600, 50)
        grain = 14 * _texture(rng, 5)
        if texture == SOLID:
            body = np.full(SHAPE, solid, np.float32)
        else:
            body = haze + (texture - 1) * 55 + 55 * _texture(rng, 4) + 35 * _texture(rng, 2)
            if texture > GROUND_GLASS:
                body = body + self._core() * (solid - body)
        return self._calcified(body + grain)

    def _core(self) -> np.ndarray:
        rng = self.rng["core"]
        share = CORE_DEPTH[self.look.texture] + rng.normal(0, 0.08)
        uneven = 0.18 * self.depth * _texture(rng, 5)
        return _soft(self.surface + (1 - share) * self.depth + uneven, 0.45)

    def _calcified(self, body: np.ndarray) -> np.ndarray:
        rng, kind = self.rng["calcium"], self.look.calcification
        surface, depth = self.surface, self.depth
        if kind == ABSENT:
            return body
        level = rng.uniform(280, 800)
        if kind == WHOLE:
            level, cover = rng.uniform(180, 700), _soft(surface + 0.12 * depth, 0.4)
        elif kind == CENTRE:
            cover = _soft(surface + 0.55 * depth, 0.35)
        elif kind == LAMINATED:
            cover = _soft(np.abs(surface + 0.35 * depth) - 0.35, 0.25)
        else:
            cover = self._grains(1 if kind == OFF_CENTRE else 5)
        return body + cover * (level - body)

    def _grains(self, count: int) -> np.ndarray:
        rng, cover = self.rng["calcium"], np.zeros(SHAPE, np.float32)
        places = _PLACES[self.surface < -0.25 * self.depth]
        for _ in range(count if len(places) else 0):
            middle = places[rng.integers(len(places))]
            radius = self.depth * rng.uniform(0.15, 0.35)
            grain = _soft(np.linalg.norm(_PLACES - middle, axis=-1) - radius)
            cover = np.maximum(cover, grain)
        return cover

    def _scanned(self, hu: np.ndarray) -> np.ndarray:
        """Blur in the plane, averaging over the real slice thickness, correlated noise."""
        rng = self.rng["scanner"]
        blur = rng.uniform(0.42, 0.72) / PIXEL_MM
        thickness = max(self.scan.slice_thickness, 0.6)
        planes = max(round(thickness / PIXEL_MM), 1)
        if planes == 1:
            hu = ndimage.gaussian_filter(hu, (0.3, blur, blur))
        else:
            hu = ndimage.gaussian_filter(hu, (0, blur, blur))
            hu = ndimage.uniform_filter1d(hu, planes, axis=0)
        noise = rng.standard_normal(SHAPE, dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, (max(planes / 2.4, 0.4), 0.75, 0.75))
        return hu + noise / noise.std() * rng.uniform(14, 30) * (2.0 / thickness) ** 0.35
