"""Render the sample scenes of ``assets/scenes/``: pictures, instance masks, titles and credits.

    python scripts/build_scenes_samples.py --drawings runs/drawings

Only Noto (Apache-2.0), Fluent (MIT) and Twemoji (CC BY 4.0, credited) drawings are used. The same
packages and seeds give the same files. Needs ``requirements-train.txt`` and npm.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.scenes import drawings  # noqa: E402
from cdam_core.scenes.backgrounds import mix, noise  # noqa: E402
from cdam_core.scenes.classes import CLASS_NAMES  # noqa: E402
from cdam_core.scenes.generator import MEASURED, SceneGenerator, calm  # noqa: E402

SIDE = 672  # three times the model's input
QUALITY = 93
RECIPE = calm(MEASURED, style="none", size=(0.4, 0.54), single_size=(0.6, 0.72), max_overlap=0.0,
              min_inside=1.0, tilt=6.0)
CROWDED = calm(RECIPE, size=(0.3, 0.42))


def colour(text: str) -> np.ndarray:
    """A colour from its six hexadecimal digits."""
    return np.array([int(text[i:i + 2], 16) for i in (0, 2, 4)], np.float32)


def outdoors(rng, top: str, low: str, near: str, far: str, horizon: float = 0.52) -> np.ndarray:
    """A sky with soft clouds above rolling ground."""
    rows = np.mgrid[0:SIDE, 0:SIDE][0].astype(np.float32) / SIDE
    sky = mix(np.clip(rows / horizon, 0, 1), colour(top), colour(low))
    clouds = np.clip(noise(rng, SIDE, 5, 0.55) - 0.55, 0, 1) * 1.6 * (1 - rows)
    sky = mix(np.clip(clouds, 0, 0.8), sky, colour("ffffff"))
    line = horizon + 0.08 * (noise(rng, SIDE, 2)[:1] - 0.5)
    depth = np.clip((rows - line) / (1 - horizon), 0, 1)
    texture = 0.9 + 0.2 * noise(rng, SIDE, 6, 0.8)[..., None]
    ground = mix(depth, colour(far), colour(near)) * texture
    return mix(np.clip((rows - line) * SIDE / 3, 0, 1), sky, ground)


def tabletop(rng, base: str, dark: str) -> np.ndarray:
    """Planks of wood seen from above."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    grain = noise(rng, SIDE, 4)[:, :1] * 0.6 + noise(rng, SIDE, 6, 0.85) * 0.5
    lines = np.sin(2 * np.pi * (9 * rows + 1.2 * noise(rng, SIDE, 3) + 0.3 * cols)) * 0.12
    picture = mix(np.clip(grain + lines, 0, 1), colour(base), colour(dark))
    gap = np.abs((rows * 4) % 1 - 0.5) > 0.492
    return np.where(gap[..., None], picture * 0.6, picture)


