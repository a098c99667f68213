"""Procedural backgrounds for scenes: no pictures are needed, any number can be drawn.

Every function takes a random generator and a side in pixels and returns (side, side, 3) float32 in
0..255. ``BACKGROUNDS`` is the table of kinds with their share.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def random_colour(rng, saturation=(0.0, 0.7), value=(0.15, 1.0)) -> np.ndarray:
    """(3,) float32 colour in 0..255, uniform in hue and in the given ranges."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(rgb, np.float32) * 255


def noise(rng, side: int, octaves: int = 5, persistence: float = 0.6) -> np.ndarray:
    """(side, side) smooth noise in 0..1, summed over octaves of doubling frequency."""
    total, amplitude = np.zeros((side, side), np.float32), 1.0
    for octave in range(octaves):
        cells = min(2 * 2 ** octave, side) + 1
        squeeze = max(2, int(cells * rng.choice([1, 1, 0.5])))
        layer = Image.fromarray(rng.random((cells, squeeze), np.float32))
        total += amplitude * np.asarray(layer.resize((side, side), Image.BICUBIC))
        amplitude *= persistence
    total -= total.min()
    return total / (total.max() + 1e-6)


def mix(weight: np.ndarray, first, second) -> np.ndarray:
    """Blend two colours (or pictures) by a (side, side) weight in 0..1."""
    return first + (second - first) * weight[..., None]


def _axes(side: int) -> tuple[np.ndarray, np.ndarray]:
    rows, cols = np.mgrid[0:side, 0:side].astype(np.float32) / side
    return rows, cols


def gradient(rng, side):
    """Linear or radial colour gradient."""
    rows, cols = _axes(side)
    if rng.random() < 0.6:
        angle = rng.uniform(0, 2 * np.pi)
        weight = (cols - 0.5) * np.cos(angle) + (rows - 0.5) * np.sin(angle) + 0.5
    else:
        weight = np.hypot(cols - rng.random(), rows - rng.random())
    return mix(np.clip(weight, 0, 1), random_colour(rng), random_colour(rng))


def clouds(rng, side):
    """Two layers of noise in three colours."""
    first = noise(rng, side, rng.integers(3, 7), rng.uniform(0.45, 0.8))
    second = 0.4 * noise(rng, side, 3)
    return mix(second, mix(first, random_colour(rng), random_colour(rng)), random_colour(rng))


def stripes(rng, side):
    """Stripes or checks, soft or hard, slightly wavy."""
    rows, cols = _axes(side)
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(3, 18)
    wave = noise(rng, side, 3) * rng.uniform(0, 0.15)
    along = cols * np.cos(angle) + rows * np.sin(angle) + wave
    weight = np.sin(2 * np.pi * frequency * along) * 0.5 + 0.5
    if rng.random() < 0.3:
        across = rows * np.cos(angle) - cols * np.sin(angle)
        weight = weight * (np.sin(2 * np.pi * frequency * across) * 0.5 + 0.5)
    if rng.random() < 0.5:
        weight = (weight > 0.5).astype(np.float32)
    base, contrast = random_colour(rng), rng.uniform(0.2, 0.8)
    return mix(weight, base, base * (1 - contrast) + random_colour(rng) * contrast)


def wood(rng, side):
    """Grain of a table or floor."""
    rows, cols = _axes(side)
    grain = cols * 0.15 + rows + 0.25 * noise(rng, side, 3)
    weight = np.sin(2 * np.pi * rng.uniform(4, 12) * grain) * 0.3 + 0.5
    weight = np.clip(weight + 0.3 * noise(rng, side, 6, 0.85), 0, 1)
    low, high = np.array([90, 60, 30]), np.array([220, 160, 110])
    base = rng.uniform(low, high).astype(np.float32)
    picture = mix(weight, base, base * rng.uniform(0.5, 0.85))
    return picture.transpose(1, 0, 2) if rng.random() < 0.5 else picture


def landscape(rng, side):
    """Sky above textured ground, with an uneven horizon."""
    rows, _ = _axes(side)
    height = rng.uniform(0.3, 0.7)
    horizon = height + 0.15 * (noise(rng, side, 3)[:1] - 0.5)
    sky = mix(np.clip(rows / height, 0, 1), random_colour(rng) * 0.5 + 120,
              random_colour(rng) * 0.4 + 140)
    ground = mix(noise(rng, side, 6, 0.8), random_colour(rng) * 0.8, random_colour(rng) * 0.6)
    return np.where((rows > horizon)[..., None], ground, sky)


def shapes(rng, side):
    """Discs and polygons, sharp or out of focus."""
    image = Image.new("RGB", (side, side), tuple(random_colour(rng).astype(int).tolist()))
    draw = ImageDraw.Draw(image)
    blurred = rng.random() < 0.5
    for _ in range(rng.integers(5, 22)):
        row, col = rng.uniform(0, side, 2)
        radius = rng.uniform(side / 40, side / 5)
        colour = tuple(random_colour(rng, (0, 0.8), (0.1, 1)).astype(int).tolist())
        if blurred or rng.random() < 0.4:
            draw.ellipse((col - radius, row - radius, col + radius, row + radius), fill=colour)
        else:
            points = np.array([col, row]) + rng.uniform(-radius, radius, (rng.integers(3, 6), 2))
            draw.polygon([tuple(point) for point in points], fill=colour)
    blur = rng.uniform(0.02, 0.06) if blurred else rng.uniform(0, 0.016)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur * side))).astype(np.float32)


def plain(rng, side):
    """One colour with grain."""
    grain = rng.normal(0, rng.uniform(0, 25), (side, side, 1)).astype(np.float32)
    return np.clip(random_colour(rng, (0, 0.7), (0.1, 1)) + grain, 0, 255)


BACKGROUNDS = {gradient: 0.12, clouds: 0.22, stripes: 0.12, wood: 0.1, landscape: 0.13,
               shapes: 0.2, plain: 0.11}


def background(rng, side: int) -> np.ndarray:
    """One random background, unevenly lit, with grain; (side, side, 3) uint8."""
    kinds = list(BACKGROUNDS)
    picture = kinds[rng.choice(len(kinds), p=list(BACKGROUNDS.values()))](rng, side)
    if rng.random() < 0.4:
        picture = picture * (0.7 + 0.5 * noise(rng, side, 2)[..., None])
    grain = rng.normal(0, rng.uniform(0, 7), picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


class BackgroundBank:
    """Backgrounds drawn once and cropped, flipped and recoloured at every use.

    Args:
        count: how many to draw.
        side: side of the crops that will be asked for; the bank's pictures are 1.4 times larger.
        seed: other seeds give backgrounds that were never seen before.
        refresh: chance that a use replaces one picture by a new one.
    """

    def __init__(self, count: int, side: int, seed: int = 0, refresh: float = 0.0):
        rng = np.random.default_rng([seed, 1])
        self.side, self.refresh = side, refresh
        self.full = round(1.4 * side)
        self.pictures = [background(rng, self.full) for _ in range(count)]

    def crop(self, rng) -> np.ndarray:
        """(side, side, 3) float32 piece of a random picture."""
        index = rng.integers(len(self.pictures))
        if rng.random() < self.refresh:
            self.pictures[index] = background(rng, self.full)
        row, col = rng.integers(0, self.full - self.side + 1, 2)
        piece = self.pictures[index][row:row + self.side, col:col + self.side]
        if rng.random() < 0.3:
            piece = np.rot90(piece, rng.integers(4))
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        if rng.random() < 0.5:
            piece = piece[..., rng.permutation(3)]
        return piece.astype(np.float32)
