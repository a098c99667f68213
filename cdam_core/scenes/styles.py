"""Ways to redraw one sprite, so that a model learns the thing and not the drawing.

All work on ``rgb`` (h, w, 3) float32 in 0..255 and ``alpha`` (h, w) float32 in 0..1.
"""

import numpy as np
from PIL import Image, ImageFilter

from cdam_core.scenes.backgrounds import noise, random_colour

# Rows of the YIQ transform: hue is an angle in the I-Q plane.
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]],
                  np.float32)
FROM_YIQ = np.linalg.inv(TO_YIQ).astype(np.float32)


def jitter(rgb, rng, strength: float = 1.0):
    """Small random changes of colour mix, saturation, contrast and brightness."""
    matrix = np.eye(3) + rng.normal(0, 0.05 * strength, (3, 3))
    rgb = rgb @ matrix.astype(np.float32).T
    grey = rgb.mean(-1, keepdims=True)
    rgb = grey + (rgb - grey) * rng.uniform(1 - 0.35 * strength, 1 + 0.25 * strength)
    contrast = rng.uniform(1 - 0.25 * strength, 1 + 0.2 * strength)
    return (rgb - 128) * np.float32(contrast) + 128 + rng.uniform(-25, 25) * strength


def greyscale(rgb, alpha, rng):
    """Without colour."""
    return np.repeat(rgb.mean(-1, keepdims=True), 3, -1), alpha


def posterise(rgb, alpha, rng):
    """Few levels per channel."""
    levels = rng.integers(3, 6)
    return np.round(rgb / 255 * levels) / levels * 255, alpha


def swap_channels(rgb, alpha, rng):
    """Red, green and blue in another order."""
    return rgb[..., rng.permutation(3)], alpha


def turn_hue(rgb, alpha, rng):
    """Every hue turned by the same random angle, saturation scaled."""
    angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 1.3)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], np.float32)
    return rgb @ (FROM_YIQ @ turn @ TO_YIQ).T, alpha


def flatten(rgb, alpha, rng):
    """A handful of flat colours, as in simple emoji."""
    image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
    return np.asarray(image.quantize(int(rng.integers(3, 8))).convert("RGB"), np.float32), alpha


def dark_edges(rgb, alpha, rng):
    """Inner edges and the contour drawn as dark lines."""
    edges = sum(np.abs(slope) for slope in np.gradient(rgb.mean(-1)))
    edges += 255 * sum(np.abs(slope) for slope in np.gradient(alpha))
    return rgb * (1 - np.clip(edges / rng.uniform(60, 160), 0, 0.9))[..., None], alpha


def contour(rgb, alpha, rng):
    """A dark, sometimes white, line around the silhouette; the silhouette grows by it."""
    width = 2 * int(rng.integers(1, max(2, len(alpha) // 30) + 1)) + 1
    border = np.pad(alpha, width // 2 + 1)
    rgb = np.pad(rgb, ((width // 2 + 1,) * 2,) * 2 + ((0, 0),))
    grown = Image.fromarray((border * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(width))
    colour = random_colour(rng, (0, 0.8), (0, 0.25)) if rng.random() < 0.8 else np.full(3, 245.0)
    rgb = rgb * border[..., None] + colour.astype(np.float32) * (1 - border[..., None])
    return rgb, np.asarray(grown, np.float32) / 255


def texture(rgb, alpha, rng):
    """Uneven paint."""
    field = noise(rng, max(alpha.shape), 6, 0.85)[:alpha.shape[0], :alpha.shape[1]]
    return rgb * (1 - rng.uniform(0.2, 0.6) * field[..., None]), alpha


def soften(rgb, alpha, rng):
    """Out of focus inside, the silhouette kept."""
    image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5))),
                      np.float32), alpha


# Level -> chance of each change. "mild" is the level of the measured scenes.
MILD = {greyscale: 0.08, posterise: 0.08, swap_channels: 0.08, dark_edges: 0.1}
STRONG = {turn_hue: 0.15, swap_channels: 0.04, greyscale: 0.1, flatten: 0.15, posterise: 0.06,
          texture: 0.12, soften: 0.08, dark_edges: 0.2, contour: 0.3}


def restyle(rgb, alpha, rng, changes: dict, exclusive: bool):
    """Apply changes by chance: at most one of them if ``exclusive``, else each independently."""
    if exclusive:
        chance = list(changes.values())
        pick = rng.choice(len(changes) + 1, p=[*chance, 1 - sum(chance)])
        return list(changes)[pick](rgb, alpha, rng) if pick < len(changes) else (rgb, alpha)
    for change, chance in changes.items():
        if rng.random() < chance:
            rgb, alpha = change(rgb, alpha, rng)
    return rgb, alpha


def paint_ink(layers, rng):
    """Colour a monochrome drawing.

    Args:
        layers: (h, w, 4) uint8 as ``drawings.ink_layers`` makes them.

    Returns:
        rgb and alpha: dark (rarely light) lines over a filled silhouette, or lines alone.
    """
    layers = layers.astype(np.float32)
    ink, silhouette = layers[..., 0] / 255, layers[..., 3] / 255
    dark = rng.random() < 0.85
    pen = random_colour(rng, (0, 0.9), (0, 0.3) if dark else (0.75, 1))
    if rng.random() < 0.25:
        pen = random_colour(rng, (0.3, 1), (0.2, 1))
        return np.broadcast_to(pen, (*ink.shape, 3)).copy(), ink
    fill = random_colour(rng, (0, 0.9), (0.5, 1) if dark else (0.1, 0.5))
    if rng.random() < 0.5:
        shade = noise(rng, max(ink.shape), 2)[:ink.shape[0], :ink.shape[1], None]
        fill = fill + (random_colour(rng, (0, 0.9), (0.4, 1)) - fill) * shade
    return fill * (1 - ink[..., None]) + pen * ink[..., None], silhouette
