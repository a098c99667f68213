"""Measure the scenes model on freshly composed two-object scenes and write the table on its card.

    python scripts/measure_scenes.py --drawings runs/drawings          # both columns
    python scripts/measure_scenes.py --columns unseen --drawings …     # the unseen style alone

The first column shows the training drawings in new scenes on new backgrounds, the second OpenMoji
drawings (CC BY-SA 4.0: fetched for this measurement, never trained on, never committed). Needs
``requirements-train.txt`` and npm.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.assets import assets_dir  # noqa: E402
from cdam_core.models import VisionModel, load_model  # noqa: E402
from cdam_core.scenes import card as cards  # noqa: E402
from cdam_core.scenes import drawings, quality  # noqa: E402
from cdam_core.scenes.generator import MEASURED, SceneGenerator  # noqa: E402

# Column -> words, sets of drawings, seed, index of its bound in ``quality.MEASURES``.
COLUMNS = {
    "seen": ("the training drawings in new scenes", drawings.COLOUR_EMOJI, 90_001, 2),
    "unseen": ("unseen style (OpenMoji)", drawings.UNSEEN_STYLE, 90_002, 3),
}


def measure_column(model: VisionModel, name: str, cache: Path, count: int, seed: int) -> dict:
    """Estimates of one column on ``count`` fresh scenes."""
    _, set_ids, own_seed, _ = COLUMNS[name]
    sprites = drawings.draw(set_ids, cache, variants=False)
    generator = SceneGenerator(sprites, MEASURED, model.input_size[0], own_seed + seed)
    scenes = (generator.scene() for _ in range(count))
    rows = []
    for done, scene in enumerate(scenes, 1):
        image = Image.fromarray(scene.image)
        rows.append(quality.measure_scene(model, image, scene.mask, scene.labels))
        if done % 50 == 0:
            print(f"{name}: {done} of {count}", file=sys.stderr, flush=True)
    return quality.summarise(rows)


def entry(name: str, estimates: dict, count: int) -> dict:
    """A column as the card states it: value, standard error, bound, and whether it is met."""
    words, _, _, position = COLUMNS[name]
    table = {"scenes": count, "drawings": words}
    for measure, spec in quality.MEASURES.items():
        estimate, bound = estimates[measure], spec[position]
        met = estimate.value >= bound if spec[1] == ">=" else estimate.value <= bound
        table[measure] = {"value": round(estimate.value, 4), "error": round(estimate.error, 4),
                          "bound": f"{spec[1]} {bound}", "met": bool(met)}
    return table


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=assets_dir() / "models" / "scenes.json")
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"))
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--scenes", type=int, default=400, help="per column, at least 300")
    parser.add_argument("--seed", type=int, default=0, help="other scenes of the same kind")
    parser.add_argument("--keep-card", action="store_true", help="print only, write nothing")
    args = parser.parse_args()
    os.nice(10)
    model = load_model(args.model)
    columns = {name: measure_column(model, name, args.drawings, args.scenes, args.seed)
               for name in args.columns}
    print(quality.as_table(columns))
    if not args.keep_card:
        card = json.loads(args.model.read_text(encoding="utf-8"))
        table = card.get("quality", {}) | {name: entry(name, estimates, args.scenes)
                                           for name, estimates in columns.items()}
        cards.write_json(args.model, card | {"quality": table})


if __name__ == "__main__":
    main()
