"""What the points say, in numbers and words: correlations, quiet patches, where attention goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import cdam_core as cdam
from cdam_core import mechanism
from cdam_core.intervals import DRAWS, LEVEL, Estimate, interval_text
from cdam_core.mechanism import LOUD, QUIET, TILES, Patches
from cdam_core.methods import METHODS
from pages._attention_sets import PictureSet
from pages._words import percent, plain

CORRELATION_WORDS = ((0.2, "hardly go together"), (0.5, "go together a little"),
                     (0.8, "clearly go together"), (1.1, "are nearly the same"))  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """What is measured of one method against attention.

    Attributes:
        method: id in ``METHODS``.
        pooled: correlation of all patches.
        mean: mean of the pictures' correlations; None for a single picture.
        quiet, loud: patches with next to no attention, and those of them that score.
        mass: shares of attention that are evidence for, against, neither.
    """

    method: str
    pooled: Estimate
    mean: Estimate | None
    quiet: int
    loud: int
    mass: tuple[Estimate, Estimate, Estimate]


def numbers_of(pictures: Sequence[Patches], method: str) -> Numbers:
    """Measure one method on one picture or many."""
    attentions = [each.attention for each in pictures]
    scores = [each.scores[method] for each in pictures]
    if len(pictures) > 1:
        found = mechanism.agreement(attentions, scores)
        pooled, mean = found.pooled, found.mean
    else:
        pooled, mean = _within(pictures[0], method), None
    _, quiet, loud = mechanism.quiet_share(attentions, scores)
    mass = mechanism.attention_mass(attentions, scores)
    return Numbers(method, pooled, mean, quiet, loud, mass)


def _within(patches: Patches, method: str) -> Estimate:
    content = np.zeros(patches.grid, bool)
    content.ravel()[patches.index] = True
    maps = []
    for values in (patches.attention, patches.scores[method]):
        filled = np.zeros(patches.grid)
        filled[content] = values
        maps.append(filled)
    return mechanism.agreement_within(*maps, content)


# ---- words ---------------------------------------------------------------------------------------


def sentences(found: Numbers, pictures: Sequence[Patches]) -> list[str]:
    """Plain CDAM in three sentences: how alike, where attention is low, where attention goes."""
    return [_alike(found, len(pictures)), _quiet(found, pictures), _mass(found, pictures)]


def _alike(found: Numbers, count: int) -> str:
    value = found.pooled.value
    if np.isnan(value):
        return "One of the two maps is flat, so there is no correlation."
    words = next(words for bound, words in CORRELATION_WORDS if abs(value) < bound)
    against = " in opposite directions" if value <= -CORRELATION_WORDS[0][0] else ""
    mean = "" if found.mean is None else (
        f" Picture by picture the correlation is {_interval(found.mean)} on average."
    )
    whole = "of this picture" if count == 1 else f"of {count} pictures"
    return (f"Over the patches {whole}, attention and CDAM {words}{against}: correlation "
            f"{_interval(found.pooled)}.{mean}")  # fmt: skip


def _quiet(found: Numbers, pictures: Sequence[Patches]) -> str:
    if not found.quiet:
        return f"No patch has attention below {percent(QUIET)} of its picture's maximum."
    allowed = sum(map(patches_that_could_score, pictures)) if len(pictures[0].by_value) else None
    bound = "" if allowed is None else (
        " That follows from CDAM = sum over heads of attention × relevance: a score cannot exceed "
        "attention × number of heads × the patch's largest relevance, and that is too little "
        + ("for every one of them." if not allowed
           else f"for {found.quiet - allowed} of the {found.quiet}.")
    )
    return (
        f"**{found.loud}** of the **{found.quiet}** patches with attention below {percent(QUIET)} "
        f"of the maximum have a CDAM above {percent(LOUD)} of the largest.{bound}"
    )


def patches_that_could_score(patches: Patches) -> int:
    """Patches with next to no attention whose bound still allows a score above ``LOUD``."""
    quiet = patches.attention < QUIET * patches.attention.max()
    bound = patches.head_attention.sum(0) * np.abs(patches.by_value + patches.by_key).max(0)
    return int((quiet & (bound > LOUD * np.abs(patches.scores["cdam"]).max())).sum())


def _mass(found: Numbers, pictures: Sequence[Patches]) -> str:
    label = plain(pictures[0].label) if len({p.target for p in pictures}) == 1 else "the answer"
    shares = [percent(each.value) for each in found.mass]
    return (
        f"Of the attention on patches, **{shares[0]}** goes to evidence for {label}, "
        f"**{shares[1]}** to evidence against it and **{shares[2]}** to patches that are "
        f"irrelevant for it (CDAM within ±{percent(LOUD)} of the picture's largest)."
    )


def _interval(found: Estimate) -> str:
    text = interval_text(found)
    value, bracket, rest = text.partition(" (")
    return f"**{value}**" + (f" (95 % interval {rest}" if bracket else "")


def table(every: Sequence[Numbers]) -> list[dict[str, Any]]:
    """One line per variant."""
    lines = []
    for found in every:
        line = {
            "Map": METHODS[found.method].label,
            "Correlation with attention": interval_text(found.pooled),
        }
        if found.mean is not None:
            line["Mean of the pictures"] = interval_text(found.mean)
        line |= {
            "Scores without attention": f"{found.loud} of {found.quiet}"
            + (f" ({100 * found.loud / found.quiet:.1f} %)" if found.quiet else ""),
            "Attention for": percent(found.mass[0].value),
            "against": percent(found.mass[1].value),
            "irrelevant": percent(found.mass[2].value),
        }
        lines.append(line)
    return lines


def how_measured(count: int) -> str:
    """How the intervals come about."""
    drawn = (
        f"drawing the {count} pictures {DRAWS} times with replacement, all patches of a picture "
        "together"
        if count > 1
        else f"drawing {TILES} × {TILES} tiles of neighbouring patches {DRAWS} times with "
        "replacement; it says how much the number depends on which part of this picture is looked "
        "at, nothing about other pictures"
    )
    return (
        f"Correlations are Pearson's; 95 % intervals come from {drawn}. *Scores without "
        f"attention*: patches with attention below {percent(QUIET)} of the maximum whose |score| "
        f"exceeds {percent(LOUD)} of its maximum. For plain CDAM this is bounded by the formula. "
        "Integrated and Smooth CDAM average over other values of the tokens, where a patch may "
        "well be attended, so for them it is shown, not promised."
    )


def made(
    model: cdam.VisionModel, which: PictureSet, pictures: Sequence[Patches]
) -> dict[str, Any]:
    """What the points and numbers come from, JSON-able."""
    return {
        "model": model.id,
        "weights_sha256": model.weights_sha256,
        "simulated": model.simulated,
        "set": which.label,
        "pictures": len(pictures),
        "patches": sum(len(each.index) for each in pictures),
        "targets": list(dict.fromkeys(each.label for each in pictures)),
        "attention": "of the class token in the last block, mean over heads",
        "scores": "logits per patch; positive supports the target, negative opposes it",
        "cdam_core": cdam.__version__,
    }


def as_json(every: Sequence[Numbers]) -> dict[str, Any]:
    """All numbers with their intervals; NaN becomes null."""
    return {
        "thresholds": {"quiet": QUIET, "evidence": LOUD},
        "intervals": {"level": LEVEL, "draws": DRAWS},
        "maps": [
            {
                "method": each.method,
                "correlation": estimate_json(each.pooled),
                "mean_of_pictures": estimate_json(each.mean),
                "patches_without_attention": each.quiet,
                "of_these_scoring": each.loud,
                "attention_for": estimate_json(each.mass[0]),
                "attention_against": estimate_json(each.mass[1]),
                "attention_irrelevant": estimate_json(each.mass[2]),
            }
            for each in every
        ],
    }


def estimate_json(found: Estimate | None) -> dict[str, float | None] | None:
    """A number with its interval; NaN, which JSON does not know, becomes null."""
    if found is None:
        return None
    return {name: None if np.isnan(value) else value for name, value in vars(found).items()}
