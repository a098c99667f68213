"""What the comparison says of a method: the question, its limits, and how to read its maps."""

import numpy as np

import cdam_core as cdam
from cdam_core.maps import positive_share
from cdam_core.methods import METHODS
from pages._controls import VARIANTS
from pages._panels import alt_text, caption, is_per_pixel, per_patch
from pages._state import Prepared
from pages._words import percent, plain, signed

ONE_MAP = "the same for every class"

SIGNED = """
**The question.** A picture can hold evidence for several answers. Each map shows what speaks for
one answer (orange with the standard colours) and what speaks against it (blue). What has no colour
made no difference. **A − B** is the difference of the two maps: what speaks for A *rather than* B.

**The scale.** All maps share the printed scale, so the same colour means the same score everywhere.
Scores are in logits, the unit of the model's raw answer. The strongest 1 % of the scores may lie
beyond the scale; they get its last colour, and their numbers are shown in full.
"""
SUPPORT = """
**The question.** This method shows support only: where the map is dark purple, something supports
the answer. It cuts away all that speaks against an answer, so a pale place may be unimportant or
may even count against it; the map cannot say which. For the same reason there is no map of A − B:
what is left of two maps after cutting is no evidence for one answer *rather than* the other.

**The scale.** All maps share the printed scale, from zero to its end, in a unit of the method's
own. The strongest 1 % of the scores may lie beyond it; they get its last colour.
"""
NO_CLASS = """
**The question.** This method does not know which class you ask for: its map is the same for all of
them, so it is shown once and there is no A − B. Dark purple is where it finds much of what the
answer was read from; whether that spoke for or against an answer it cannot say.

**The scale.** From zero to the printed end, in a unit of the method's own. The strongest 1 % of the
scores may lie beyond it; they get its last colour.
"""
PAIR = """
**Two models.** Each map lies on exactly what that model saw: input sizes, patches and padding may
differ. Each model has its own printed scale, shared by all its maps. Logits of different models are
not comparable in size, so the same colour in two models does not mean the same amount. Compare
signs, places, and which class a model prefers.

**No map of the difference.** Between two models it would subtract numbers in different units on
different patches; it would show mostly which model has the larger logits.

**The correlation** says how alike two maps are whatever their scales, with the finer map averaged
on the coarser patches and padding left out. +1: the same places in the same proportions; 0: nothing
in common; below 0: what speaks for the answer in one speaks against it in the other (of maps
without signs: where one is strong, the other is weak). Neighbouring patches are alike, so small
values, on either side of 0, mean little. Alike maps need not be right, and both may be wrong.
"""
LIMITS = """
**What the maps do not tell**

- They are no proof of cause. They say what this method finds in the model's way of answering; not
  what would happen to the answer if that part of the scene were changed.
{}- A strong colour is strong *on the printed scale*, which fits itself to each comparison. Read the
  numbers before you compare two pictures.
- They explain the model, not the world. A wrong answer gets a map as clear as a right one.
"""
LAST_BLOCK = """\
- They show the model's last block only, its last step of reading. What earlier blocks moved from
  one patch to another is shown where it arrived. The class token, which gathers the evidence for
  the answer, looks at the picture only once in the bundled model of everyday objects: in that
  block. In ordinary Vision Transformers it looks in every block, and these maps explain less of
  them.
"""
NEGATIVE = "- A negative score means “speaks against this answer”, not “unimportant”.\n"
PIXELS = """\
- Scores of single pixels are grainy, and much of the grain is noise. Summed to patches they are
  easier to read; the patch numbers on this page are such sums.
"""


def question(method: str, a: str, b: str) -> str:
    """The title: no more than the method can answer."""
    row = METHODS[method]
    if row.signed:
        return f"Why {plain(a)} rather than {plain(b)}?"
    if row.class_specific:
        return f"What supports {plain(a)}, and what supports {plain(b)}?"
    return "Where does the model look?"


def about(method: str) -> str:
    """One line on the method, and why a map of A - B is missing where it is."""
    row = METHODS[method]
    why = ""
    if not row.class_specific:
        why = " It does not depend on the class: one map stands for all, and there is no A − B."
    elif not row.signed:
        why = (" It cuts away what speaks against a class, so there is no map of A − B: the "
               "difference of two such maps is no evidence for A rather than B.")  # fmt: skip
    return f"**{plain(row.label)}.** {plain(row.summary)}{why}"


def how_to_read(method: str, two_models: bool = False) -> str:
    """The words behind "How to read the maps"."""
    row = METHODS[method]
    head = SIGNED if row.signed else SUPPORT if row.class_specific else NO_CLASS
    if two_models:
        head = head.partition("**The scale.**")[0].rstrip() + "\n" + PAIR
    limits = [
        LAST_BLOCK if method in VARIANTS else "",
        NEGATIVE if row.signed else "",
        PIXELS if row.resolution == "pixel" else "",
    ]
    return head + LIMITS.format("".join(limits))


# ---- around the maps -----------------------------------------------------------------------------


