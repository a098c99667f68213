"""A linear head on the class token of a frozen backbone: fit, measure, attach, write.

Beside the data flow. Works on embeddings, as ``model.embed`` gives them, so a head is a matter of
seconds once they exist; where pictures come from is the business of ``training_head``.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from scipy.optimize import minimize
from timm.layers import GluMlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cdam_core.architectures import find, input_size_of
from cdam_core.errors import BadCheckpoint, BadTarget
from cdam_core.files import write_atomically
from cdam_core.late_vit import LateClassTokenViT
from cdam_core.models import VisionModel, load_model, wrap

ROWS_AT_ONCE = 16384  # of features; bounds the memory of the logits
Z_95 = 1.959963984540054  # quantile 0.975 of the normal distribution
FOLDS = 5  # parts into which example pictures are cut to judge a head
SAME = 1e-4  # relative difference of logits before and after a file was written


@dataclass(frozen=True, eq=False)
class LinearHead:
    """One linear layer on the latent l; ``features @ weight.T + bias`` are logits.

    Attributes:
        weight: (C, d) float32.
        bias: (C,) float32.
    """

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """(n, d) to the (n,) index of the strongest class."""
        rows = [part @ self.weight.T + self.bias for part in features.split(ROWS_AT_ONCE)]
        return torch.cat(rows).argmax(1)


# ---- fitting -------------------------------------------------------------------------------------


def fit_head(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    strength: float = 1.0,
    steps: int = 200,
    on_step: Callable[[int, float], None] | None = None,
) -> LinearHead:
    """Multinomial logistic regression by L-BFGS, on standardised features; deterministic.

    Minimises the sum of the cross-entropies + |W|² / (2 ``strength``) over the weights W of the
    standardised features, the objective of scikit-learn's ``LogisticRegression(C=strength)``; the
    standardisation is then folded into the head.

    Args:
        features: (n, d) embeddings.
        labels: (n,) class indices.
        n_classes: C, at least 2.
        strength: of the data against the prior that weights are small; > 0.
        steps: of L-BFGS at most.
        on_step: told the number of steps taken and the mean loss.

    Raises:
        BadTarget: "bad-setting" for fewer than two classes, no pictures or a strength of 0.
    """
    if n_classes < 2 or len(features) < 1 or not strength > 0:
        raise BadTarget(
            "bad-setting",
            f"{len(features)} pictures of {n_classes} classes with the strength {strength} "
            "arrived; expected at least 2 classes with pictures, and a strength above 0.",
        )
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    problem = _Regression((features - mean) / scale, labels, n_classes, strength)
    taken = 0

    def report(intermediate_result) -> None:
        nonlocal taken
        taken += 1
        if on_step:
            on_step(taken, float(intermediate_result.fun))

    start = np.zeros(n_classes * (features.shape[1] + 1))
    found = minimize(problem, start, jac=True, method="L-BFGS-B", callback=report,
                     options={"maxiter": steps, "gtol": 1e-6, "ftol": 1e-10})  # fmt: skip
    weight, bias = problem.unpack(found.x)
    weight = weight / scale
    return LinearHead(weight.float(), (bias - weight @ mean).float())


class _Regression:
    """Mean loss and gradient of the regression at a flat point, a chunk of rows at a time."""

    def __init__(self, features: Tensor, labels: Tensor, n_classes: int, strength: float):
        self.features, self.labels, self.n_classes = features, labels, n_classes
        self.decay = 1 / (strength * len(features))

    def unpack(self, point: np.ndarray) -> tuple[Tensor, Tensor]:
        """Weight (C, d) and bias (C,) out of a flat float64 array."""
        table = torch.from_numpy(point).to(self.features).view(self.n_classes, -1)
        return table[:, :-1], table[:, -1]

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = self.unpack(point)
        loss, gradient, n = 0.0, torch.zeros_like(weight), len(self.features)
        gradient_of_bias = torch.zeros_like(bias)
        parts = zip(
            self.features.split(ROWS_AT_ONCE), self.labels.split(ROWS_AT_ONCE), strict=True
        )
        for rows, labels in parts:
            logits = rows @ weight.T + bias
            loss += float(cross_entropy(logits, labels, reduction="sum")) / n
            residual = logits.softmax(1)
            residual[torch.arange(len(rows)), labels] -= 1
            gradient += residual.T @ rows / n
            gradient_of_bias += residual.sum(0) / n
        loss += 0.5 * self.decay * float((weight**2).sum())
        whole = torch.cat([gradient + self.decay * weight, gradient_of_bias[:, None]], 1)
        return loss, whole.double().cpu().numpy().ravel()


# ---- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """How good a head is on pictures it was not trained on.

    Attributes:
        n: number of pictures.
        top1: share whose strongest class is right.
        interval: 95 % interval of ``top1`` (Wilson).
        worst: classes with the lowest share right, worst first: name, n, right (share), taken_for
            (the most frequent wrong answer) and taken (how often).
    """

    n: int
    top1: float
    interval: tuple[float, float]
    worst: tuple[dict, ...]

    def lines(self, count: int = 5) -> list[str]:
        """The result in a few lines of text."""
        low, high = self.interval
        head = f"top-1 {self.top1:.1%} (95 % interval {low:.1%} to {high:.1%}, {self.n} pictures)"
        return [head] + [
            f"  {row['name']}: {row['right']:.0%} of {row['n']} right, taken for "
            f"{row['taken_for']} {row['taken']} times"
            for row in self.worst[:count]
        ]


def evaluate(
    predicted: Tensor, labels: Tensor, class_names: Sequence[str], n_worst: int = 10
) -> Evaluation:
    """Top-1 with its interval, and the classes that are confused most.

    Args:
        predicted, labels: (n,) class indices.
        class_names: by index.
        n_worst: classes without a mistake are never listed, however few there are.
    """
    count, n = len(class_names), len(labels)
    pairs = (labels * count + predicted).cpu()
    table = torch.bincount(pairs, minlength=count**2).view(count, count)
    right, totals = table.diagonal().clone(), table.sum(1)
    mistakes = table.clone().fill_diagonal_(0)
    share = right / totals.clamp_min(1)
    order = [int(i) for i in share.argsort(stable=True) if totals[i] > right[i]]
    worst = tuple(
        {
            "name": class_names[i], "n": int(totals[i]), "right": round(float(share[i]), 4),
            "taken_for": class_names[int(mistakes[i].argmax())], "taken": int(mistakes[i].max()),
        }
        for i in order[:n_worst]
    )  # fmt: skip
    correct = int(right.sum())
    return Evaluation(n, correct / max(n, 1), wilson_interval(correct, n), worst)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, "Probable inference ...", JASA 1927); n = 0: 0 to 1."""
    if n == 0:
        return (0.0, 1.0)
    share, shrink = correct / n, 1 + Z_95**2 / n
    middle = (share + Z_95**2 / (2 * n)) / shrink
    half = Z_95 * (share * (1 - share) / n + Z_95**2 / (4 * n**2)) ** 0.5 / shrink
    return (max(0.0, middle - half), min(1.0, middle + half))


