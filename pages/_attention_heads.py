"""The last block head by head: attention, relevance, and their product, as maps and in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cdam_core.maps import symmetric_scale, to_map
from cdam_core.mechanism import SMALL_SHARE, Mechanism, Openness
from cdam_core.pictures import PALETTES, Palette, legend, overlay
from cdam_core.sanity import correlation
from pages._panels import COLOURED, data_url
from pages._state import Prepared
from pages._words import decimals_for, percent, plain, signed

SIDE = 176  # pixels of a small map
PATHS = {"both": "Both paths", "value": "Value path", "key": "Key path"}
ATTENTION = PALETTES["purple"]


def relevance_of(parts: Mechanism, path: str) -> np.ndarray:
    """(H, rows, cols): R^h of the first target, or its part in one path."""
    return {"both": parts.relevance, "value": parts.by_value, "key": parts.by_key}[path][0]


def viewer_data(
    prepared: Prepared, parts: Mechanism, path: str, palette: str
) -> dict[str, Any]:
    """Everything that the component of heads needs but "selected"; JSON-able.

    Args:
        prepared: what the model saw.
        parts: of one target.
        path: id in ``PATHS``.
        palette: of signed maps.
    """
    content, colours = parts.content, PALETTES[palette]
    relevance = relevance_of(parts, path)
    evidence = parts.attention * relevance
    total = evidence.sum(0)
    view = prepared.view.resize((SIDE, round(SIDE * prepared.view.height / prepared.view.width)))
    scales = [
        symmetric_scale([maps[..., content]], COLOURED)
        for maps in (parts.attention, relevance, np.concatenate([evidence, total[None]]))
    ]
    digits = [decimals_for(scale) for scale in scales]

    def small(scores: np.ndarray, kind: int, alt: str, words: str) -> dict[str, str]:
        chosen = ATTENTION if kind == 0 else colours
        picture = _small_map(view, scores, scales[kind], chosen, content)
        return {"src": picture, "alt": alt, "words": words}

    cards = []
    for head in range(len(parts.attention)):
        name = f"head {head + 1}"
        cards.append({
            "title": f"Head {head + 1}",
            "note": f"{percent(head_share(parts, evidence, head))} of the evidence",
            "maps": [
                small(parts.attention[head], 0, f"Attention of {name}", "attention"),
                small(relevance[head], 1, f"Relevance in {name}", "× relevance"),
                small(evidence[head], 2, f"Attention times relevance of {name}", "= evidence"),
            ],
        })  # fmt: skip
    whole = "CDAM" if path == "both" else f"CDAM, {PATHS[path].lower()}"
    cards.append({
        "title": "All heads",
        "note": "",
        "maps": [
            small(parts.mean_attention, 0, "Attention, mean of all heads", "mean attention"),
            None,
            small(total, 2, f"{whole}: the sum over all heads", f"sum = {whole}"),
        ],
    })  # fmt: skip
    names = ("Attention", "Relevance", "Evidence")
    flat = [np.round(maps.reshape(len(maps), -1), d + 1).tolist()
            for maps, d in zip((parts.attention, relevance, evidence), digits, strict=True)]
    return {
        "cards": cards,
        "scales": [
            _scale(name, scale, digit, ATTENTION if kind == 0 else colours)
            for kind, (name, scale, digit) in enumerate(zip(names, scales, digits, strict=True))
        ],
        "grid": list(content.shape),
        "content": content.ravel().astype(int).tolist(),
        "names": [name.lower() for name in names],
        "digits": digits,
        "attention": flat[0], "relevance": flat[1], "evidence": flat[2],
        "total": np.round(total.ravel(), digits[2] + 1).tolist(),
        "label": f"Maps of every head, {content.shape[0]} rows and {content.shape[1]} columns. "
        "Arrow keys multiply out a patch, Enter marks it, Escape leaves.",
    }  # fmt: skip


def _small_map(
    view: Image.Image, scores: np.ndarray, scale: float, palette: Palette, content: np.ndarray
) -> str:
    size = (view.height, view.width)
    inside = None if content.all() else to_map(content, size) > 0.5
    return data_url(overlay(view, to_map(scores, size), scale, palette, content=inside))


def _scale(name: str, scale: float, digits: int, palette: Palette) -> dict[str, str]:
    end = f"{scale:.{digits}f}"
    low, high = (f"−{end}", f"+{end}") if palette.signed else ("0", end)
    units = {"Relevance": " (logits per unit of attention)", "Evidence": " (logits)"}
    return {"name": name + units.get(name, ""), "low": low, "high": high,
            "src": data_url(legend(scale, palette, (10, 120))),
            "alt": f"Colour scale of {name.lower()} from {low} to {high}"}  # fmt: skip


# ---- words ---------------------------------------------------------------------------------------


def head_share(parts: Mechanism, evidence: np.ndarray, head: int) -> float:
    """Share of the sum of |evidence| over heads and patches that one head holds."""
    strength = np.abs(evidence[:, parts.content]).sum(1)
    return float(strength[head] / strength.sum()) if strength.sum() else 0.0


def path_words(parts: Mechanism) -> str:
    """How the two paths share the work, in one or two sentences."""
    by_value, by_key = (
        (parts.attention * each[0]).sum(0)[parts.content]
        for each in (parts.by_value, parts.by_key)
    )
    strength = np.abs(by_value).sum(), np.abs(by_key).sum()
    if not sum(strength):
        return "No patch contributes through either path."
    share = float(strength[0] / sum(strength))
    alike = correlation(by_value, by_key)
    relation = "" if np.isnan(alike) else f" Their maps correlate by {signed(alike)}: " + (
        "they mostly say the same." if alike > 0.5
        else "they mostly oppose each other." if alike < -0.5
        else "they say different things."
    )
    return (
        f"The **value path** (what a patch says when it is attended) holds "
        f"**{percent(share)}** of the strength of the evidence, the **key path** (how a patch "
        f"draws or repels attention) **{percent(1 - share)}**.{relation}"
    )


def sum_table(parts: Mechanism, path: str, patch: tuple[int, int]) -> list[dict[str, str]]:
    """One line per head for one patch, and the sum: attention times relevance is evidence."""
    attention = parts.attention[:, *patch].astype(np.float64)
    relevance = relevance_of(parts, path)[:, *patch].astype(np.float64)
    lines = [
        {"Head": f"Head {head + 1}", "Attention": f"{a:.5f}", "× Relevance": signed(r, 3),
         "= Evidence": signed(a * r, 4)}
        for head, (a, r) in enumerate(zip(attention.tolist(), relevance.tolist(), strict=True))
    ]  # fmt: skip
    total = float(attention @ relevance)
    whole = "Sum = CDAM" if path == "both" else f"Sum = {PATHS[path].lower()}"
    return [*lines, {"Head": whole, "Attention": "", "× Relevance": "",
                     "= Evidence": signed(total, 4)}]  # fmt: skip


def open_words(found: Openness) -> tuple[str, str]:
    """(verdict, one or two sentences): how much of the decision the last block still takes."""
    label = plain(found.label)
    numbers = (
        f"With the patches hidden from the class token in the last block, the logit of {label} "
        f"would be {signed(found.hidden)}; with them it is {signed(found.full)}"
    )
    share = percent(found.share) if found.verdict != "none" else ""
    if found.verdict == "none":
        return "none", (f"For {label} this picture changes nothing against a blank one, so there "
                        "is nothing to explain.")  # fmt: skip
    if found.verdict == "small":
        return "small", (
            f"For {label}, CDAM explains only a small correction of this model: {share} of what "
            f"the picture changes is decided in the last block, the rest before it. {numbers}."
        )
    if found.verdict == "part":
        return "part", (
            f"For {label}, CDAM explains a part of this model's decision: {share} of what the "
            f"picture changes is decided in the last block, the rest before it. {numbers}."
        )
    everything = "All" if found.share > 0.995 else share
    return "large", (
        f"{everything} of what this picture changes for {label} is decided in the last block, "
        f"which is what CDAM explains. {numbers}."
    )


def open_table(every: Sequence[Openness]) -> list[dict[str, str]]:
    """One line per answer."""
    return [
        {
            "Answer": each.label,
            "Logit": signed(each.full),
            "with the patches hidden": signed(each.hidden),
            "Blank picture": signed(each.blank_full),
            "blank, patches hidden": signed(each.blank_hidden),
            "Decided in the last block": "–" if np.isnan(each.share) else percent(each.share),
        }
        for each in every
    ]


OPEN_HELP = (
    "The logit moves from what the model says of a blank picture to what it says of this one. The "
    "part of that way which is already gone when the class token cannot see the patches in the "
    "last block was decided before it. CDAM differentiates the last block only: what was decided "
    f"before, it cannot explain. Below {percent(SMALL_SHARE)} the page warns. Registers and the "
    "class token itself stay visible."
)
