"""Compose the committed test scenes: ``tests/data/scenes_test.zip``, pictures, masks and labels.

    python scripts/build_scenes_test.py --drawings runs/drawings

They are scenes of the quality table's first column, on other seeds than training and measuring.
Needs ``requirements-train.txt`` and npm.
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
from cdam_core.scenes.generator import MEASURED, SceneGenerator  # noqa: E402

SEED = 80_001
SIDE = 336
QUALITY = 95


def encoded(array: np.ndarray, kind: str, **options) -> bytes:
    """An array as the bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, scenes) -> None:
    """Write scenes into one archive; entries carry no date, so equal scenes give equal files."""
    labels = []
    with zipfile.ZipFile(path, "w") as archive:
        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), content)

        for index, scene in enumerate(scenes):
            add(f"{index:03d}.jpg", encoded(scene.image, "JPEG", quality=QUALITY, subsampling=0))
            add(f"{index:03d}.png", encoded(scene.mask, "PNG", optimize=True))
            labels.append({"labels": list(scene.labels), "drawings": list(scene.credits)})
        add("scenes.json", json.dumps(labels, indent=1).encode())


def main() -> None:
    """Compose and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"))
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "data" / "scenes_test.zip")
    parser.add_argument("--scenes", type=int, default=120)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sprites = drawings.draw(drawings.COLOUR_EMOJI, args.drawings, variants=False)
    generator = SceneGenerator(sprites, MEASURED, SIDE, SEED)
    write(args.out, [generator.scene() for _ in range(args.scenes)])
    print(f"wrote {args.scenes} scenes to {args.out}")


if __name__ == "__main__":
    main()
