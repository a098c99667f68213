"""Build the scenes model's bank of embeddings and measure what it flags.

    python scripts/calibrate_bank.py --drawings runs/drawings --photos runs/photos

The threshold is set on fresh scenes alone. The direction in which pictures count as unfamiliar is
learnt from photographs; what is flagged among photographs is therefore measured on held-out ones,
in ten folds. They come from Debian packages (``apt-get download``, unpacked with ``dpkg -x`` into
the folder of photos), are listed in ``PHOTOGRAPHS`` after looking at every picture, and are never
committed. Needs ``requirements-train.txt``, npm, and on another system than Debian the unpacked
packages.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.assets import assets_dir  # noqa: E402
from cdam_core.bank import EmbeddingBank  # noqa: E402
from cdam_core.images import open_image  # noqa: E402
from cdam_core.models import VisionModel, load_model  # noqa: E402
from cdam_core.scenes import card as cards  # noqa: E402
from cdam_core.scenes import drawings  # noqa: E402
from cdam_core.scenes.generator import MEASURED, SceneGenerator, calm, of_sets  # noqa: E402
from cdam_core.scenes.tokens import to_pixels  # noqa: E402

BANK_SIZE = 1000
FRESH = 400  # scenes that set the threshold, and as many others that test it
FOLDS = 10
# What a user of the bundled samples sees: standard drawings, one to three objects.
FAMILIAR = calm(MEASURED, counts=(0.2, 0.6, 0.2), size=(0.32, 0.56), max_overlap=0.1,
                min_area=0.015)
LETTERBOXED = 4  # every fourth scene is no square: padding alone must not look unfamiliar
CROPS = 5  # random ones of each photograph, for the direction: there are many more kinds than 52

# Debian package -> photographs in it; renderings, paintings and patterns are left out.
PHOTOGRAPHS = {
    "lomiri-wallpapers-16.04": (
        "Bridge_by_Sander_Klootwijk.jpg", "Dragonfly_by_Bolly.jpg", "Picture_0B_by_freespace.jpg",
        "Picture_1A_by_freespace.jpg", "Wine_by_Jakkub_Mede.jpg",
        "aitzgorri_by_Aitzol_Berasategi.jpg", "free_by_Peter_Nerlich.jpg",
        "friends_by_Aitzol_Berasategi.jpg", "greentock_by_Peter_Nerlich.jpg",
        "life_by_Aitzol_Berasategi.jpg", "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "seeding_by_Clements_Engelhardt.jpg", "sunset_by_Aitzol_Berasategi.jpg"),
    "lomiri-wallpapers-20.04": ("Kleiber_by_Lukas_Baubkus.jpg",),
    "mate-backgrounds": (
        "nature/Aqua.jpg", "nature/Blinds.jpg", "nature/Dune.jpg", "nature/FreshFlower.jpg",
        "nature/Garden.jpg", "nature/GreenMeadow.jpg", "nature/LadyBird.jpg",
        "nature/RainDrops.jpg", "nature/Storm.jpg", "nature/TwoWings.jpg", "nature/Wood.jpg",
        "nature/YellowFlower.jpg"),
    "plasma-workspace-wallpapers": (
        "BytheWater/contents/images/1280x1024.jpg", "ColdRipple/contents/images/1280x1024.jpg",
        "DarkestHour/contents/images/1280x1024.jpg", "EveningGlow/contents/images/1280x1024.jpg",
        "FallenLeaf/contents/images/1280x1024.jpg", "Grey/contents/images/1280x1024.jpg",
        "Kite/contents/images/1280x1024.jpg", "OneStandsOut/contents/images/1280x1024.jpg",
        "Path/contents/images/1280x1024.jpg", "summer_1am/contents/images/1280x1024.jpg",
        "ColorfulCups/contents/images/2560x1600.jpg"),
    "python3-skimage": tuple(
        f"skimage/data/{name}"
        for name in ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png",
                     "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
                     "moon.png", "motorcycle_left.png", "rocket.jpg")),
    "python3-sklearn": ("images/china.jpg", "images/flower.jpg"),
}


def fetch_photographs(folder: Path) -> list[Path]:
    """Unpack the packages that are missing in ``folder`` and find the listed photographs.

    Raises:
        SystemExit: if a package cannot be fetched or a picture is not in it.
    """
    paths = []
    for package, names in PHOTOGRAPHS.items():
        target = folder / package
        if not target.is_dir():
            unpack(package, folder)
        everything = sorted(target.rglob("*"))
        for name in names:
            found = [path for path in everything if path.as_posix().endswith("/" + name)]
            if not found:
                raise SystemExit(f"{name} is not in the package {package}: another version?")
            paths.append(found[0])
    return paths


def unpack(package: str, folder: Path) -> None:
    """Download one Debian package and unpack it into a folder of its name."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise SystemExit(f"unpack the Debian package {package} into {folder / package} first")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
    archive = next(folder.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg", "-x", archive.name, package], cwd=folder, check=True)


def embed_scenes(model: VisionModel, sprites, seed: int, count: int) -> np.ndarray:
    """(count, d) embeddings of fresh scenes, every ``LETTERBOXED``-th of them not square."""
    side = model.input_size[0]
    square = SceneGenerator(sprites, FAMILIAR, side, seed)
    large = SceneGenerator(sprites, FAMILIAR, side * 3 // 2, seed + 10_000)
    rows = []
    for number in range(count):
        if number % LETTERBOXED:
            pixels = to_pixels([square.scene().image])
        else:
            is_wide = number // LETTERBOXED % 2 == 0
            pixels = model.preprocess(strip(Image.fromarray(large.scene().image), is_wide))
        rows.append(model.embed(pixels))
    return torch.cat(rows).numpy()


def strip(image: Image.Image, is_wide: bool) -> Image.Image:
    """The middle two thirds of a square picture, across it or from top to bottom."""
    side = image.width
    cut = side // 6
    box = (0, cut, side, side - cut) if is_wide else (cut, 0, side - cut, side)
    return image.crop(box)


def views(image: Image.Image) -> list[tuple[str, Image.Image]]:
    """A photograph as an upload may show it: all of it, and its middle square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return [("whole", image), ("crop", image.crop((left, top, left + side, top + side)))]


def random_crops(image: Image.Image, rng: np.random.Generator) -> list[tuple[str, Image.Image]]:
    """Parts of a photograph with 15 to 100 % of its area, half of them mirrored."""
    found = []
    for number in range(CROPS):
        area = rng.uniform(0.15, 1.0) * image.width * image.height
        aspect = np.exp(rng.uniform(np.log(0.6), np.log(1.7)))
        width = min(image.width, round(float(np.sqrt(area * aspect))))
        height = min(image.height, round(float(np.sqrt(area / aspect))))
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        part = image.crop((left, top, left + width, top + height))
        found.append((f"part {number}", ImageOps.mirror(part) if rng.random() < 0.5 else part))
    return found


def embed_photographs(model: VisionModel, paths: list[Path]) -> dict[str, np.ndarray]:
    """Kind of view -> (n, d) embeddings."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {}
    for path in paths:
        photograph = open_image(path)
        for kind, image in views(photograph) + random_crops(photograph, rng):
            rows.setdefault(kind, []).append(model.embed(model.preprocess(image)))
    return {kind: torch.cat(parts).numpy() for kind, parts in rows.items()}


def flagged_when_held_out(kept, setting, photographs: dict[str, np.ndarray]) -> dict[str, float]:
    """Share flagged by banks that were built without any part of them: whole, and middle square."""
    count = len(photographs["whole"])
    fold = np.random.default_rng(0).permutation(count) % FOLDS
    flagged = {kind: np.zeros(count, bool) for kind in ("whole", "crop")}
    for index in range(FOLDS):
        known = np.concatenate([rows[fold != index] for rows in photographs.values()])
        bank = EmbeddingBank.build(kept, known, setting)
        for kind, hits in flagged.items():
            hits[fold == index] = bank.is_unfamiliar(photographs[kind][fold == index])
    return {kind: round(float(hits.mean()), 4) for kind, hits in flagged.items()}


def main() -> None:
    """Build, measure, write the bank and its numbers on the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=assets_dir() / "models" / "scenes.json")
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"))
    parser.add_argument("--photos", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    card = json.loads(args.model.read_text(encoding="utf-8"))
    card.pop("bank", None)
    cards.write_json(args.model, card)
    model = load_model(args.model)
    sprites = drawings.draw(drawings.COLOUR_EMOJI, args.drawings, variants=False)
    sprites = of_sets(sprites, drawings.COLOUR_EMOJI)
    kept, setting, testing = (embed_scenes(model, sprites, seed, count) for seed, count in
                              ((70_001, BANK_SIZE), (70_002, FRESH), (70_003, FRESH)))
    photographs = embed_photographs(model, fetch_photographs(args.photos))
    bank = EmbeddingBank.build(kept, np.concatenate(list(photographs.values())), setting)
    path = args.model.with_name(args.model.stem + "-bank.safetensors")
    bank.save(path)
    flagged = bank.is_unfamiliar(testing)
    numbers = {
        "statistic": "Fisher's linear discriminant between the bank and photographs",
        "size": len(bank), "threshold": round(bank.threshold, 4),
        "fresh_scenes_flagged": round(float(flagged.mean()), 4),
        "letterboxed_scenes_flagged": round(float(flagged[::LETTERBOXED].mean()), 4),
        "fresh_scenes": FRESH,
        "photographs": len(photographs["whole"]),
        "held_out_photographs_flagged": flagged_when_held_out(kept, setting, photographs),
        "photograph_sources": [f"Debian package {name}" for name in PHOTOGRAPHS],
    }
    card = json.loads(args.model.read_text(encoding="utf-8"))
    cards.write_json(args.model, card | {"bank": path.name, "bank_calibration": numbers})
    print(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
