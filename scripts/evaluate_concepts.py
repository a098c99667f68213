"""Measure concepts of the reserved classes on scenes of two objects; write the document's table.

    python scripts/evaluate_concepts.py --drawings runs/drawings

Each of the 12 classes that no training ever showed becomes a concept from ten pictures of one
object. In scenes of one such object and one other, the strongest patch of a map should lie on the
right one. Needs ``requirements-train.txt`` and npm.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cdam_core as cdam  # noqa: E402
from cdam_core.assets import assets_dir  # noqa: E402
from cdam_core.benchmarks.masks import HIT_COVERAGE, coverage  # noqa: E402
from cdam_core.concepts import Concept, build_concept, minus_mean_of_others  # noqa: E402
from cdam_core.scenes import drawings  # noqa: E402
from cdam_core.scenes.classes import CLASS_NAMES, RESERVED_CLASSES  # noqa: E402
from cdam_core.scenes.generator import MEASURED, calm, of_sets  # noqa: E402
from cdam_core.scenes.held_out import HeldOutScenes, draw_all  # noqa: E402

EXAMPLES = 10
BOUND_MEAN, BOUND_WORST = 0.80, 0.60  # with the default similarity
# Map -> words of the table; the first one is the default.
MAPS = {
    "dot": "CDAM, dot product (default)",
    "cosine": "CDAM, cosine",
    "l2": "CDAM, L2",
    "minus": "CDAM, dot product less the mean of the other 11",
    "attention": "attention map, the same for every concept",
}
# How the scenes' drawings relate to the examples' -> sets of the examples, sets of the scenes.
UNSEEN = ("noto-v1", "fluent-emoji-flat", "fxemoji")
SEEN = tuple(name for name in drawings.COLOUR_EMOJI if name not in UNSEEN)
CONDITIONS = {
    "same": ("the same sets of drawings", drawings.COLOUR_EMOJI, drawings.COLOUR_EMOJI),
    "other": ("other sets than the examples", SEEN, UNSEEN),
}
START, END = "<!-- measured: start -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Hits:
    """For one map and every class, the share of scenes whose strongest patch lies on an object.

    Attributes:
        right: on the reserved object.
        wrong: on the other object.
    """

    right: dict[str, float]
    wrong: dict[str, float]

    def summary(self) -> tuple[float, float, str, float, float]:
        """Mean over classes, its standard error, worst class and its share, mean of ``wrong``."""
        values = np.array(list(self.right.values()))
        worst = min(self.right, key=self.right.get)
        return (values.mean(), values.std(ddof=1) / np.sqrt(len(values)), worst,
                self.right[worst], float(np.mean(list(self.wrong.values()))))


def build_concepts(model: cdam.VisionModel, sprites, seed: int) -> dict[str, Concept]:
    """One concept per reserved class, from pictures of one object."""
    recipe = calm(MEASURED, counts=(1,))
    generator = HeldOutScenes(sprites, recipe, model.input_size[0], seed)
    return {
        name: build_concept(
            model, [Image.fromarray(generator.show([name]).image) for _ in range(EXAMPLES)], name)
        for name in RESERVED_CLASSES if sprites[name]
    }


def maps_of(model: cdam.VisionModel, encoding, name: str, concepts: dict[str, Concept]):
    """Map id -> (rows, cols) scores of one class's concept."""
    concept = concepts[name]
    less = minus_mean_of_others(concept, list(concepts.values()))
    asked = [concept, concept.using("cosine"), concept.using("l2"), less]
    scores = cdam.explain(model, encoding, asked).scores
    attention = cdam.explain(model, encoding, concept, "attention").scores
    return dict(zip(MAPS, (*scores, attention[0]), strict=True))


def measure(model: cdam.VisionModel, sprites, concepts: dict[str, Concept], count: int,
            seed: int) -> dict[str, Hits]:
    """Hits of every map over ``count`` scenes, as many of every class."""
    generator = HeldOutScenes(sprites, MEASURED, model.input_size[0], seed)
    others = [name for name in CLASS_NAMES if sprites[name]]
    names = [name for name in concepts if sprites[name]]
    rng = np.random.default_rng([seed, 7])
    found: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for index in range(count):
        name = names[index % len(names)]
        scene = generator.show([name, others[rng.integers(len(others))]])
        encoding = model.encode_image(Image.fromarray(scene.image))
        covers = [coverage(scene.mask, number, encoding.grid) for number in (1, 2)]
        for kind, scores in maps_of(model, encoding, name, concepts).items():
            peak = np.unravel_index(scores.argmax(), scores.shape)
            hit = tuple(bool(cover[peak] >= HIT_COVERAGE) for cover in covers)
            found.setdefault((kind, name), []).append(hit)
        if (index + 1) % 60 == 0:
            print(f"{index + 1} of {count}", file=sys.stderr, flush=True)
    return {kind: Hits({name: float(np.mean([h[0] for h in found[kind, name]])) for name in names},
                       {name: float(np.mean([h[1] for h in found[kind, name]])) for name in names})
            for kind in MAPS}


