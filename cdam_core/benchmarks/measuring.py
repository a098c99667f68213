"""All methods and measures on one image: the unit of work of a benchmark.

``measure`` is a pure function of model, picture and plan, so every engine gives the same rows. What
the methods share is computed once: the encoding, the blurred boxes, the random orders, the token
ablation map. The same perturbed images answer for all outputs. Seeds come from the image's name,
never from the order of work.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdam_core.benchmarks.boxes import BoxDrops, box_drops_of, correlate
from cdam_core.benchmarks.comparing import ablation_correlation, compactness
from cdam_core.benchmarks.datasets import Picture, mask_of, unique_names
from cdam_core.benchmarks.masks import coverage, measure_map
from cdam_core.benchmarks.ordering import Fidelity, fidelities, random_bands
from cdam_core.benchmarks.results import RANDOM, RIGHT, WRONG, Part, Row, sorted_rows
from cdam_core.benchmarks.sight import OnStep, Sight, to_patches
from cdam_core.errors import BadData, BadImage, BadTarget
from cdam_core.explanation import Explanation, explain
from cdam_core.images import fit_mask, open_image
from cdam_core.methods import METHODS
from cdam_core.methods.blocks import as_pixels
from cdam_core.models import Encoding, VisionModel

# Groups of measures, as they are asked for.
GROUPS = ("fidelity", "box", "compactness", "ablation", "masks")
# Those of them that random orders stand beside.
_OF_RANDOM = ("fidelity",)
_ROW_OF_MASK = {"hit_target": "strongest_on_target", "hit_other": "strongest_on_other",
                "mass_target": "mass_inside", "mass_other": "mass_other",
                "other_negative": "other_negative"}  # fmt: skip
# The paper's photographs are scaled to 256 pixels before 224 of them are cut out of the middle.
MARGIN = 256 / 224


@dataclass(frozen=True)
class Plan:
    """What is done to every image.

    Attributes:
        settings: method -> its settings where they differ from the defaults.
        shares: method -> noise as a share of the range of what it is added to.
        steps: of the MIF and LIF curves.
        boxes: random boxes per size.
        rankings: random orders.
        blur_sigma: of the blur that takes the place of pixels, in pixels.
        seed: of everything drawn by chance, together with the image's name.
        margin: how much larger than the input a photograph is scaled before its middle is taken.
    """

    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    steps: int = 100
    boxes: int = 100
    rankings: int = 10
    blur_sigma: float = 14.0
    seed: int = 0
    margin: float = 1.0


Todo = Mapping[str, Sequence[str]]  # method, or "random" -> groups of measures


def image_seed(seed: int, name: str) -> int:
    """The seed of one image, 0 to 2^31 - 1; depends on its name and nothing else."""
    return int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:8], 16) >> 1


def measure(
    model: VisionModel, picture: Picture, plan: Plan, todo: Todo, on_step: OnStep | None = None
) -> Part:
    """Every method and measure on one picture.

    Args:
        model: adapted ViT.
        picture: with its classes.
        plan: how.
        todo: methods and their groups of measures.
        on_step: called with (done, total) between batches; may raise to cancel.

    Returns:
        ``Part``; a picture that cannot be used gives one that says why.

    Raises:
        BadData: the device has too little memory.
    """
    try:
        return _measured(model, picture, plan, todo, on_step)
    except BadImage as error:
        return Part(picture.id, picture.sha256, broken=error.reason)
    except torch.OutOfMemoryError:
        raise BadData("unsupported", "The memory of the device ran out; choose fewer workers, a "
                      "smaller --size, or --device cpu.") from None  # fmt: skip


def _measured(
    model: VisionModel, picture: Picture, plan: Plan, todo: Todo, on_step: OnStep | None
) -> Part:
    started = time.perf_counter()
    work = Work(model, picture, plan, on_step)
    rows: list[Row] = []
    done, left_out = {}, {}
    for method, groups in todo.items():
        try:
            rows += work.random_rows() if method == RANDOM else work.rows(method, groups)
        except BadTarget as error:
            if error.reason != "unsupported":
                raise
            left_out[method] = str(error)
        done[method] = tuple(groups)
    return Part(picture.id, picture.sha256, sorted_rows(rows), done, left_out, "", work.forwards,
                time.perf_counter() - started)  # fmt: skip


def noise_range(
    model: VisionModel, method: str, pixels: Tensor, encoding: Encoding, at: str | None
) -> float:
    """Maximum less minimum of what a method adds its noise to on this image."""
    if method == "smoothgrad":
        start = as_pixels(model, pixels)
    else:
        start = encoding.tokens if at == "block_input" else model.last_norm(encoding.tokens)
    return float(start.max() - start.min())


class Work:
    """One picture in work; what methods and measures share is computed when first asked for.

    Args:
        model, picture, plan, on_step: as for ``measure``.

    Raises:
        BadImage: the picture or its mask cannot be read.
    """

    def __init__(
        self, model: VisionModel, picture: Picture, plan: Plan, on_step: OnStep | None = None
    ):
        self.model, self.picture, self.plan, self.on_step = model, picture, plan, on_step
        if picture.content is None:
            raise BadImage("unreadable", "The image file cannot be read.")
        image, mask = open_image(picture.content), mask_of(picture)
        self.pixels = model.preprocess(image if mask is not None else self._middle(image), "crop")
        self.mask = None if mask is None else fit_mask(mask, model.input_size, "crop")
        self.seed = image_seed(plan.seed, picture.id)
        self.forwards = 0
        self.names = [unique_names(model)[label] for label in picture.labels]

    def _middle(self, image: Image.Image) -> Image.Image:
        """The middle of a photograph that is left after scaling and cutting."""
        if self.plan.margin == 1:
            return image
        width, height = image.size
        side = round(min(width, height) / self.plan.margin)
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))

    # ---- shared by methods ----------------------------------------------------------------------

    @cached_property
    def encoding(self) -> Encoding:
        """Of the picture."""
        return self.model.encode(self.pixels)

    @cached_property
    def sight(self) -> Sight:
        """Of the picture, with all its classes as outputs."""
        return Sight(self.model, self.pixels, list(self.picture.labels), self.plan.blur_sigma,
                     self.seed)  # fmt: skip

    @cached_property
    def drops(self) -> list[BoxDrops]:
        """Per output, what blurring the boxes costs."""
        return box_drops_of(self.sight, None, self.plan.boxes, self._count())

    @cached_property
    def ablation(self) -> Explanation:
        """The token ablation map of every class."""
        return self._explain("token_ablation")

    @cached_property
    def covers(self) -> list[np.ndarray]:
        """Per class, the share of every patch that its object covers."""
        return [coverage(self.mask, number + 1, self.sight.grid)
                for number in range(len(self.picture.labels))]  # fmt: skip

    def _count(self) -> OnStep:
        """Passes steps on, and counts the images shown."""
        before = 0

        def on_step(done: int, total: int) -> None:
            nonlocal before
            self.forwards += done - before
            before = done
            if self.on_step:
                self.on_step(done, total)

        return on_step

    # ---- maps -----------------------------------------------------------------------------------

    def settings_of(self, method: str) -> dict[str, Any]:
        """The settings of a method on this picture: its seed, and the noise of a tuned share."""
        known = {setting.name for setting in METHODS[method].settings}
        settings = dict(self.plan.settings.get(method, {}))
        if "seed" in known:
            settings.setdefault("seed", self.seed)
        if method in self.plan.shares:
            reach = noise_range(self.model, method, self.pixels, self.encoding, settings.get("at"))
            settings["sigma"] = self.plan.shares[method] * reach
        return settings

    def _explain(self, method: str) -> Explanation:
        given = self.encoding if METHODS[method].needs == "encoding" else self.pixels
        return explain(self.model, given, list(self.picture.labels), method, on_step=self.on_step,
                       **self.settings_of(method))  # fmt: skip

    def maps(self, method: str) -> Explanation:
        """The maps of all classes of the picture."""
        return self.ablation if method == "token_ablation" else self._explain(method)

    # ---- rows -----------------------------------------------------------------------------------

    def rows(self, method: str, groups: Sequence[str]) -> list[Row]:
        """Rows of one method."""
        found = self.maps(method)
        if not np.isfinite(found.scores).all():
            raise BadImage("not-finite", "A map of this picture holds NaN or infinite scores.")
        seconds = found.seconds / len(self.names)
        rows: list[Row] = []
        for index, scores in enumerate(found.scores):
            same = next((i for i in range(index) if np.array_equal(found.scores[i], scores)), None)
            for group in groups:
                if same is not None and group in ("fidelity", "box"):
                    rows += self._renamed(rows, group, same, index)
                else:
                    rows += getattr(self, f"_{group}")(method, index, scores, seconds)
        return rows

    def _row(
        self, method: str, target: int, output: int, measure: str, value: float, *curve: Any,
        seconds: float = float("nan"),
    ) -> Row:  # fmt: skip
        return Row(self.picture.id, self.names[target], self.names[output],
                   RIGHT if target == output else WRONG, method, measure, float(value), *curve,
                   seconds=seconds)  # fmt: skip

    def _renamed(self, rows: Sequence[Row], group: str, same: int, index: int) -> list[Row]:
        """Rows of an equal map, under the name of another target."""
        wanted = ("box",) if group == "box" else ("mif", "lif", "fidelity")
        return [self._row(row.method, index, self.names.index(row.output), row.measure, row.value,
                          row.x, row.curve, seconds=row.seconds)
                for row in rows if row.target == self.names[same] and row.measure in wanted]

    def _fidelity(self, method: str, index: int, scores: np.ndarray, seconds: float) -> list[Row]:
        found = fidelities(self.sight, scores, self.plan.steps, on_step=self._count())
        rows = []
        for output, each in enumerate(found):
            rows += [self._row(method, index, output, name, value, each.fractions, curve,
                               seconds=seconds) for name, value, curve in _curves(each)]
        return rows

    def _box(self, method: str, index: int, scores: np.ndarray, seconds: float) -> list[Row]:
        judged = [correlate(drops, scores, self.sight.grid) for drops in self.drops]
        return [self._row(method, index, output, "box", each.area, each.sizes, each.correlation,
                          seconds=seconds) for output, each in enumerate(judged)]  # fmt: skip

    def _compactness(
        self, method: str, index: int, scores: np.ndarray, seconds: float
    ) -> list[Row]:
        return [self._row(method, index, index, "compactness", compactness(scores),
                          seconds=seconds)]  # fmt: skip

    def _ablation(self, method: str, index: int, scores: np.ndarray, seconds: float) -> list[Row]:
        found = ablation_correlation(scores, self.ablation.scores[index])
        return [self._row(method, index, index, "ablation_correlation", found.mean,
                          seconds=seconds)]  # fmt: skip

    def _masks(self, method: str, index: int, scores: np.ndarray, seconds: float) -> list[Row]:
        if self.mask is None:
            return []
        others = [cover for number, cover in enumerate(self.covers) if number != index]
        found = measure_map(to_patches(scores, self.sight.grid), self.covers[index], *others)
        return [self._row(method, index, index, _ROW_OF_MASK[name], value, seconds=seconds)
                for name, value in found.items()]  # fmt: skip

    def random_rows(self) -> list[Row]:
        """Patches in random orders, per output: mean and deviation of their curves.

        An order is as likely as its reverse, so LIF is MIF and LIF - MIF is 0.
        """
        bands = random_bands(self.sight, self.plan.steps, self.plan.rankings,
                             on_step=self._count())  # fmt: skip
        rows = []
        for output, band in enumerate(bands):
            nothing = np.zeros_like(band.mean)
            told = (("mif", band.area_mean, band.mean), ("lif", band.area_mean, band.mean),
                    ("fidelity", 0.0, nothing), ("random_sd", band.area_sd, band.sd))  # fmt: skip
            rows += [self._row(RANDOM, output, output, name, value, band.fractions, curve)
                     for name, value, curve in told]  # fmt: skip
        return rows


def _curves(found: Fidelity) -> tuple[tuple[str, float, np.ndarray], ...]:
    difference = found.lif - found.mif
    return (("mif", found.area_mif, found.mif), ("lif", found.area_lif, found.lif),
            ("fidelity", found.area, difference))  # fmt: skip


def images_to_show(model: VisionModel, plan: Plan, todo: Todo, targets: int) -> int:
    """About how many perturbed images one picture asks the model for; at most a few more."""
    rows, cols = model.grid
    inner = min(plan.steps, rows * cols) - 1
    maps = sum(targets if METHODS[name].class_specific else 1
               for name, groups in todo.items() if "fidelity" in groups and name != RANDOM)
    count = maps * (2 * inner + 2) + (plan.rankings * inner + 2 if RANDOM in todo else 0)
    if any("box" in groups for groups in todo.values()):
        count += (min(rows, cols) - 1) * plan.boxes + 1
    if "token_ablation" in todo or any("ablation" in groups for groups in todo.values()):
        count += rows * cols
    return count


def wanted(methods: Sequence[str], groups: Sequence[str], has_masks: bool) -> dict[str, list[str]]:
    """What is to be done to every image, cheapest shared work included."""
    own = [group for group in GROUPS if group in groups and (has_masks or group != "masks")]
    todo: dict[str, list[str]] = dict.fromkeys(methods, own)
    shared = [group for group in own if group in _OF_RANDOM]
    return todo | ({RANDOM: shared} if shared else {})