# ---- attaching -----------------------------------------------------------------------------------


def require_linear_place(model: VisionModel) -> None:
    """A head fits where the module's own head reads the latent and nothing else.

    Raises:
        BadCheckpoint: "unsupported" for distilled models and other readers.
    """
    module = model.module
    head = getattr(module, "head", None)
    others = [name for name in ("head_dist", "aux_head") if getattr(module, name, None) is not None]
    if others or not isinstance(head, nn.Linear | nn.Identity):
        raise BadCheckpoint(
            "unsupported",
            f"The head of this {type(module).__name__} is not one linear layer on the class token; "
            "expected a plain Vision Transformer.",
        )


def with_head(
    model: VisionModel, head: LinearHead, class_names: Sequence[str], model_id: str = "custom"
) -> VisionModel:
    """The same frozen backbone under another head; weights of the backbone are shared.

    Args:
        model: with or without a head of its own.
        head: C outputs.
        class_names: C names.
        model_id: name used in results.
    """
    require_linear_place(model)
    count, width = head.weight.shape
    like = next(model.module.parameters())
    linear = nn.Linear(width, count, device="meta")
    linear.load_state_dict({"weight": head.weight.to(like), "bias": head.bias.to(like)},
                           assign=True)  # fmt: skip
    module = copy.copy(model.module)
    module._modules = {**module._modules, "head": linear}
    module.num_classes = count
    return wrap(module, class_names, model.mean, model.std, model_id=model_id,
                input_size=model.input_size, pool=model.pool)  # fmt: skip


