"""How CDAM comes about: attention times relevance, head by head; and how far the two agree.

The last block gives every patch i an attention A^h_i in every head h, and the closed form of CDAM
(``last_block``) says what the patch makes of it:

    S_i = sum_h A^h_i * R^h_i,    R^h_i the relevance, signed, in units of the value.

So a patch without attention scores exactly zero: the paper's Eq. 9, which its Appendix A.1 reports
as an observation. ``take_apart`` gives A and R of one picture, ``pool`` collects the patches of
many (the paper's Figure 11), and the functions below it say in numbers what such a scatter shows.
``openness`` asks the model itself how much of its answer the last block still decides.

Source: Brocki, Binda, Chung, arXiv 2312.02364, Figure 11, Eq. 9 and Appendix A.1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from cdam_core.errors import BadImage, BadTarget
from cdam_core.explanation import explain
from cdam_core.intervals import Estimate, bootstrap, interval_text
from cdam_core.last_block import TokenSets, relevance_by_head, values_without_patches
from cdam_core.methods import METHODS
from cdam_core.methods.blocks import (
    blocks_of,
    open_attention,
    require_class_row,
    require_open,
)
from cdam_core.models import Encoding, VisionModel
from cdam_core.pictures import figure_file
from cdam_core.targets import Target, resolve

QUIET = 0.01  # attention below this share of its maximum counts as none
LOUD = 0.05  # |score| above this share of its maximum counts as evidence
TILES = 4  # tiles per side of a picture, for intervals from one picture alone
SMALL_SHARE, LARGE_SHARE = 1 / 3, 2 / 3  # of the decision left to the last block

OnStep = Callable[[int, int], None]


# ---- one picture ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Mechanism:
    """What the last block does with every patch, for T targets and H heads.

    Attributes:
        attention: (H, rows, cols), A^h, of the class token; None where the block computes it in a
            way of its own.
        by_value, by_key: (T, H, rows, cols), the two parts of R^h: what the patch says when
            attended, and how it draws or repels attention; signed, value per unit of attention.
            None where the closed form does not apply.
        scores: (T, rows, cols), CDAM.
        values: (T,), the explained values.
        labels: one readable name per target.
        content: (rows, cols) bool, False on padding.
    """

    attention: np.ndarray | None
    by_value: np.ndarray | None
    by_key: np.ndarray | None
    scores: np.ndarray
    values: np.ndarray
    labels: tuple[str, ...]
    content: np.ndarray

    @property
    def relevance(self) -> np.ndarray | None:
        """(T, H, rows, cols), R^h = value path + key path."""
        return None if self.by_value is None else self.by_value + self.by_key

    @property
    def evidence(self) -> np.ndarray | None:
        """(T, H, rows, cols), A^h * R^h; summed over heads it is ``scores``."""
        return None if self.by_value is None else self.attention * self.relevance

    @property
    def mean_attention(self) -> np.ndarray | None:
        """(rows, cols), A: the mean over heads, as the attention map shows it."""
        return None if self.attention is None else self.attention.mean(0)

    def bound(self) -> np.ndarray | None:
        """(T, rows, cols): what |S| cannot exceed, H * A * max over heads of |R^h|."""
        if self.by_value is None:
            return None
        return self.attention.sum(0) * np.abs(self.relevance).max(1)


def take_apart(model: VisionModel, encoding: Encoding, target: Target) -> Mechanism:
    """Attention and relevance of every patch in every head.

    Where the closed form does not apply, ``scores`` come from autograd and there is no split into
    heads and paths; the attention is still given where the last block is timm's own and one class
    token is read.

    Args:
        model: adapted ViT.
        encoding: the encoded picture.
        target: as for ``explain``.

    Raises:
        BadTarget: unknown or unfit target.
    """
    found = explain(model, encoding, target)
    attention, by_value, by_key = _parts(model, encoding, target)
    return Mechanism(
        attention, by_value, by_key, found.scores, found.values, found.labels, encoding.content
    )


def _parts(
    model: VisionModel, encoding: Encoding, target: Target
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """(H, rows, cols) attention and (T, H, rows, cols) relevance by path; None: not to be had."""
    prefix, grid = model.num_prefix_tokens, encoding.grid

    def patches(tokens: Tensor) -> np.ndarray:
        return tokens[..., prefix:].unflatten(-1, grid).float().cpu().numpy()

    if model.closed_form:
        sets = TokenSets.of(model.last_norm(encoding.tokens))
        seen, by_value, by_key = relevance_by_head(
            model.module, encoding.tokens[:, 0], sets, resolve(model, target)
        )
        return patches(seen.probabilities[0]), patches(by_value[0]), patches(by_key[0])
    try:
        block = _last_block(model)
        require_class_row(model.module)
    except BadTarget:
        return None, None, None
    with torch.no_grad():
        _, probabilities = open_attention(block, encoding.tokens).rows(slice(0, 1))
    return patches(probabilities[:, 0]), None, None


def _last_block(model: VisionModel) -> nn.Module:
    """The last block; ``BadTarget`` "unsupported" where its attention cannot be laid open."""
    block = blocks_of(model.module)[-1]
    require_open(block)
    return block


# ---- what the model had decided before -----------------------------------------------------------


@dataclass(frozen=True)
class Openness:
    """How much of one value the last block still takes from the patches.

    The value moves from what the model says of a blank picture to what it says of this one. Part
    of the way is there when the class token cannot see the patches in the last block (``before``),
    the rest comes from seeing them there (``last``).

    Attributes:
        label: the target's name.
        full: the value.
        hidden: the value with the patches hidden from the class token in the last block.
        blank_full, blank_hidden: the same of a blank picture.
    """

    label: str
    full: float
    hidden: float
    blank_full: float
    blank_hidden: float

    @property
    def before(self) -> float:
        """What the blocks before the last one had made of this picture already."""
        return self.hidden - self.blank_hidden

    @property
    def last(self) -> float:
        """What seeing the patches in the last block adds."""
        return (self.full - self.hidden) - (self.blank_full - self.blank_hidden)

    @property
    def share(self) -> float:
        """|last| / (|before| + |last|), 0 to 1; NaN where the picture moves nothing."""
        whole = abs(self.before) + abs(self.last)
        return abs(self.last) / whole if whole > 0 else float("nan")

    @property
    def verdict(self) -> str:
        """"small" | "part" | "large" | "none": how much the last block still decides."""
        if np.isnan(self.share):
            return "none"
        if self.share < SMALL_SHARE:
            return "small"
        return "part" if self.share < LARGE_SHARE else "large"


def openness(
    model: VisionModel, encoding: Encoding, target: Target, blank: Encoding | None = None
) -> list[Openness]:
    """One ``Openness`` per target.

    Differs from the mere difference of the two values: a class token that has seen nothing has a
    logit, too (its bias), and that is no decision. A blank picture tells the two apart. Where the
    class token joins in the last block, ``before`` is exactly zero.

    Args:
        model: adapted ViT.
        encoding: the encoded picture.
        target: as for ``explain``.
        blank: the encoded blank picture of the same size; None: made here, by one forward pass.

    Raises:
        BadTarget: "unsupported" where the last block is not timm's own ``Block``, so that leaving
            the patches out of it might mean something else, or where no class token is read.
    """
    _last_block(model)
    if model.pool != "token":
        raise BadTarget("unsupported", "This model averages its patches, so there is no class "
                        "token to hide them from; expected one that reads a class token.")
    blank = blank or blank_encoding(model, encoding.grid)
    targets = resolve(model, target)
    full, hidden = _full_and_hidden(model, encoding, targets)
    blank_full, blank_hidden = _full_and_hidden(model, blank, targets)
    rows = zip(targets.labels, full, hidden, blank_full, blank_hidden, strict=True)
    return [Openness(label, *map(float, numbers)) for label, *numbers in rows]


def blank_encoding(model: VisionModel, grid: tuple[int, int] | None = None) -> Encoding:
    """A picture of the mean colour: nothing to see."""
    rows, cols = grid or model.grid
    height, width = model.patch_size
    return model.encode(torch.zeros(1, 3, rows * height, cols * width))


def _full_and_hidden(
    model: VisionModel, encoding: Encoding, targets: Any
) -> tuple[list[float], list[float]]:
    normed = model.last_norm(encoding.tokens)
    hidden = values_without_patches(
        model.module, encoding.tokens, normed, model.num_prefix_tokens, targets
    )
    return model.values(encoding, targets).tolist(), hidden[0].tolist()


# ---- many pictures -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Patches:
    """The n patches of one picture that show picture, for one target.

    Attributes:
        number: of the picture in its set.
        label: name of the target; its index among the classes is ``target``.
        target: class index.
        value: its logit.
        grid: (rows, cols) of the picture.
        index: (n,) position of every patch, row * cols + col.
        attention: (n,) mean over heads.
        scores: method -> (n,) scores.
        head_attention: (H, n), A^h.
        by_value, by_key: (H, n), R^h by path; empty (0, n) where the closed form does not apply.
    """

    number: int
    label: str
    target: int
    value: float
    grid: tuple[int, int]
    index: np.ndarray
    attention: np.ndarray
    scores: Mapping[str, np.ndarray]
    head_attention: np.ndarray
    by_value: np.ndarray
    by_key: np.ndarray

    @property
    def evidence(self) -> np.ndarray:
        """(H, n), A^h * R^h."""
        return self.head_attention[: len(self.by_value)] * (self.by_value + self.by_key)


@dataclass(frozen=True, eq=False)
class Pool:
    """The patches of a set of pictures.

    Attributes:
        pictures: those that could be read, in order.
        left_out: (number, reason in one sentence) of the others.
        model_id: the model.
        simulated: True for a model of simulated data.
    """

    pictures: tuple[Patches, ...]
    left_out: tuple[tuple[int, str], ...]
    model_id: str
    simulated: bool

    def __len__(self) -> int:
        """Number of points."""
        return sum(len(each.index) for each in self.pictures)


def patches_of(
    model: VisionModel,
    encoding: Encoding,
    target: int | str | None = None,
    methods: Sequence[str] = ("cdam",),
    number: int = 0,
) -> Patches:
    """The patches of one picture.

    Args:
        model: adapted ViT.
        encoding: the encoded picture.
        target: class; None: the picture's strongest answer.
        methods: ids in ``METHODS`` of methods that work on an encoding.
        number: of the picture in its set.

    Raises:
        BadTarget: "unsupported" where the last block keeps its attention to itself.
    """
    if target is None:
        target = int(model.logits(encoding).argmax())
    parts = take_apart(model, encoding, target)
    if parts.attention is None:
        raise BadTarget(
            "unsupported",
            "The last block of this model computes its attention in a way of its own, so there is "
            "no attention to compare with; choose another model.",
        )
    inside = encoding.content.ravel()

    def flat(maps: np.ndarray | None) -> np.ndarray:
        empty = np.zeros((0, int(inside.sum())), np.float32)
        return empty if maps is None else maps.reshape(len(maps), -1)[:, inside]

    scores = {
        name: (parts.scores if name == "cdam" else explain(model, encoding, target, name).scores)
        for name in methods
    }
    return Patches(
        number,
        parts.labels[0],
        resolve(model, target).first[0],
        float(parts.values[0]),
        encoding.grid,
        np.flatnonzero(inside),
        flat(parts.mean_attention[None])[0],
        {name: flat(maps)[0] for name, maps in scores.items()},
        flat(parts.attention),
        flat(None if parts.by_value is None else parts.by_value[0]),
        flat(None if parts.by_key is None else parts.by_key[0]),
    )


def pool(
    model: VisionModel,
    sources: Sequence[Callable[[], Image.Image]],
    target: int | str | None = None,
    methods: Sequence[str] = ("cdam",),
    fit: str = "pad",
    on_step: OnStep | None = None,
) -> Pool:
    """The patches of many pictures, one picture at a time.

    Args:
        model: adapted ViT.
        sources: each opens one picture, and may raise ``BadImage``; that picture is left out.
        target: class for all of them; None: the strongest answer of each, as in the paper.
        methods: as for ``patches_of``.
        fit: how pictures become square.
        on_step: called with (done, total) after every picture; raising in it cancels.
    """
    pictures, left_out = [], []
    for number, source in enumerate(sources):
        try:
            encoding = model.encode_image(source(), fit)
            pictures.append(patches_of(model, encoding, target, methods, number))
        except BadImage as error:
            left_out.append((number, str(error)))
        if on_step:
            on_step(number + 1, len(sources))
    return Pool(tuple(pictures), tuple(left_out), model.id, model.simulated)


# ---- how far two maps agree ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Agreement:
    """Pearson's correlation of two maps over a set of pictures.

    Attributes:
        pooled: of all patches together; pictures with large values weigh more.
        mean: of the correlations of the single pictures.
        per_image: (pictures,); NaN where one of the maps is flat.
    """

    pooled: Estimate
    mean: Estimate
    per_image: np.ndarray


def agreement(ones: Sequence[np.ndarray], twos: Sequence[np.ndarray], seed: int = 0) -> Agreement:
    """Correlation of two maps over pictures; intervals from drawing whole pictures.

    Patches of one picture resemble each other, so the pictures are what is drawn, with replacement,
    not the patches.

    Args:
        ones, twos: one flat array per picture.
        seed: of the draws.
    """
    sums = np.array([_moments(a, b) for a, b in zip(ones, twos, strict=True)])
    per_image = _correlation(sums)
    known = per_image[np.isfinite(per_image)]
    means = np.stack([known, np.ones_like(known)], 1)
    return Agreement(
        bootstrap(sums, _correlation, seed), bootstrap(means, _ratio, seed), per_image
    )


def agreement_within(
    one: np.ndarray, two: np.ndarray, content: np.ndarray, seed: int = 0
) -> Estimate:
    """Correlation of two maps of a single picture; the interval draws tiles of neighbours.

    Args:
        one, two: (rows, cols) maps.
        content: (rows, cols) bool.
        seed: of the draws.
    """
    sums = np.array([_moments(one[tile], two[tile]) for tile in tiles(content)])
    return bootstrap(sums, _correlation, seed)


def tiles(content: np.ndarray) -> list[np.ndarray]:
    """(rows, cols) bool each: the patches of ``TILES`` x ``TILES`` tiles, without empty ones."""
    rows, cols = content.shape
    row = np.arange(rows) * min(TILES, rows) // rows
    col = np.arange(cols) * min(TILES, cols) // cols
    number = row[:, None] * TILES + col[None, :]
    found = [(number == each) & content for each in np.unique(number)]
    return [tile for tile in found if tile.any()]


def _moments(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(6,): count, sums, sums of squares and of products."""
    a, b = np.asarray(one, np.float64).ravel(), np.asarray(two, np.float64).ravel()
    return np.array([a.size, a.sum(), b.sum(), a @ a, b @ b, a @ b])


