"""How well maps find their object and avoid the other one, on scenes of two objects.

Both classes of every scene are explained; the masks, which the model never saw in training, tell
where the evidence should lie. Every number comes with its standard error over scenes.
"""

from dataclasses import dataclass

import numpy as np

from cdam_core.benchmarks.masks import coverage, measure_map
from cdam_core.explanation import explain
from cdam_core.models import VisionModel

# Measure -> (words, bound on the training drawings, bound on the unseen style); the bound is a
# minimum where the sign is ">=" and a maximum where it is "<=".
MEASURES: dict[str, tuple[str, str, float, float]] = {
    "both_in_top2": ("both classes in the top 2", ">=", 0.90, 0.55),
    "hit_target": ("strongest patch on the target", ">=", 0.97, 0.88),
    "hit_other": ("strongest patch on the other object", "<=", 0.02, 0.10),
    "mass_target": ("positive CDAM mass inside the target", ">=", 0.86, 0.75),
    "mass_other": ("positive CDAM mass inside the other object", "<=", 0.05, 0.12),
    "other_negative": ("summed CDAM over the other object negative", ">=", 0.98, 0.90),
}


@dataclass(frozen=True)
class Estimate:
    """A mean over scenes and its standard error."""

    value: float
    error: float


def measure_scene(model: VisionModel, image, mask: np.ndarray, labels) -> dict[str, float]:
    """The measures of one scene of two objects, averaged over its two maps.

    Args:
        model: the model to explain.
        image: PIL image of the model's input size.
        mask: (H, W) instance mask of the same size.
        labels: class index of object 1 and of object 2.
    """
    encoding = model.encode_image(image)
    scores = explain(model, encoding, [int(label) for label in labels]).scores
    covers = [coverage(mask, index, encoding.grid) for index in (1, 2)]
    maps = [measure_map(scores[0], *covers), measure_map(scores[1], *covers[::-1])]
    top = model.logits(encoding).topk(2).indices.tolist()
    means = {name: float(np.mean([one[name] for one in maps])) for name in maps[0]}
    return {"both_in_top2": float(set(top) == {int(label) for label in labels})} | means


def summarise(rows: list[dict[str, float]]) -> dict[str, Estimate]:
    """Mean and standard error of every measure over scenes."""
    table = {name: np.array([row[name] for row in rows]) for name in MEASURES}
    return {name: Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))
            for name, values in table.items()}


def measure(model: VisionModel, images, masks, labels) -> dict[str, Estimate]:
    """All measures over scenes of two objects."""
    return summarise([measure_scene(model, *scene)
                      for scene in zip(images, masks, labels, strict=True)])


def as_table(columns: dict[str, dict[str, Estimate]]) -> str:
    """Plain-text table: one row per measure, one column per set of scenes, value ± error."""
    lines = [f"{'':46}" + "".join(f"{name:>22}" for name in columns)]
    for name, (words, *_) in MEASURES.items():
        cells = (column[name] for column in columns.values())
        lines.append(f"{words:46}"
                     + "".join(f"{cell.value:>14.3f} ± {cell.error:.3f}" for cell in cells))
    return "\n".join(lines)
