"""Scenes composed of openly licensed drawings, with exact instance masks and image-level labels.

    generator = SceneGenerator(sprites, TRAINING, side=224, seed=7)
    scene = generator.scene()          # scene.image, scene.mask, scene.labels

The same seed gives the same scenes. Sizes are fractions of the side, so any side can be asked
for.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from cdam_core.scenes import styles
from cdam_core.scenes.backgrounds import BackgroundBank
from cdam_core.scenes.classes import CLASS_NAMES, RESERVED_CLASSES
from cdam_core.scenes.drawings import Sprite

PLACEMENT_TRIES = 30
EDGE = 0.5  # alpha from which a pixel belongs to an object's mask


@dataclass(frozen=True)
class Recipe:
    """What scenes look like.

    Args:
        counts: chance of 1, 2, 3 … objects.
        size: longest side of an object, as fractions of the scene's side.
        single_size: the same for scenes of one object.
        max_overlap: largest share of any object that a later one may hide.
        min_inside: share of every object that must lie inside the frame.
        tilt: standard deviation of the objects' rotation in degrees.
        min_area: smallest visible area of every object, as a fraction of the scene.
        style: "strong", "mild" or "none": how much colours, drawing and resolution are changed.
        kinds: chance of each kind of sprite ("plain", "outlined", "ink").
        standard_only: use only the standard emoji of each class.
    """

    counts: tuple[float, ...] = (0.3, 0.45, 0.17, 0.08)
    size: tuple[float, float] = (0.3, 0.65)
    single_size: tuple[float, float] = (0.35, 0.85)
    max_overlap: float = 0.15
    min_inside: float = 0.75
    tilt: float = 15.0
    min_area: float = 0.015
    style: str = "strong"
    kinds: tuple[tuple[str, float], ...] = (("plain", 0.5), ("outlined", 0.25), ("ink", 0.25))
    standard_only: bool = False


TRAINING = Recipe()
# The scenes on which quality is stated: two objects, hardly touching, mild changes of style.
MEASURED = Recipe(counts=(0, 1), size=(40 / 112, 60 / 112), max_overlap=0.05, min_area=0.024,
                  style="mild", kinds=(("plain", 1.0),), standard_only=True)
# To train on beside TRAINING: the measured kind within wider limits.
PLAIN = replace(MEASURED, counts=(0.12, 0.66, 0.16, 0.06), size=(0.3, 0.6), single_size=(0.35, 0.8),
                max_overlap=0.1, min_area=0.015, min_inside=0.85)


@dataclass(frozen=True)
class Scene:
    """One composed picture.

    Args:
        image: (side, side, 3) uint8.
        mask: (side, side) uint8; 0 background, k the k-th object.
        labels: class index of each object, in the mask's order.
        credits: "set:icon" of each object.
    """

    image: np.ndarray
    mask: np.ndarray
    labels: tuple[int, ...]
    credits: tuple[str, ...]


class SceneGenerator:
    """An endless, seeded source of scenes.

    Args:
        sprites: class name -> drawings, from ``drawings.draw``.
        recipe: what the scenes look like.
        side: height and width in pixels.
        seed: fixes backgrounds and scenes.
        backgrounds: size of the bank of backgrounds, or anything that has ``crop(rng)``.
        refresh: chance that a scene replaces one background by a new one.
    """

    def __init__(self, sprites: dict[str, list[Sprite]], recipe: Recipe = TRAINING,
                 side: int = 224, seed: int = 0, backgrounds=300, refresh: float = 0.1):
        if reserved := set(sprites) & set(RESERVED_CLASSES):
            raise ValueError(f"reserved for concepts, never shown in scenes: {sorted(reserved)}")
        self.recipe, self.side = recipe, side
        self.rng = np.random.default_rng([seed, 0])
        own = isinstance(backgrounds, int)
        self.backgrounds = BackgroundBank(backgrounds, side, seed, refresh) if own else backgrounds
        self.pools = {name: self._pool(sprites[name]) for name in CLASS_NAMES if name in sprites}
        self.names = [name for name, pool in self.pools.items() if pool]

    def _pool(self, sprites: list[Sprite]) -> dict[str, list[list[Sprite]]]:
        """Usable sprites by kind, then by set, so that no large set dominates."""
        pool: dict[str, dict[str, list[Sprite]]] = {}
        allowed = dict(self.recipe.kinds)
        for sprite in sprites:
            if sprite.kind in allowed and (sprite.standard or not self.recipe.standard_only):
                pool.setdefault(sprite.kind, {}).setdefault(sprite.set_id, []).append(sprite)
        return {kind: list(by_set.values()) for kind, by_set in pool.items()}

    def scene(self, class_names=None) -> Scene:
        """Compose one scene.

        Args:
            class_names: classes to show, one object each; drawn by chance if None.
        """
        while True:
            names = class_names or self._draw_classes()
            scene = self._compose(list(names))
            if scene is not None:
                return scene

    def _draw_classes(self) -> list[str]:
        count = 1 + self.rng.choice(len(self.recipe.counts), p=self.recipe.counts)
        twins = self.recipe.style == "strong" and self.rng.random() < 0.1
        count = min(count, len(self.names))
        picks = self.rng.choice(len(self.names), count, replace=twins)
        return [self.names[pick] for pick in picks]

    def _compose(self, names: list[str]) -> Scene | None:
        """Paint the objects one over the other; None if one finds no place."""
        rng, picture = self.rng, self.backgrounds.crop(self.rng)
        mask = np.zeros((self.side, self.side), np.uint8)
        used = []
        for index, name in enumerate(names, 1):
            sprite = self._draw_sprite(name)
            rgb, alpha = self._redraw(sprite, single=len(names) == 1)
            place = self._find_place(alpha, mask)
            if place is None:
                return None
            if rng.random() < 0.7:
                picture = self._shadow(picture, alpha, place)
            self._paint(picture, mask, index, rgb, alpha, place)
            used.append(f"{sprite.set_id}:{sprite.icon}")
        areas = np.bincount(mask.ravel(), minlength=len(names) + 1)[1:]
        if areas.min() < self.recipe.min_area * mask.size:
            return None
        labels = tuple(CLASS_NAMES.index(name) for name in names)
        return Scene(self._finish(picture), mask, labels, tuple(used))

    def _draw_sprite(self, name: str) -> Sprite:
        pool = self.pools[name]
        chances = np.array([dict(self.recipe.kinds)[kind] for kind in pool])
        by_set = list(pool.values())[self.rng.choice(len(pool), p=chances / chances.sum())]
        sprites = by_set[self.rng.integers(len(by_set))]
        return sprites[self.rng.integers(len(sprites))]

    def _redraw(self, sprite: Sprite, single: bool) -> tuple[np.ndarray, np.ndarray]:
        """The sprite at its size, turned and restyled: rgb float32 and alpha in 0..1."""
        rng, recipe = self.rng, self.recipe
        size = rng.uniform(*(recipe.single_size if single else recipe.size)) * self.side
        pixels = np.asarray(self._warp(Image.fromarray(sprite.rgba), size))
        if sprite.kind == "ink":
            rgb, alpha = styles.paint_ink(pixels, rng)
        else:
            rgb, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3].astype(np.float32) / 255
        if recipe.style == "none":
            return rgb, alpha
        strong = recipe.style == "strong"
        changes = styles.STRONG if strong else styles.MILD
        rgb, alpha = styles.restyle(rgb, alpha, rng, changes, exclusive=not strong)
        return styles.jitter(rgb, rng), alpha

    def _warp(self, image: Image.Image, size: float) -> Image.Image:
        """Scale, stretch, mirror, shear and turn."""
        rng, scale = self.rng, size / max(image.size)
        width = max(6, round(image.width * scale * rng.uniform(0.87, 1.15)))
        image = image.resize((width, max(6, round(image.height * scale))), Image.BILINEAR,
                             reducing_gap=2.0)
        if rng.random() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        if self.recipe.style == "strong" and rng.random() < 0.3:
            image = self._shear(image, rng.uniform(-0.25, 0.25))
        return image.rotate(rng.normal(0, self.recipe.tilt), Image.BILINEAR, expand=True)

    @staticmethod
    def _shear(image: Image.Image, amount: float) -> Image.Image:
        grown = image.width + round(abs(amount) * image.height)
        offset = -amount * image.height if amount > 0 else 0
        return image.transform((grown, image.height), Image.AFFINE,
                               (1, amount, offset, 0, 1, 0), Image.BILINEAR)

    def _find_place(self, alpha, mask) -> tuple[int, int] | None:
        """Top left corner at which the object is mostly inside and hides little; or None."""
        height, width = alpha.shape
        solid = alpha > EDGE
        areas = np.bincount(mask.ravel())
        for _ in range(PLACEMENT_TRIES):
            row = self.rng.integers(-height // 8, max(1, self.side - height + height // 8))
            col = self.rng.integers(-width // 8, max(1, self.side - width + width // 8))
            scene_part, object_part = self._overlap(row, col, height, width)
            inside = solid[object_part]
            if inside.sum() < self.recipe.min_inside * solid.sum():
                continue
            hidden = np.bincount(mask[scene_part][inside], minlength=len(areas))
            if np.all(hidden[1:] <= self.recipe.max_overlap * areas[1:]):
                return row, col
        return None

    def _overlap(self, row: int, col: int, height: int, width: int) -> tuple[tuple, tuple]:
        """The part of the scene that an object covers, and the part of the object inside."""
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.side), min(col + width, self.side)
        return ((slice(top, bottom), slice(left, right)),
                (slice(top - row, bottom - row), slice(left - col, right - col)))

    def _shadow(self, picture, alpha, place):
        """Darken the picture by a soft, shifted copy of the silhouette."""
        rng, unit = self.rng, self.side / 112
        shadow = np.zeros((self.side, self.side), np.uint8)
        row = place[0] + int(rng.integers(0, 6) * unit)
        col = place[1] + int(rng.integers(-4, 5) * unit)
        scene_part, object_part = self._overlap(row, col, *alpha.shape)
        shadow[scene_part] = alpha[object_part] * 255 * rng.uniform(0.15, 0.5)
        blur = ImageFilter.BoxBlur(rng.uniform(1, 4) * unit)
        return picture * (1 - np.asarray(Image.fromarray(shadow).filter(blur),
                                         np.float32)[..., None] / 255)

    def _paint(self, picture, mask, index, rgb, alpha, place) -> None:
        """Blend an object into the picture and mark its pixels in the mask, in place."""
        scene_part, object_part = self._overlap(*place, *alpha.shape)
        weight = alpha[object_part][..., None]
        picture[scene_part] = picture[scene_part] * (1 - weight) + rgb[object_part] * weight
        mask[scene_part][weight[..., 0] > EDGE] = index

    def _finish(self, picture) -> np.ndarray:
        """Camera: colour cast, blur, resolution, grain."""
        rng, style = self.rng, self.recipe.style
        if style == "none":
            return np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
        picture = styles.jitter(picture, rng, 0.4)
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        if style == "strong" and rng.random() < 0.3:
            small = round(self.side * rng.uniform(0.4, 0.9))
            image = image.resize((small, small), Image.BILINEAR)
            image = image.resize((self.side, self.side), Image.BICUBIC)
        if rng.random() < 0.3:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8) * self.side / 112))
        grain = rng.normal(0, rng.uniform(0, 6), (self.side, self.side, 3))
        return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)


class MixedScenes:
    """Scenes of several generators, one drawn by chance for every scene.

    Args:
        generators: generator -> its share of the scenes; shares sum to 1.
        seed: of the draws.
    """

    def __init__(self, generators: dict[SceneGenerator, float], seed: int):
        self.generators, self.shares = list(generators), list(generators.values())
        self.rng = np.random.default_rng([seed, 1])

    def scene(self) -> Scene:
        """The next scene."""
        return self.generators[self.rng.choice(len(self.generators), p=self.shares)].scene()


def of_sets(sprites: dict[str, list[Sprite]], set_ids) -> dict[str, list[Sprite]]:
    """The sprites of some sets only."""
    wanted = set(set_ids)
    return {name: [s for s in pool if s.set_id in wanted] for name, pool in sprites.items()}


def calm(recipe: Recipe, **changes) -> Recipe:
    """A variant of a recipe, e.g. ``calm(MEASURED, counts=(1,))``."""
    return replace(recipe, **changes)