def _correlation(sums: np.ndarray) -> np.ndarray:
    """(..., 6) moments to correlations; NaN where one side is flat."""
    count, a, b, aa, bb, ab = np.moveaxis(np.asarray(sums), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_a, spread_b = aa - a * a / count, bb - b * b / count
        # Rounding leaves a trace of a flat map's spread; it is no spread.
        flat = (spread_a <= 1e-12 * aa) | (spread_b <= 1e-12 * bb)
        found = (ab - a * b / count) / np.sqrt(spread_a * spread_b)
    return np.where(flat, np.nan, np.clip(found, -1, 1))


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(..., 2) to first / second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def correlation_table(
    maps: Mapping[str, Sequence[np.ndarray]], seed: int = 0
) -> dict[tuple[str, str], Agreement]:
    """``agreement`` of every pair of methods, in their order.

    Args:
        maps: method -> one flat array per picture.
        seed: of the draws, the same for every pair.
    """
    return {
        (one, two): agreement(maps[one], maps[two], seed) for one, two in combinations(maps, 2)
    }


# ---- what happens where there is no attention ----------------------------------------------------


def quiet_patches(attention: np.ndarray, scores: np.ndarray) -> tuple[int, int]:
    """How many patches have next to no attention, and how many of these score all the same.

    Args:
        attention: (n,) of one picture.
        scores: (n,) of the same picture.

    Returns:
        Patches with attention below ``QUIET`` of its maximum; those of them with |score| above
        ``LOUD`` of its maximum.
    """
    quiet = attention < QUIET * attention.max()
    loud = np.abs(scores) > LOUD * np.abs(scores).max()
    return int(quiet.sum()), int((quiet & loud).sum())


def quiet_share(
    attentions: Iterable[np.ndarray], scores: Iterable[np.ndarray], seed: int = 0
) -> tuple[Estimate, int, int]:
    """Of the patches with next to no attention, the share that scores all the same.

    Returns:
        The share (interval from drawing pictures; NaN where there are no such patches), and the
        two counts of ``quiet_patches`` over all pictures.
    """
    counts = np.array([quiet_patches(a, s) for a, s in zip(attentions, scores, strict=True)])
    quiet, loud = (int(each) for each in counts.sum(0))
    return bootstrap(counts[:, ::-1], _ratio, seed), quiet, loud


def attention_mass(
    attentions: Iterable[np.ndarray], scores: Iterable[np.ndarray], seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Shares of the attention on patches that goes to evidence for, against, and to neither.

    A patch is evidence where |score| exceeds ``LOUD`` of the picture's largest; every picture's
    attention counts alike.

    Returns:
        For, against, irrelevant; they add up to 1.
    """
    sums = np.array([_masses(a, s) for a, s in zip(attentions, scores, strict=True)])
    return tuple(bootstrap(sums[:, [k, 3]], _ratio, seed) for k in range(3))


def _masses(attention: np.ndarray, scores: np.ndarray) -> tuple[float, float, float, float]:
    share = np.asarray(attention, np.float64) / np.sum(attention, dtype=np.float64)
    bound = LOUD * np.abs(scores).max()
    parts = share[scores > bound].sum(), share[scores < -bound].sum()
    return (*parts, 1 - sum(parts), 1.0)


# ---- pair plot -----------------------------------------------------------------------------------

PAPER = ("#1b2529", "#2171b5")  # ink and points on a light page
NIGHT = ("#e6ecee", "#9ecae1")  # and on a dark one
FEW = 3000  # up to so many points are drawn larger
MAX_DRAWN = 20_000  # points of a pair; more are thinned out evenly, the numbers use all of them


def pair_plot(
    maps: Mapping[str, Sequence[np.ndarray]],
    title: str = "",
    file_format: str = "png",
    dark: bool = False,
) -> bytes:
    """Every method against every other, point by patch, with their correlations.

    Args:
        maps: method id -> one flat array per picture.
        title: printed above.
        file_format: "png" | "svg" | "pdf"; the points are drawn as pixels in all of them.
        dark: light ink on a transparent background, for a dark page; else dark ink on white.

    Returns:
        The file's bytes.
    """
    names, (ink, colour) = list(maps), NIGHT if dark else PAPER
    values = {name: np.concatenate([np.ravel(each) for each in maps[name]]) for name in names}
    table = correlation_table(maps)
    count = len(values[names[0]])
    step, dot = max(1, -(-count // MAX_DRAWN)), 1.5 if count > FEW else 3.0
    figure = Figure(figsize=(2.2 * len(names) + 0.4, 2.2 * len(names) + 0.4), dpi=110,
                    layout="constrained")  # fmt: skip
    grid = figure.subplots(len(names), len(names), squeeze=False)
    for row, below in enumerate(names):
        for column, above in enumerate(names):
            axis = grid[row][column]
            if row == column:
                axis.hist(values[below], bins=60, color=colour, log=True)
                axis.yaxis.set_major_formatter("{x:g}")
            elif row > column:
                axis.plot(values[above][::step], values[below][::step], ".", color=colour,
                          markersize=dot, alpha=0.4, rasterized=True)  # fmt: skip
            else:
                axis.text(0.5, 0.5, _pair_text(table[below, above]), ha="center", va="center",
                          fontsize=10, color=ink, transform=axis.transAxes)  # fmt: skip
            _frame_of(axis, ink, row > column or row == column)
            if row == len(names) - 1:
                axis.set_xlabel(METHODS[above].label, color=ink, fontsize=9)
            if column == 0:
                axis.set_ylabel(METHODS[below].label, color=ink, fontsize=9)
    if title:
        figure.suptitle(title, color=ink, fontsize=11)
    return figure_file(figure, file_format, transparent=dark)


def _pair_text(found: Agreement) -> str:
    lines = [("all patches", found.pooled)]
    if len(found.per_image) > 1:
        lines.append(("per picture", found.mean))
    return "\n".join(f"{words}\n{interval_text(each)}" for words, each in lines)


def _frame_of(axis, ink: str, is_drawn: bool) -> None:
    axis.patch.set_alpha(0)
    axis.tick_params(colors=ink, labelsize=7)
    for spine in axis.spines.values():
        spine.set_color(ink)
        spine.set_alpha(0.4)
    if not is_drawn:
        axis.set_xticks([])
        axis.set_yticks([])