def studio(rng, centre: str, edge: str) -> np.ndarray:
    """A softly lit backdrop."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    distance = np.hypot(rows - rng.uniform(0.3, 0.5), cols - rng.uniform(0.35, 0.65)) / 0.8
    return mix(np.clip(distance + 0.12 * noise(rng, SIDE, 4), 0, 1), colour(centre), colour(edge))


PLACES = {
    "meadow": lambda rng: outdoors(rng, "5fa8dc", "d8edf7", "4f8f3f", "9cc56b"),
    "savanna": lambda rng: outdoors(rng, "f2b36b", "fbe6bf", "a8793a", "d9b565", 0.45),
    "sky": lambda rng: outdoors(rng, "3f7fc4", "cfe6f6", "6fa05a", "a9c98a", 0.86),
    "sea": lambda rng: outdoors(rng, "7cc0e8", "eaf6fb", "1f6f9c", "58acc9", 0.45),
    "ice": lambda rng: outdoors(rng, "8fb7d8", "eef6fb", "cfdfea", "f4f9fc", 0.5),
    "street": lambda rng: outdoors(rng, "a9c7dd", "eef2f2", "5f6468", "8d9296", 0.5),
    "table": lambda rng: tabletop(rng, "d9b48a", "a87b4f"),
    "bench": lambda rng: tabletop(rng, "b98b62", "7d5636"),
    "linen": lambda rng: studio(rng, "f4ece0", "cdbfa9"),
    "stage": lambda rng: studio(rng, "8a5a66", "2d1f2e"),
    "slate": lambda rng: studio(rng, "8fa3b3", "46586a"),
    "mint": lambda rng: studio(rng, "dff0e6", "93bfa9"),
}

# id -> title, classes, place, seed (chosen by eye for a picture that reads well).
SAMPLES: dict[str, tuple[str, str, str, int]] = {
    "elephant-zebra": ("Elephant and zebra", "elephant zebra", "savanna", 1),
    "hamburger-hot-dog": ("Hamburger and hot dog", "hamburger hot-dog", "table", 1),
    "bell-pepper-cucumber": ("Bell pepper and cucumber", "bell-pepper cucumber", "linen", 1),
    "violin-trumpet": ("Violin and trumpet", "violin trumpet", "stage", 1),
    "dog-cat": ("Dog and cat", "dog cat", "meadow", 1),
    "lion-tiger": ("Lion and tiger", "lion tiger", "savanna", 2),
    "helicopter-airplane": ("Helicopter and airplane", "helicopter airplane", "sky", 1),
    "panda-penguin": ("Panda and penguin", "panda penguin", "ice", 1),
    "hammer-scissors": ("Hammer and scissors", "hammer scissors", "bench", 1),
    "sailboat-umbrella": ("Sailboat and umbrella", "sailboat umbrella", "sea", 1),
    "apple-banana-strawberry": ("Apple, banana and strawberry", "apple banana strawberry",
                                "mint", 1),
    "car-bus-bicycle": ("Car, bus and bicycle", "car bus bicycle", "street", 1),
    "rabbit-carrot-mushroom": ("Rabbit, carrot and mushroom", "rabbit carrot mushroom",
                               "meadow", 2),
    "camera-clock-key": ("Camera, clock and key", "camera clock key", "slate", 1),
    "giraffe": ("Giraffe, alone", "giraffe", "savanna", 3),
    "owl": ("Owl, alone", "owl", "slate", 2),
    "four-things": ("Pizza, guitar, ball and butterfly", "pizza guitar soccer-ball butterfly",
                    "linen", 2),
    "octopus-turtle": ("Octopus and turtle", "octopus turtle", "sea", 2),
}


class OnePlace:
    """A bank of backgrounds with a single picture."""

    def __init__(self, picture: np.ndarray):
        self.picture = picture

    def crop(self, rng) -> np.ndarray:
        """The picture."""
        return self.picture.astype(np.float32).copy()


def render(sprites, names: list[str], place: str, seed: int):
    """The scene of one sample."""
    background = OnePlace(PLACES[place](np.random.default_rng([seed, 3])))
    recipe = CROWDED if len(names) > 2 else RECIPE
    recipe = calm(recipe, kinds=(("plain", 1.0),))
    return SceneGenerator(sprites, recipe, SIDE, seed, background).scene(names)


def credit(used: tuple[str, ...]) -> list[str]:
    """One attribution per drawing set that a scene shows."""
    sets = dict.fromkeys(entry.split(":")[0] for entry in used)
    return [f"{drawings.DRAWING_SETS[s].credit} ({drawings.DRAWING_SETS[s].licence})" for s in sets]


def write(out: Path, name: str, sprites) -> dict:
    """Write one sample's picture and mask; returns its entry of ``samples.json``."""
    title, objects, place, seed = SAMPLES[name]
    scene = render(sprites, objects.split(), place, seed)
    Image.fromarray(scene.image).save(out / f"{name}.jpg", quality=QUALITY, subsampling=0)
    Image.fromarray(scene.mask).save(out / f"{name}-mask.png", optimize=True)
    return {"id": name, "title": title, "file": f"{name}.jpg", "mask": f"{name}-mask.png",
            "objects": [CLASS_NAMES[label] for label in scene.labels],
            "credits": credit(scene.credits)}


def main() -> None:
    """Render every sample and write ``samples.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"))
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "scenes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sprites = drawings.draw(drawings.SAMPLE_SETS, args.drawings, side=512, variants=False)
    entries = [write(args.out, name, sprites) for name in SAMPLES]
    (args.out / "samples.json").write_text(
        json.dumps({"samples": entries}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {len(entries)} samples to {args.out}")


if __name__ == "__main__":
    main()
