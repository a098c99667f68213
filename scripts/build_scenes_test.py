"""Compose the committed test scenes: ``tests/data/scenes_test.zip``, pictures, masks and labels.

    python scripts/build_scenes_test.py --drawings runs/drawings
    python scripts/build_scenes_test.py --objects 1 --scenes 400 --seed 80002 --out single.zip

They are scenes of the quality table's first column, on other seeds than training and measuring.
With options, more of them, or of one object each, for ``python -m cdam_core benchmark --data
single.zip``. Needs ``requirements-train.txt`` and npm.
"""

import argparse
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.scenes import drawings  # noqa: E402
from cdam_core.scenes.classes import CLASS_NAMES  # noqa: E402
from cdam_core.scenes.generator import MEASURED, SceneGenerator, calm  # noqa: E402

SEED = 80_001
SIDE = 336
QUALITY = 95


def encoded(array: np.ndarray, kind: str, **options) -> bytes:
    """An array as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, scenes, quality: int = QUALITY) -> None:
    """Write scenes into one archive; entries carry no date, so equal scenes give equal files."""
    labels = []
    with zipfile.ZipFile(path, "w") as archive:
        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), content)

        for index, scene in enumerate(scenes):
            add(f"{index:03d}.jpg", encoded(scene.image, "JPEG", quality=quality, subsampling=0))
            add(f"{index:03d}.png", encoded(scene.mask, "PNG", optimize=True))
            labels.append({"labels": list(scene.labels),
                           "classes": [CLASS_NAMES[label] for label in scene.labels],
                           "drawings": list(scene.credits)})
        add("scenes.json", json.dumps(labels, indent=1).encode())


def main() -> None:
    """Compose and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"))
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "data" / "scenes_test.zip")
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--objects", type=int, choices=(1, 2), default=2, help="in every scene")
    parser.add_argument("--seed", type=int, default=SEED, help="fixes all scenes")
    parser.add_argument("--quality", type=int, default=QUALITY, help="of the JPEG files")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sprites = drawings.draw(drawings.COLOUR_EMOJI, args.drawings, variants=False)
    recipe = calm(MEASURED, counts=(1,) if args.objects == 1 else MEASURED.counts)
    generator = SceneGenerator(sprites, recipe, SIDE, args.seed)
    write(args.out, (generator.scene() for _ in range(args.scenes)), args.quality)
    print(f"wrote {args.scenes} scenes to {args.out}")


if __name__ == "__main__":
    main()