# ---- teaching ------------------------------------------------------------------------------------


def teach(
    model: VisionModel,
    examples: Mapping[str, Sequence[Image.Image]],
    strength: float = 1.0,
    model_id: str = "taught",
    on_picture: Callable[[int, int], None] | None = None,
) -> tuple[VisionModel, Evaluation]:
    """Classes from a few example pictures: embed each once, fit a head, attach it.

    Args:
        model: whose frozen backbone is used.
        examples: class name -> PIL pictures, at least two classes with two pictures each.
        strength: as ``fit_head``.
        model_id: name used in results.
        on_picture: called with (done, total) after every picture; raising in it stops.

    Returns:
        The model under its new head, and how good such a head is on pictures it was not fitted to:
        every picture is judged once by a head fitted to the other parts of ``FOLDS``.

    Raises:
        BadTarget: "bad-setting" for too few classes or pictures.
        BadCheckpoint: "unsupported" as ``require_linear_place``.
    """
    require_linear_place(model)
    _require_examples([len(pictures) for pictures in examples.values()])
    total, done = sum(len(pictures) for pictures in examples.values()), 0
    embedded = {}
    for name, pictures in examples.items():
        rows = []
        for picture in pictures:
            rows.append(model.embed(model.preprocess(picture)).float().cpu().numpy()[0])
            done += 1
            if on_picture:
                on_picture(done, total)
        embedded[name] = np.stack(rows)
    return teach_embedded(model, embedded, strength, model_id)


def teach_embedded(
    model: VisionModel,
    embedded: Mapping[str, np.ndarray],
    strength: float = 1.0,
    model_id: str = "taught",
    on_fit: Callable[[int, int], None] | None = None,
) -> tuple[VisionModel, Evaluation]:
    """``teach`` for pictures that were embedded before.

    Args:
        model: that embedded them.
        embedded: class name -> (n, d) float32, what ``model.embed`` made of its pictures.
        strength, model_id: as ``teach``.
        on_fit: called with (done, total) after every fitted head; raising in it stops.

    Returns, Raises:
        As ``teach``.
    """
    require_linear_place(model)
    counts = [len(rows) for rows in embedded.values()]
    _require_examples(counts)
    features = torch.from_numpy(np.concatenate(list(embedded.values())))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    part = torch.cat([torch.arange(count) for count in counts]) % min(FOLDS, *counts)
    parts, predicted = part.unique().tolist(), torch.empty_like(labels)
    for done, each in enumerate(parts, 1):
        fitted = fit_head(features[part != each], labels[part != each], len(counts), strength)
        predicted[part == each] = fitted.predict(features[part == each])
        if on_fit:
            on_fit(done, len(parts) + 1)
    head = fit_head(features, labels, len(counts), strength)
    taught = with_head(model, head, list(embedded), model_id)
    return taught, evaluate(predicted, labels, list(embedded), n_worst=len(counts))


def _require_examples(counts: Sequence[int]) -> None:
    if len(counts) < 2 or min(counts) < 2:
        raise BadTarget(
            "bad-setting",
            f"{len(counts)} classes of {min(counts, default=0)} pictures at least arrived; "
            "expected two classes or more, with two pictures or more each.",
        )


# ---- writing -------------------------------------------------------------------------------------


def suffix_for(model: VisionModel) -> str:
    """How a file of this model ends: a card for the bundled architecture, else one file."""
    return ".json" if isinstance(model.module, LateClassTokenViT) else ".safetensors"


