"""Render ``assets/concepts/``: example pictures of things that no classifier here was trained on.

    python scripts/build_concept_samples.py --drawings runs/drawings

Ten pictures of one object for each of a few reserved classes, and scenes of two objects, with
masks, to look for them in. Only Noto (Apache-2.0), Fluent (MIT) and Twemoji (CC BY 4.0, credited)
drawings are used. The same packages and seeds give the same files. Needs
``requirements-train.txt`` and npm.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from build_scenes_samples import PLACES, RECIPE, ROOT, OnePlace, credit
from PIL import Image

from cdam_core.scenes import drawings
from cdam_core.scenes.generator import calm
from cdam_core.scenes.held_out import HeldOutScenes, draw_all

EXAMPLES = 10
EXAMPLE_SIDE = 336
SCENE_SIDE = 448
QUALITY = 88
SINGLE = calm(RECIPE, counts=(1,), single_size=(0.55, 0.8))

# Reserved class -> seed. The first ones are ready-made concepts of the app; of the others it
# offers the pictures only.
READY = {"fox": 1, "cactus": 1, "rocket": 1}
TO_TRY = {"camel": 1, "crab": 1, "drum": 1}

# id -> title, classes, place, seed (chosen by eye for a picture that reads well).
SCENES: dict[str, tuple[str, str, str, int]] = {
    "fox-cactus": ("Fox and cactus", "fox cactus", "savanna", 1),
    "rocket-airplane": ("Rocket and airplane", "rocket airplane", "sky", 1),
    "crab-drum": ("Crab and drum", "crab drum", "sea", 1),
    "fox-dog": ("Fox and dog", "fox dog", "meadow", 1),
    "cactus-bell-pepper": ("Cactus and bell pepper", "cactus bell-pepper", "table", 1),
    "camel-elephant": ("Camel and elephant", "camel elephant", "savanna", 2),
    "camel-car": ("Camel and car", "camel car", "street", 1),
    "camel-umbrella": ("Camel and umbrella", "camel umbrella", "savanna", 3),
    "camel-pizza": ("Camel and pizza", "camel pizza", "linen", 1),
    "camel-guitar": ("Camel and guitar", "camel guitar", "stage", 1),
    "rocket-camera": ("Rocket and camera", "rocket camera", "slate", 1),
    "crab-penguin": ("Crab and penguin", "crab penguin", "ice", 1),
}


def render(sprites, names: list[str], recipe, side: int, place: str, seed: int):
    """One scene on the background of a place; the place is drawn large and made smaller."""
    background = np.random.default_rng([seed, 3])
    picture = Image.fromarray(np.clip(PLACES[place](background), 0, 255).astype(np.uint8))
    small = np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))
    recipe = calm(recipe, kinds=(("plain", 1.0),))
    return HeldOutScenes(sprites, recipe, side, seed, OnePlace(small)).show(names)


def save(out: Path, name: str, image: np.ndarray) -> str:
    """Write a JPEG; returns its file name."""
    Image.fromarray(image).save(out / f"{name}.jpg", quality=QUALITY, optimize=True)
    return f"{name}.jpg"


def write_examples(out: Path, sprites, name: str, seed: int) -> dict:
    """Write one class's example pictures; returns its entry of the table."""
    places, files, credits = list(PLACES), [], {}
    for index in range(EXAMPLES):
        number = 1000 * seed + 31 * index + len(name)
        place = places[(index + len(name) + seed) % len(places)]
        scene = render(sprites, [name], SINGLE, EXAMPLE_SIDE, place, number)
        files.append(save(out, f"{name}-{index + 1:02d}", scene.image))
        credits |= dict.fromkeys(credit(scene.credits))
    return {"id": name, "name": name, "ready": name in READY, "files": files,
            "credits": "; ".join(credits)}


def write_scene(out: Path, sprites, name: str) -> dict:
    """Write one scene and its mask; returns its entry of the table."""
    title, objects, place, seed = SCENES[name]
    scene = render(sprites, objects.split(), RECIPE, SCENE_SIDE, place, seed)
    Image.fromarray(scene.mask).save(out / f"{name}-mask.png", optimize=True)
    return {"id": name, "title": title, "file": save(out, name, scene.image),
            "mask": f"{name}-mask.png", "objects": objects.split(),
            "credits": credit(scene.credits)}


def main() -> None:
    """Render everything and write ``concepts.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"))
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "concepts")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sprites = draw_all(drawings.SAMPLE_SETS, args.drawings, side=512)
    table = {
        "concepts": [write_examples(args.out, sprites, name, seed)
                     for name, seed in (READY | TO_TRY).items()],
        "scenes": [write_scene(args.out, sprites, name) for name in SCENES],
    }
    (args.out / "concepts.json").write_text(
        json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {len(table['concepts'])} concepts and {len(table['scenes'])} scenes")


if __name__ == "__main__":
    main()