# ---- tables --------------------------------------------------------------------------------------


def summary_table(results: dict[str, dict[str, Hits]]) -> list[str]:
    """Markdown: one row per map, for every condition mean ± standard error and the worst."""
    head = "| strongest patch on the right object |"
    for key in results:
        count = len(results[key]["dot"].right)
        head += f" {CONDITIONS[key][0]} | worst of {count} | on the other |"
    lines = [head, "|---" * (1 + 3 * len(results)) + "|"]
    for kind, words in MAPS.items():
        cells = []
        for hits in (result[kind] for result in results.values()):
            mean, error, worst, lowest, wrong = hits.summary()
            cells.append(f" {mean:.3f} ± {error:.3f} | {lowest:.2f} ({worst}) | {wrong:.3f} ")
        lines.append(f"| {words} |" + "|".join(cells) + "|")
    return lines


def class_table(hits: dict[str, Hits]) -> list[str]:
    """Markdown: one row per reserved class."""
    lines = ["| class | dot | cosine | L2 | less the mean | attention |", "|---" * 6 + "|"]
    for name in hits["dot"].right:
        lines.append(f"| {name} | " + " | ".join(f"{hits[kind].right[name]:.2f}" for kind in MAPS)
                     + " |")
    return lines


def report(results: dict[str, dict[str, Hits]], count: int, weights: str) -> str:
    """The measured part of the document."""
    per_class = count // len(RESERVED_CLASSES)
    mean, _, worst, lowest, _ = results["same"]["dot"].summary()
    met = "met" if mean >= BOUND_MEAN and lowest >= BOUND_WORST else "not met"
    return "\n".join([
        START, "",
        f"{count} scenes per column ({per_class} per class), ± standard error over the classes; "
        f"weights {weights[:12]}.", "",
        *summary_table(results), "",
        f"Asked for with the default similarity: mean ≥ {BOUND_MEAN:.2f} and worst class ≥ "
        f"{BOUND_WORST:.2f}; {met} ({mean:.3f}, {lowest:.2f} for {worst}).", "",
        f"Per class ({CONDITIONS['same'][0]}); with {per_class} scenes each, a share of 0.9 has a "
        f"standard error of about {np.sqrt(0.09 / per_class):.2f}:", "",
        *class_table(results["same"]), "", END])


def write(path: Path, text: str) -> None:
    """Put the measured part into the document, between its marks."""
    old = path.read_text(encoding="utf-8")
    before, after = old.split(START)[0], old.split(END)[1]
    path.write_text(before + text + after, encoding="utf-8")


def run(model: cdam.VisionModel, cache: Path, conditions: Sequence[str], count: int,
        seed: int) -> dict[str, dict[str, Hits]]:
    """Results of every condition."""
    everything = draw_all(drawings.COLOUR_EMOJI, cache)
    results = {}
    for key in conditions:
        _, examples, scenes = CONDITIONS[key]
        print(f"drawings: {CONDITIONS[key][0]}", file=sys.stderr, flush=True)
        concepts = build_concepts(model, of_sets(everything, examples), 60_001 + seed)
        shown = of_sets(everything, scenes)
        results[key] = measure(model, shown, concepts, count, 60_002 + seed)
    return results


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=assets_dir() / "models" / "scenes.json")
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"))
    parser.add_argument("--conditions", nargs="+", choices=list(CONDITIONS),
                        default=list(CONDITIONS))
    parser.add_argument("--scenes", type=int, default=360, help="per column, at least 300")
    parser.add_argument("--seed", type=int, default=0, help="other examples and scenes")
    parser.add_argument("--doc", type=Path, default=ROOT / "docs" / "concepts.md")
    parser.add_argument("--keep-doc", action="store_true", help="print only, write nothing")
    args = parser.parse_args()
    os.nice(10)
    model = cdam.load_model(args.model)
    results = run(model, args.drawings, args.conditions, args.scenes, args.seed)
    if "same" not in results:
        print("\n".join(summary_table(results)))
        return
    text = report(results, args.scenes, model.weights_sha256)
    print(text)
    if not args.keep_doc:
        write(args.doc, text)


if __name__ == "__main__":
    main()