def captions(explanation: cdam.Explanation) -> list[dict[str, str]]:
    """What stands above every map: A, B, A - B, and the rest."""
    row = METHODS[explanation.method]
    if not row.class_specific:
        alt = alt_text(explanation, 0, f"{row.label}, {ONE_MAP}")
        return [caption("", row.label, ONE_MAP, alt)]
    return [_caption(explanation, index) for index in range(len(explanation.labels))]


def _caption(explanation: cdam.Explanation, index: int) -> dict[str, str]:
    label, value = explanation.labels[index], signed(explanation.values[index])
    flat = "" if explanation.scores[index].any() else " · zero everywhere"
    if explanation.targets[index]["kind"] == "contrast":
        alt = alt_text(explanation, index, f"{label}, difference {value}")
        return caption("A − B", label, f"difference {value}{flat}", alt)
    badge = ("A", "B")[index] if index < 2 else ""
    what = "logit" if explanation.units[index] == "logit" else "value"
    return caption(badge, label, f"{what} {value}{flat}",
                   alt_text(explanation, index, f"{label}, {what} {value}"))  # fmt: skip


def units_words(explanation: cdam.Explanation) -> str:
    """The unit of scores, for a sentence: "logits", or the units of a model's own outputs."""
    units = dict.fromkeys("logits" if unit == "logit" else unit for unit in explanation.units)
    return "; ".join(units)


def scale_note(drawn: cdam.Explanation, whose: str = "every map, the difference included") -> str:
    """What the printed scale says of its unit, and which maps share it."""
    row = METHODS[drawn.method]
    summed = row.resolution == "pixel" and not is_per_pixel(drawn)
    per = "patch, the sum of its pixels" if summed else "pixel" if is_per_pixel(drawn) else "patch"
    if row.signed:
        return f"One scale for {whose}. Score per {per}, in {units_words(drawn)}."
    shared = f"One scale for {whose.partition(',')[0]}. " if row.class_specific else ""
    return f"{shared}Score per {per}, without sign: darker is more, and nothing shows evidence " \
        "against."  # fmt: skip


# ---- two models ----------------------------------------------------------------------------------


NOT_COMPARABLE = (
    "Logits of different models are not comparable in size: each model has a scale of its own."
)
ALIKE = (
    (0.8, "Much the same places."),
    (0.5, "Partly the same places."),
    (0.2, "Little in common."),
    (-0.2, "Nothing in common."),
    (-1.0, "Opposite in part."),
)  # least correlation -> what it means


def alike(correlation: float, patches: int, grid: tuple[int, int]) -> str:
    """What the correlation of two maps says; grid: the coarser one."""
    if correlation != correlation:
        return "There is no correlation to print: one of the maps is the same everywhere."
    means = next((text for least, text in ALIKE if correlation >= least), ALIKE[-1][1])
    where = f"over the {patches} patches that both show (grid {grid[0]} × {grid[1]})"
    return f"Correlation of the two maps **{signed(correlation)}**, {where}. {means}"


def answer(label: str, names: list[str], values: np.ndarray) -> str:
    """One model's logits of the classes that it is asked for: "Model: zebra +5.20, owl −0.31."."""
    logits = ", ".join(f"{plain(n)} {signed(v)}" for n, v in zip(names, values, strict=True))
    return f"**{plain(label)}**, logits: {logits}."


def no_such_class(label: str, name: str) -> str:
    """That a class is known to the other model only."""
    return f"{label} has no class that is called {name}."


# ---- where it lies -------------------------------------------------------------------------------


def shares(prepared: Prepared, explanation: cdam.Explanation) -> list[str]:
    """For a sample with known objects: where the map lies, a sentence per class."""
    if not prepared.regions:
        return []
    row, patches = METHODS[explanation.method], per_patch(explanation)
    counted = patches.scores * explanation.content
    if not row.class_specific:
        return [_places("the map", counted[0], prepared.regions, list(prepared.regions))]
    what = "positive evidence" if row.signed else "support"
    return [
        share_sentence(label, scores, prepared.regions, what)
        for label, target, scores in zip(
            explanation.labels, explanation.targets, counted, strict=True
        )
        if target["kind"] == "class"
    ]


def share_sentence(
    label: str, scores: np.ndarray, regions: dict[str, np.ndarray], what: str
) -> str:
    """E.g. "83 % of the positive evidence for zebra lies on the zebra, 4 % on the elephant."."""
    if not (scores > 0).any():
        return f"No patch {'speaks for' if what.startswith('positive') else 'supports'} " \
            f"{plain(label)}."  # fmt: skip
    own_first = sorted(regions, key=lambda name: name != label)
    if label in regions:
        return _places(f"the {what} for {plain(label)}", scores, regions, own_first)
    return (f"{plain(label)} is not in this picture; "
            f"{_places(f'its {what}', scores, regions, own_first)}")  # fmt: skip


def _places(
    whose: str, scores: np.ndarray, regions: dict[str, np.ndarray], order: list[str]
) -> str:
    start, *rest = (
        (percent(positive_share(scores, regions[name])), plain(name)) for name in order
    )
    parts = [f"**{start[0]}** of {whose} lies on the {start[1]}"]
    parts += [f"**{share}** on the {name}" for share, name in rest]
    return f"{', '.join(parts)}."
