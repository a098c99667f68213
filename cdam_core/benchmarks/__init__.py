"""Which map may be trusted: measures of maps against the model itself, on the image at hand.

Source: Brocki, Binda, Chung, arXiv 2312.02364, sections 3.4 and 3.5. Pixels are replaced by those
of the blurred image and the target's value is watched; nothing else is known about the truth. Patch
maps are judged by whole patches, pixel maps by single pixels. Values are logits (or similarities),
never probabilities. Every result says what was perturbed, how, and what was read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cdam_core.benchmarks.boxes import (
    BoxDrops,
    BoxSensitivity,
    box_drops,
    box_drops_of,
    box_sensitivity,
    correlate,
    random_corners,
)
from cdam_core.benchmarks.comparing import (
    AblationCorrelation,
    Discrimination,
    ablation_correlation,
    box_discrimination,
    compactness,
    fidelity_discrimination,
)
from cdam_core.benchmarks.ordering import (
    Band,
    Fidelity,
    area_percent,
    fidelities,
    fidelity,
    random_band,
    random_bands,
    ranking,
)
from cdam_core.benchmarks.sight import Protocol, Sight, blur, pearson, to_patches


@dataclass(frozen=True)
class Measure:
    """One row of ``MEASURES``.

    Attributes:
        id: name in code, files and results.
        label: name shown to people.
        better: "higher" | "lower".
        summary: one sentence for a reader who is no programmer.
        function: what computes it.
        number: attribute of its result that holds the number; None: the result itself.
        curve: attributes of its result that hold the curve's positions and values, if any.
    """

    id: str
    label: str
    better: str
    summary: str
    function: Callable[..., Any]
    number: str | None = None
    curve: tuple[str, ...] = ()

    def of(self, result: Any) -> float:
        """The number in a result of ``function``."""
        return float(result if self.number is None else getattr(result, self.number))


MEASURES: dict[str, Measure] = {
    measure.id: measure
    for measure in (
        Measure(
            "fidelity",
            "Fidelity (LIF − MIF)",
            "higher",
            "How much sooner the value falls when the most important parts are blurred first than "
            "when the least important are.",
            fidelity,
            "area",
            ("fractions", "mif", "lif"),
        ),
        Measure(
            "fidelity_mif",
            "Most important first",
            "lower",
            "What is left of the value while the most important parts are blurred first.",
            fidelity,
            "area_mif",
            ("fractions", "mif"),
        ),
        Measure(
            "fidelity_lif",
            "Least important first",
            "higher",
            "What is left of the value while the least important parts are blurred first.",
            fidelity,
            "area_lif",
            ("fractions", "lif"),
        ),
        Measure(
            "box_sensitivity",
            "Box sensitivity",
            "higher",
            "How well the scores in a box foretell what blurring it costs.",
            box_sensitivity,
            "area",
            ("sizes", "correlation"),
        ),
        Measure(
            "fidelity_discrimination",
            "Class discrimination by fidelity",
            "higher",
            "How much fidelity is lost with the map of a wrong class; 0: the map does not care "
            "which class you ask for.",
            fidelity_discrimination,
            "area",
            ("positions", "difference"),
        ),
        Measure(
            "box_discrimination",
            "Class discrimination by boxes",
            "higher",
            "How much box sensitivity is lost with the map of a wrong class.",
            box_discrimination,
            "area",
            ("positions", "difference"),
        ),
        Measure(
            "compactness",
            "Compactness",
            "higher",
            "Share of the map that is nearly zero; says nothing about being right.",
            compactness,
        ),
        Measure(
            "ablation_correlation",
            "Agreement with token ablation",
            "higher",
            "How well the scores foretell what leaving a patch out costs.",
            ablation_correlation,
            "pooled",
        ),
    )
}

__all__ = [
    "MEASURES",
    "AblationCorrelation",
    "Band",
    "BoxDrops",
    "BoxSensitivity",
    "Discrimination",
    "Fidelity",
    "Measure",
    "Protocol",
    "Sight",
    "ablation_correlation",
    "area_percent",
    "blur",
    "box_discrimination",
    "box_drops",
    "box_drops_of",
    "box_sensitivity",
    "compactness",
    "correlate",
    "fidelities",
    "fidelity",
    "fidelity_discrimination",
    "pearson",
    "random_band",
    "random_bands",
    "random_corners",
    "ranking",
    "to_patches",
]