def save_model(path: Path, model: VisionModel, card: dict) -> None:
    """Write a model with its head, so that ``load_model(path)`` gives it back; checks that it does.

    Args:
        path: ending in .safetensors: one file that holds everything, of a bundled architecture
            all but the backbone that ships with the library; ending in .json, for a bundled
            architecture: a card with the words, and the trained weights beside it.
        model: as ``with_head`` gives it.
        card: what is known about the head; JSON-able.

    Raises:
        BadCheckpoint: "unsupported" if the file does not give the same answers.
    """
    if path.suffix == ".json":
        _write_card(path, model, card)
    else:
        module = model.module
        is_late = isinstance(module, LateClassTokenViT)
        state = module.trained_state() if is_late else module.state_dict()
        write_atomically(path, save(_on_cpu(state), _metadata(model, card)))
    _check_same(model, load_model(path))


def to_bytes(model: VisionModel, card: dict) -> bytes:
    """The content of the one safetensors file of ``save_model``, checked as there."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(path, model, card)
        return path.read_bytes()


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu().contiguous() for name, value in state.items()}


def _metadata(model: VisionModel, card: dict) -> dict[str, str]:
    """Entries that ``checkpoints`` reads: all that the tensors do not tell."""
    module = model.module
    entries = {
        "id": model.id, "class_names": model.class_names, "mean": model.mean, "std": model.std,
        "input_size": list(input_size_of(module)), "pool": model.pool,
        "layer_norm_eps": getattr(module.norm, "eps", 1e-6), "card": card,
    }  # fmt: skip
    if isinstance(module, LateClassTokenViT):
        entries["trained_blocks"] = len(module.blocks) - module.backbone_depth
        entries["weights_sha256"] = model.weights_sha256
        entries["simulated"] = model.simulated
        entries["input_size"] = list(model.input_size)
    elif model.input_size != tuple(entries["input_size"]):
        entries["used_size"] = list(model.input_size)
    name = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
    if name:
        entries["architecture"] = name
    place = find(module, model.pool)
    block = module.get_submodule(place.block)
    heads = getattr(getattr(block, "attn", None), "num_heads", None)
    if heads is not None:
        entries["num_heads"] = heads
    mlp = getattr(block, "mlp", None)
    if isinstance(mlp, GluMlp) and isinstance(mlp.act, nn.SiLU) and not mlp.gate_last:
        entries["mlp"] = "swiglu"
    return {"format": "pt"} | {k: json.dumps(v, ensure_ascii=False) for k, v in entries.items()}


def _write_card(path: Path, model: VisionModel, card: dict) -> None:
    module, weights = model.module, path.with_suffix(".safetensors")
    content = save(_on_cpu(module.trained_state()))
    write_atomically(weights, content)
    write_atomically(path, json.dumps({
        "id": model.id, "label": card.get("label", model.id),
        "description": "A linear head on a bundled backbone.",
        "targets": f"{len(model.class_names)} classes", "simulated": model.simulated,
        "architecture": {
            "class": type(module).__name__, "num_classes": len(model.class_names),
            "trained_blocks": len(module.blocks) - module.backbone_depth,
            "input_size": list(model.input_size),
        },
        "backbone": "backbone.safetensors", "weights": weights.name,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "class_names": model.class_names, "mean": model.mean, "std": model.std,
        "licence": "that of the backbone and of the pictures the head was trained on",
        "provenance": "Head trained on a folder of pictures; everything else is the bundled model.",
        "head": card,
    }, ensure_ascii=False, indent=1).encode())  # fmt: skip


def _check_same(written: VisionModel, read: VisionModel) -> None:
    pixels = torch.randn(1, 3, *written.input_size, generator=torch.Generator().manual_seed(0))
    ours, theirs = (each.logits(each.encode(pixels)).cpu() for each in (written, read))
    if (ours - theirs).abs().max() > SAME * ours.abs().max() or written.std != read.std:
        raise BadCheckpoint(
            "unsupported",
            "The written file does not give the answers of the trained model: this architecture "
            "needs its name in the file, so take the backbone from timm:<architecture>.",
        )


def as_card(evaluation: Evaluation, **entries) -> dict:
    """A card of a head: what it was made of and how good it is."""
    return entries | {"quality": asdict(evaluation)}
