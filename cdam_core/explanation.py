"""The front door: ``explain`` takes an image and a question and gives an ``Explanation``."""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdam_core.concepts import Concept
from cdam_core.errors import BadImage, BadTarget
from cdam_core.methods import METHODS, Method
from cdam_core.models import Encoding, VisionModel
from cdam_core.targets import ALL, Target, resolve


@dataclass(frozen=True, eq=False)
class Explanation:
    """Scores and everything that made them.

    Attributes:
        scores: (T, rows, cols), or (T, H, W) for pixel methods, float32; one map per target,
            signed where the method is, in units of the value. [CLS] and registers are left out.
        rest: (T,) float32, what [CLS] and registers hold; NaN where the method does not define it.
        values: (T,) float32, the explained logits or their differences.
        labels: one readable name per target.
        targets: one JSON-able dict per target.
        method: id in ``METHODS``.
        settings: resolved settings of the method.
        model_id: the model.
        grid: (rows, cols) of patches.
        content: (rows, cols) bool, False on padded patches.
        simulated: True where the model was trained on simulated data.
        seconds: time the method took, encoding included where ``explain`` did it.
        versions: of this library, torch and timm.
        concepts: those among the targets, each once.
    """

    scores: np.ndarray
    rest: np.ndarray
    values: np.ndarray
    labels: tuple[str, ...]
    targets: tuple[dict[str, Any], ...]
    method: str
    settings: Mapping[str, Any]
    model_id: str
    grid: tuple[int, int]
    content: np.ndarray
    simulated: bool
    seconds: float
    versions: Mapping[str, str]
    concepts: tuple[Concept, ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """Of each target's value, and so of its scores: "logit", unless the model says another."""
        return tuple(_unit(target) for target in self.targets)

    def provenance(self) -> dict[str, Any]:
        """What made the scores, JSON-able."""
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "model": self.model_id,
            "simulated": self.simulated,
            "targets": list(self.targets),
            "values": [float(value) for value in self.values],
            "rest": [None if np.isnan(rest) else float(rest) for rest in self.rest],
            "grid": list(self.grid),
            "units": list(self.units),
            "sign": "positive supports the target, negative opposes it"
            if METHODS[self.method].signed
            else "unsigned",
            "seconds": self.seconds,
            "versions": dict(self.versions),
        }

    def to_npz(self) -> bytes:
        """A compressed NumPy archive: scores, rest, values, content and ``provenance`` as JSON."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            scores=self.scores,
            rest=self.rest,
            values=self.values,
            content=self.content,
            provenance=np.array(json.dumps(self.provenance(), ensure_ascii=False)),
        )
        return buffer.getvalue()

    def to_csv(self) -> str:
        """One line per target and patch (or pixel), with what made it in leading # lines."""
        out = io.StringIO()
        out.write(f"# {json.dumps(self.provenance(), ensure_ascii=False)}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["model", "method", "target", "value", "row", "col", "content", "score"])
        is_patch = self.scores.shape[1:] == self.content.shape
        for label, value, scores in zip(self.labels, self.values, self.scores, strict=True):
            for (row, col), score in np.ndenumerate(scores):
                content = int(self.content[row, col]) if is_patch else 1
                writer.writerow(
                    [
                        self.model_id,
                        self.method,
                        as_text(label),
                        repr(float(value)),
                        row,
                        col,
                        content,
                        repr(float(score)),
                    ]
                )
        return out.getvalue()


def _unit(target: Mapping[str, Any]) -> str:
    if target["kind"] == "contrast":
        a, b = (_unit(target[side]) for side in ("a", "b"))
        return a if a == b else f"{a} − {b}"
    if target["kind"] == "class":
        return target.get("unit", "logit")
    return f"{target['similarity']} similarity"


def as_text(cell: str) -> str:
    """Keep a spreadsheet from reading a class name as a formula."""
    return f"'{cell}" if cell[:1] in "=+-@\t\r" else cell


def explain(
    model: VisionModel,
    x: Image.Image | Tensor | Encoding,
    target: Target,
    method: str = "cdam",
    *,
    fit: str = "pad",
    on_step: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Explanation:
    """Explain a value of a model on one image.

    Args:
        model: from ``load_model`` or ``wrap``.
        x: PIL image (padded to the model's input), pixels (1, 3, H, W), or an ``Encoding``; the
            last is the fast way to ask many questions about one image.
        target: class index | class name | ``Contrast`` | a list of these | ``ALL``.
        method: id in ``METHODS``.
        fit: how a PIL image becomes the model's input: "pad" | "crop" | "stretch"; pixels and
            encodings have been fitted before.
        on_step: called with (done, total) between the batches of methods that work in steps;
            raising in it cancels, and the error comes out of ``explain``. Others ignore it.
        **settings: of the method; see ``METHODS[method].settings``.

    Returns:
        ``Explanation``; positive scores support the target, negative ones oppose it.

    Raises:
        BadTarget: unknown or unfit target, method or setting.
        BadImage: pixels that do not fit the model.
    """
    started = time.perf_counter()
    chosen = _method(method)
    if target is ALL and not chosen.all_classes:
        raise BadTarget(
            "unsupported",
            f"{chosen.label} needs one pass per class, so it cannot answer for ALL at once; "
            "give a list of classes.",
        )
    if model.pool == "avg" and chosen.pooling == "token":
        raise BadTarget(
            "unsupported",
            f"{chosen.label} explains models that read their answer from a class token, and this "
            "one averages its patches; use the variant pooled_cdam (see docs/models.md).",
        )
    resolved = chosen.resolve_settings(settings)
    targets = resolve(model, target)
    # A caller's inference mode would forbid the gradients that the methods need.
    with torch.inference_mode(False):
        given, content = _prepare(model, x, chosen, fit)
        progress = {"on_step": on_step} if chosen.steps else {}
        result = chosen.run(model, given, targets, **resolved, **progress)
    return Explanation(
        scores=_array(result.scores),
        rest=_array(result.rest),
        values=_array(result.values),
        labels=targets.labels,
        targets=targets.descriptions,
        method=chosen.id,
        settings=_plain({**resolved, **result.settings}),
        model_id=model.id,
        grid=content.shape,
        content=content,
        simulated=model.simulated,
        seconds=time.perf_counter() - started,
        versions=_versions(),
        concepts=targets.concepts,
    )


def _method(name: str) -> Method:
    if name not in METHODS:
        raise BadTarget(
            "unknown-method",
            f"There is no such method; the methods are {', '.join(METHODS)}.",
        )
    return METHODS[name]


def _prepare(
    model: VisionModel, x: Image.Image | Tensor | Encoding, method: Method, fit: str
) -> tuple[Encoding | Tensor, np.ndarray]:
    """What the method is handed, and the (rows, cols) content of x."""
    if isinstance(x, Encoding):
        if method.needs == "pixels":
            raise BadTarget(
                "unsupported",
                f"{method.label} works on pixels, but an encoding arrived; hand over the image "
                "or its pixels.",
            )
        return x, x.content
    if isinstance(x, Image.Image):
        fitted = model.fit(x, fit)
        pixels, content = model.normalise(fitted.image), model.content_patches(fitted)
    elif isinstance(x, Tensor):
        pixels, content = x, None
    else:
        raise BadImage(
            "wrong-shape",
            f"A {type(x).__name__} arrived; expected a PIL image, pixels (1, 3, H, W) or an "
            "Encoding.",
        )
    if method.needs == "encoding":
        encoding = model.encode(pixels, content)
        return encoding, encoding.content
    pixels = model.check_pixels(pixels, single=True)
    everything = np.ones(model.grid_of(pixels.shape[-2:]), bool)
    return pixels, everything if content is None else content


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, so that settings survive JSON unchanged."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


@cache
def _versions() -> dict[str, str]:
    from cdam_core import __version__

    return {"cdam_core": __version__, "torch": version("torch"), "timm": version("timm")}
