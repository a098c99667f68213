"""Train a model of lung nodules: ``python -m cdam_core train nodules``.

The recipe of the CDAM paper (arXiv 2312.02364, section 5): 50 epochs, Adam with 3e-4 that decays by
0.95, some of the layers trainable, dropout; the best on validation is kept and measured once. A
layer is one parameter tensor, counted from the head. Several values of ``--trainable-layers`` or
``--dropout`` make a sweep, with a table.

On the bundled backbone tokens are computed once, up to the first block that is trained, and the
last block goes on from the weights of the scenes model. With ``--backbone timm:…`` the whole
network runs in every step. A stopped run goes on with the same command and ends as one that was
not stopped.
"""

import argparse
import copy
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cdam_core.assets import assets_dir
from cdam_core.errors import BadScan, BadTarget
from cdam_core.files import write_atomically
from cdam_core.head import save_model
from cdam_core.late_vit import LateClassTokenViT
from cdam_core.models import Encoding, VisionModel, load_model, wrap
from cdam_core.nodules import baselines
from cdam_core.nodules import card as cards
from cdam_core.nodules.crops import NoduleSource
from cdam_core.nodules.dicom import DicomArchive
from cdam_core.nodules.outlines import agreement
from cdam_core.nodules.pack import BIOMARKERS, Nodule, load_nodules
from cdam_core.nodules.phantom import VARIANTS, Phantom
from cdam_core.nodules.quality import accuracy, auc, mean_error, r_squared, with_interval
from cdam_core.nodules.splits import KINDS, Split, load_split, make_split
from cdam_core.nodules.views import (
    MEAN,
    STD,
    as_npy,
    backbone_cache,
    to_pixels,
    view_hu,
    with_crops,
)

# Names of the outputs; "malignant" is the logit and "benign" its negative.
TASKS = {"malignancy": ("benign", "malignant"), "biomarkers": BIOMARKERS}
# What training may let the network tell besides; the finished model does not.
SIDE_TASKS = ("none", "shape", "ratings", "shape+ratings")
BUNDLED = "bundled"
NICE = 10  # leaves the machine to others


@dataclass(frozen=True)
class Settings:
    """The recipe; every field is an option of the command.

    Args:
        task: "malignancy" (one logit) or "biomarkers" (eight ratings, squared error).
        epochs, learning_rate, decay, batch: of Adam; the rate is multiplied by ``decay`` after
            every epoch.
        trainable_layers: parameter tensors that are trained, counted from the head; 0: all but
            the backbone's (bundled backbone), or the paper's 50.
        dropout: share of the class row's entries that a training step leaves out.
        token_dropout: largest share of the patches that a training step leaves out; each step
            draws its own share from 0 on (bundled backbone).
        average: how much of the running mean of the weights stays at each step; 0: the weights
            themselves. What is validated and kept is the mean.
        side_task: learnt besides, by outputs that the finished model does not have: "shape", the
            features of the readers' outline (``baselines.SHAPE_FEATURES``); "ratings", the eight
            biomarkers (task "malignancy"); "shape+ratings".
        weight_decay: of matrices.
        views: ways in which each nodule is shown in training.
        side: height and width of the network's input (bundled backbone), in pixels.
        split: "patient", or "nodule" as in the paper.
        split_seed: which split; 0 is the stored one.
        seed: of weights and order.
    """

    task: str = "malignancy"
    epochs: int = 50
    learning_rate: float = 3e-4
    decay: float = 0.95
    batch: int = 64
    trainable_layers: int = 0
    dropout: float = 0.0
    token_dropout: float = 0.0
    average: float = 0.0
    side_task: str = "none"
    weight_decay: float = 0.05
    views: int = 3
    side: int = 168
    split: str = "patient"
    split_seed: int = 0
    seed: int = 0


# ---- targets -------------------------------------------------------------------------------------


def targets_of(task: str, nodules: Sequence[Nodule]) -> np.ndarray:
    """(nodules, 1) labels 0 or 1, or (nodules, 8) mean ratings and diameter in mm."""
    if task == "malignancy":
        return np.array([[float(nodule.malignant)] for nodule in nodules])
    return np.array([list(nodule.biomarkers.values()) for nodule in nodules])


def side_targets_of(side_task: str, nodules: Sequence[Nodule], work: Path) -> np.ndarray:
    """(nodules, 0, 8 or 16) what is learnt besides; outlines and ratings, no picture."""
    parts = [np.zeros((len(nodules), 0))]
    if "shape" in side_task:
        parts.append(_shapes_of(nodules, work))
    if "ratings" in side_task:
        parts.append(targets_of("biomarkers", nodules))
    return np.concatenate(parts, 1)


def _shapes_of(nodules: Sequence[Nodule], work: Path) -> np.ndarray:
    # a minute for all nodules, hence kept beside the tokens
    asked = hashlib.sha256(str([nodule.id for nodule in nodules]).encode()).hexdigest()[:24]
    path = work / "shapes" / f"{asked}.npy"
    if not path.is_file():
        found = np.array([baselines.shape_features(agreement(nodule)) for nodule in nodules])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, as_npy(found))
    return np.load(path, allow_pickle=False)


def side_count(side_task: str) -> int:
    """How many outputs a side task needs."""
    return (len(baselines.SHAPE_FEATURES) * ("shape" in side_task)
            + len(BIOMARKERS) * ("ratings" in side_task))  # fmt: skip


def output_count(settings: Settings) -> int:
    """Outputs of the network in training: the task's, then those of the side task."""
    return len(TASKS[settings.task]) + side_count(settings.side_task)


@dataclass(frozen=True, eq=False)
class Data:
    """Nodules, what is to be said of them, and who belongs to which part.

    Attributes:
        targets: (nodules, outputs) as ``targets_of``.
        side: (nodules, side outputs) as ``side_targets_of``.
    """

    nodules: tuple[Nodule, ...]
    split: Split
    targets: np.ndarray
    side: np.ndarray

    @classmethod
    def of(cls, nodules: Sequence[Nodule], settings: Settings, work: Path) -> "Data":
        """Of the nodules at hand; absent ones are missing in their part."""
        stored = settings.split == "patient" and settings.split_seed == 0
        split = load_split() if stored else make_split(load_nodules(), settings.split,
                                                       settings.split_seed)  # fmt: skip
        return cls(tuple(nodules), split, targets_of(settings.task, nodules),
                   side_targets_of(settings.side_task, nodules, work))

    def rows(self, part: str) -> np.ndarray:
        """Positions of a part among the nodules."""
        return self.split.rows(self.nodules, part)

    @property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of the training targets; 0 and 1 for labels."""
        train = self.targets[self.rows("train")]
        if self.targets.shape[1] == 1:
            return np.zeros(1), np.ones(1)
        return train.mean(0), train.std(0)

    @property
    def scaled_side(self) -> np.ndarray:
        """The side targets with mean 0 and spread 1 over the training part."""
        train = self.side[self.rows("train")]
        spread = train.std(0)
        return (self.side - train.mean(0)) / np.where(spread > 0, spread, 1)


# ---- networks ------------------------------------------------------------------------------------


def layers_from_head(module: nn.Module) -> list[str]:
    """Names of all parameter tensors: head, final norm, blocks from the last to the first, rest.

    What joins in the last block (class token and norm of the patches) stands right behind it.
    """
    names = [name for name, _ in module.named_parameters()]
    numbers = [int(name.split(".")[1]) for name in names if name.startswith("blocks.")]
    last, ends = max(numbers, default=0), {"head": 0, "fc_norm": 1, "norm": 2}

    def depth(name: str) -> tuple[int, int, int]:
        part, _, rest = name.partition(".")
        if part == "blocks":
            return 3, -int(rest.split(".")[0]), 0
        if part in ("late_norm", "late_cls_token"):
            return 3, -last, 1
        return ends.get(part, 4), 0, 0

    order = {name: index for index, name in enumerate(names)}
    return sorted(names, key=lambda name: (depth(name), -order[name]))


class LateNetwork:
    """The bundled backbone: the last block trained, and as many of its own layers as are asked for.

    Tokens are computed once, up to the first block that is trained.

    Args:
        settings: the recipe.
        outputs: of the head.
    """

    architecture = LateClassTokenViT

    def __init__(self, settings: Settings, outputs: int):
        torch.manual_seed(settings.seed)
        models = assets_dir() / "models"
        start = load_file(models / "scenes.safetensors")
        self.module = self.architecture(outputs, trained_blocks=1)
        nn.init.trunc_normal_(self.module.head.weight, std=0.02)
        nn.init.zeros_(self.module.head.bias)
        state = load_file(models / "backbone.safetensors") | {
            name: value for name, value in start.items() if not name.startswith("head.")
        }
        self.module.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
        self.backbone_sha256 = cards.sha256(models / "backbone.safetensors")
        self.start_sha256 = cards.sha256(models / "scenes.safetensors")
        self.side, self.mean, self.std = settings.side, MEAN, STD

    @property
    def trainable(self) -> list[str]:
        """Names that may be trained, from the head on: those of blocks, norms and class token."""
        free = self.module.trained_state()
        return [name for name in layers_from_head(self.module)
                if name in free or name.startswith("blocks.")]

    @property
    def layers(self) -> int:
        """Layers that are trained if none are asked for: all but the backbone's."""
        return sum(name in self.module.trained_state() for name in self.trainable)

    @property
    def frozen_blocks(self) -> int:
        """Blocks before the first one with a trained parameter; as the trainer has chosen."""
        trained = [int(name.split(".")[1]) for name, parameter in self.module.named_parameters()
                   if name.startswith("blocks.") and parameter.requires_grad]
        return min([*trained, self.module.backbone_depth])

    def load(self, source: NoduleSource, nodules: Sequence[Nodule], views: int,
             work: Path) -> None:
        """Compute or read the tokens of all views, as they leave the frozen blocks."""
        self.frozen = self.frozen_blocks
        cache = backbone_cache(work / "tokens", self.module.eval(), self.backbone_sha256, source,
                               self.side, self.frozen)
        self.stored = [cache.read(source, nodules, view) for view in range(views)]

    def inputs(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        """(B, 1 + N, d) tokens of the nodules' views."""
        return torch.from_numpy(np.stack([self.stored[view][row] for row, view
                                          in zip(rows, views, strict=True)])).float()  # fmt: skip

    def outputs(self, inputs: Tensor) -> Tensor:
        """(B, outputs)."""
        return self.module.class_row(self._leaving_backbone(self.module, inputs))[0]

    def _leaving_backbone(self, module: LateClassTokenViT, tokens: Tensor) -> Tensor:
        for block in module.blocks[self.frozen : module.backbone_depth]:
            tokens = block(tokens)
        return tokens

    def encode(self, model: VisionModel, row: int) -> Encoding:
        """A nodule's view 0 for the explaining methods."""
        with torch.no_grad():
            stored = self.inputs(np.array([row]), np.array([0]))
            tokens = model.module.join_class_token(self._leaving_backbone(model.module, stored))
        return Encoding(tokens, model.grid, np.ones(model.grid, bool))


class WholeNetwork:
    """Any backbone of timm, run from the pixels in every step.

    Args:
        settings: the recipe.
        outputs: of the new head.
        name: what ``load_model`` takes.
    """

    def __init__(self, settings: Settings, outputs: int, name: str):
        backbone = load_model(name)
        torch.manual_seed(settings.seed)
        self.module = copy.deepcopy(backbone.module)
        self.module.reset_classifier(outputs)
        for parameter in self.module.parameters():
            parameter.requires_grad_(True)
        self.side, self.mean, self.std = backbone.input_size[0], backbone.mean, backbone.std
        self.backbone_sha256 = self.start_sha256 = backbone.weights_sha256

    layers = 50  # trained if none are asked for, as in the paper

    @property
    def trainable(self) -> list[str]:
        """Names that may be trained, from the head on."""
        return layers_from_head(self.module)

    def load(self, source: NoduleSource, nodules: Sequence[Nodule], views: int,
             work: Path) -> None:
        """Keep all crops; pixels are made of them when they are needed."""
        self.stored = [np.stack([view_hu(source, nodule, view) for nodule in nodules])
                       for view in range(views)]  # fmt: skip

    def inputs(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        """(B, 3, side, side) pixels of the nodules' views."""
        crops = [self.stored[view][row] for row, view in zip(rows, views, strict=True)]
        return to_pixels(crops, self.side, self.mean, self.std)

    def outputs(self, inputs: Tensor) -> Tensor:
        """(B, outputs)."""
        return self.module(inputs)

    def encode(self, model: VisionModel, row: int) -> Encoding:
        """A nodule's view 0 for the explaining methods."""
        return model.encode(self.inputs(np.array([row]), np.array([0])))


def new_network(backbone: str, settings: Settings) -> LateNetwork | WholeNetwork:
    """The network that a backbone's name asks for, with a new head; side outputs come last."""
    outputs = output_count(settings)
    if backbone == BUNDLED:
        return LateNetwork(settings, outputs)
    return WholeNetwork(settings, outputs, backbone)


# ---- training ------------------------------------------------------------------------------------


def loss_of(task: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the logit, or squared error of the standardised ratings."""
    if task == "malignancy":
        return F.binary_cross_entropy_with_logits(outputs[:, 1], targets[:, 0])
    return F.mse_loss(outputs, targets)


def thinned(tokens: Tensor, largest_share: float) -> Tensor:
    """Tokens (B, 1 + N, d) without a random share of the patches, the same ones in all images.

    Args:
        tokens: row 0 is kept.
        largest_share: the share is drawn evenly from 0 to this; 0 draws nothing.
    """
    if not largest_share:
        return tokens
    patches = tokens.shape[1] - 1
    kept = round(patches * (1 - largest_share * torch.rand(()).item()))
    return tokens[:, torch.cat([torch.zeros(1, dtype=int), 1 + torch.randperm(patches)[:kept]])]


def first_outputs(head: nn.Linear, count: int) -> nn.Linear:
    """A linear head that answers only the first outputs."""
    smaller = nn.Linear(head.in_features, count)
    with torch.no_grad():
        smaller.weight.copy_(head.weight[:count])
        smaller.bias.copy_(head.bias[:count])
    return smaller


class Trainer:
    """Steps, schedule, the best weights so far, and where it all stands.

    Args:
        network: whose module is trained, in place.
        data: what to learn.
        settings: the recipe.

    Raises:
        BadTarget: "bad-setting" for more layers than can be trained.
    """

    def __init__(self, network: LateNetwork | WholeNetwork, data: Data, settings: Settings):
        self.network, self.data, self.settings = network, data, settings
        names = network.trainable
        count = settings.trainable_layers or network.layers
        if count > len(names):
            raise BadTarget("bad-setting", f"{count} trainable layers were asked for; this "
                            f"backbone has {len(names)} that can be trained.")  # fmt: skip
        chosen, parameters = names[:count], dict(network.module.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)
        self.parameters = {name: parameters[name] for name in chosen}
        network.module.head_drop.p = settings.dropout
        matrices = [p for p in self.parameters.values() if p.ndim == 2]
        others = [p for p in self.parameters.values() if p.ndim != 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay},
             {"params": others, "weight_decay": 0.0}], settings.learning_rate)  # fmt: skip
        mean, spread = data.scale
        self.scaled = torch.from_numpy((data.targets - mean) / spread).float()
        self.side = torch.from_numpy(data.scaled_side).float()
        self.outputs = len(TASKS[settings.task])
        self.epoch, self.history, self.mean = 0, [], self._weights()
        self.best, self.best_loss, self.best_epoch = self._weights(), float("inf"), 0

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """The network with other weights for a while, such as the mean or the best."""
        current = self._weights()
        self.network.module.load_state_dict(weights, strict=False)
        try:
            yield
        finally:
            self.network.module.load_state_dict(current, strict=False)

    def step(self, rows: np.ndarray, views: np.ndarray) -> float:
        """One update on nodules as seen in their views; gives the loss."""
        self.network.module.train()
        inputs = thinned(self.network.inputs(rows, views), self.settings.token_dropout)
        outputs = self.network.outputs(inputs)
        loss = loss_of(self.settings.task, outputs[:, : self.outputs], self.scaled[rows])
        if self.side.shape[1]:
            loss = loss + F.mse_loss(outputs[:, self.outputs :], self.side[rows])
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0)
        self.optimiser.step()
        for name, value in self.parameters.items():
            self.mean[name].lerp_(value.detach(), 1 - self.settings.average)
        return loss.item()

    def run_epoch(self) -> None:
        """All training nodules once, each in a view drawn by chance; then validation."""
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * settings.decay**self.epoch
        rng = np.random.default_rng([settings.seed, self.epoch])
        torch.manual_seed(settings.seed * 100_003 + self.epoch)  # of the dropout
        rows = rng.permutation(self.data.rows("train"))
        views = rng.integers(0, settings.views, len(rows))
        losses = [self.step(rows[i : i + settings.batch], views[i : i + settings.batch])
                  for i in range(0, len(rows), settings.batch)]  # fmt: skip
        val = self.data.rows("val")
        with self.holding(self.mean):
            loss = loss_of(settings.task, self.predict(val), self.scaled[val]).item()
        self.epoch += 1
        self.history.append([float(np.mean(losses)), loss])
        if loss < self.best_loss:
            self.best = {name: value.clone() for name, value in self.mean.items()}
            self.best_loss, self.best_epoch = loss, self.epoch

    def predict(self, rows: np.ndarray) -> Tensor:
        """(rows, outputs) of view 0, in training's units."""
        self.network.module.eval()
        size = self.settings.batch
        with torch.no_grad():
            return torch.cat([
                self.network.outputs(self.network.inputs(part, np.zeros(len(part), int)))
                for part in (rows[i : i + size] for i in range(0, len(rows), size))
            ])[:, : self.outputs]  # fmt: skip

    def finish(self) -> nn.Module:
        """A copy with the best weights whose head answers in real units: a logit, ratings, mm."""
        module = copy.deepcopy(self.network.module).eval()
        module.load_state_dict(self.best, strict=False)
        module.head = first_outputs(module.head, self.outputs)
        module.num_classes = self.outputs
        weight, bias = module.head.weight.data, module.head.bias.data
        if self.settings.task == "malignancy":
            weight[0], bias[0] = -weight[1], -bias[1]
        else:
            mean, spread = (torch.from_numpy(part).float() for part in self.data.scale)
            weight.mul_(spread[:, None])
            bias.mul_(spread).add_(mean)
        return module

    def save(self, path: Path) -> None:
        """Everything that is needed to go on, in one file."""
        tensors = self._weights()
        for kind, weights in (("best", self.best), ("mean", self.mean)):
            tensors |= {f"{kind}.{name}": value for name, value in weights.items()}
        for name, parameter in self.parameters.items():
            for entry, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"adam.{entry}.{name}"] = value.detach().clone()
        notes = {"epoch": self.epoch, "history": self.history, "best_loss": self.best_loss,
                 "best_epoch": self.best_epoch}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, {"notes": json.dumps(notes)}))

    def load(self, path: Path) -> bool:
        """Go on from a file; False if there is none that can be read, or none that is of use.

        A longer run than asked for serves if its best epoch is among those asked for.
        """
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                notes = json.loads(file.metadata()["notes"])
        except (OSError, SafetensorError):
            return False
        asked = self.settings.epochs
        if notes["epoch"] > asked < notes["best_epoch"]:
            return False
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name])
            entries = {entry: tensors[f"adam.{entry}.{name}"] for entry in
                       ("step", "exp_avg", "exp_avg_sq") if f"adam.{entry}.{name}" in tensors}
            if entries:
                self.optimiser.state[parameter] = entries
        self.best, self.mean = ({name: tensors[f"{kind}.{name}"] for name in self.parameters}
                                for kind in ("best", "mean"))  # fmt: skip
        self.epoch, self.history = notes["epoch"], notes["history"][:asked]
        self.best_loss, self.best_epoch = notes["best_loss"], notes["best_epoch"]
        return True


def state_path(work: Path, settings: Settings, network: LateNetwork | WholeNetwork,
               source: NoduleSource, data: Data) -> Path:
    """Where a run's unfinished state lies; another one for everything that changes the result.

    The number of epochs does not, so a longer run goes on from a shorter one.
    """
    asked = asdict(replace(settings, epochs=0)) | {
        "network": type(network).__name__,
        "backbone": network.backbone_sha256, "start": network.start_sha256,
        "source": _words_of(source), "nodules": [nodule.id for nodule in data.nodules],
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
    return work / "states" / f"{digest}.safetensors"


def _words_of(source: NoduleSource) -> str:
    return repr(source) if isinstance(source, Phantom) else source.source


def fit(backbone: str, settings: Settings, source: NoduleSource, nodules: Sequence[Nodule],
        work: Path, say=print, make=None) -> Trainer:
    """Train to the last epoch, from where it was stopped.

    Args:
        backbone, settings, source, nodules, work: what to train, on what, and where it is kept.
        say: takes a line of progress.
        make: the network of (backbone, settings); None: ``new_network``.
    """
    network = (make or new_network)(backbone, settings)
    data = Data.of(nodules, settings, work)
    for part in ("train", "val", "test"):
        if not len(data.rows(part)):
            raise BadScan("not-found", f"No nodule of the {part} part has crops; expected scans "
                          "of patients of every part. Download more.")  # fmt: skip
    trainer = Trainer(network, data, settings)
    network.load(source, nodules, settings.views, work)
    path = state_path(work, settings, network, source, data)
    if trainer.load(path):
        say(f"going on after epoch {trainer.epoch}")
    while trainer.epoch < settings.epochs:
        trainer.run_epoch()
        trainer.save(path)
        if trainer.epoch % 5 == 0 or trainer.epoch == settings.epochs:
            train, val = trainer.history[-1]
            say(f"epoch {trainer.epoch} of {settings.epochs}: loss {train:.4f}, validation "
                f"{val:.4f}, best {trainer.best_loss:.4f} in epoch {trainer.best_epoch}")
    return trainer


def predictions(trainer: Trainer, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Outputs in real units and targets of a part, with the best weights.

    Returns:
        (n, 1) logits and labels, or (n, 8) ratings and ratings.
    """
    rows = trainer.data.rows(part)
    with trainer.holding(trainer.best):
        found = trainer.predict(rows).double().numpy()
    if trainer.settings.task == "malignancy":
        return found[:, 1:], trainer.data.targets[rows]
    mean, spread = trainer.data.scale
    return found * spread + mean, trainer.data.targets[rows]


Measure = Callable[[np.ndarray, np.ndarray], float]  # of outputs and targets, (n, columns) each


def measures_of(task: str) -> dict[str, Measure]:
    """The numbers of a part: accuracy and AUC, or R² and mean absolute error per biomarker."""
    if task == "malignancy":
        return {"accuracy": _of_column(accuracy, 0), "auc": _of_column(auc, 0)}
    return {f"{name} {marker}": _of_column(measure, column)
            for name, measure in (("R²", r_squared), ("MAE", mean_error))
            for column, marker in enumerate(BIOMARKERS)}  # fmt: skip


def _of_column(measure: Measure, column: int) -> Measure:
    return lambda found, true: measure(found[:, column], true[:, column])


def scores_of(task: str, found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Every number of ``measures_of``."""
    return {name: measure(found, true) for name, measure in measures_of(task).items()}


def intervals_of(trainer: Trainer, part: str) -> dict[str, dict]:
    """Every number of a part with its interval over patients."""
    found = predictions(trainer, part)
    patients = [trainer.data.nodules[row].patient_id for row in trainer.data.rows(part)]
    return {name: with_interval(measure, patients, *found)
            for name, measure in measures_of(trainer.settings.task).items()}  # fmt: skip


# ---- the whole job -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What the command was asked for, besides the recipe."""

    backbone: str
    source: NoduleSource
    nodules: tuple[Nodule, ...]
    work: Path
    out: Path
    table: Path | None = None


def train(job: Job, runs: Sequence[Settings]) -> dict[str, float]:
    """Train every recipe, keep the best on validation, measure it once, write the model.

    Returns:
        The numbers on the test part.
    """
    table, best = [], None
    for settings in runs:
        trainer = fit(job.backbone, settings, job.source, job.nodules, job.work)
        table.append({"trainable_layers": len(trainer.parameters), "dropout": settings.dropout,
                      "validation_loss": round(trainer.best_loss, 4),
                      "best_epoch": trainer.best_epoch, **intervals_of(trainer, "val")})
        if best is None or trainer.best_loss < best.best_loss:
            best = trainer
    if len(table) > 1:
        print(as_table(table))
    if job.table is not None:
        write_atomically(job.table, as_csv(table).encode())
    found = scores_of(best.settings.task, *predictions(best, "test"))
    write(job, best, table, found)
    print(best.data.split.words)
    print("test: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


def as_table(rows: list[dict]) -> str:
    """Plain text, one line per recipe."""
    names = ("trainable_layers", "dropout", "best_epoch", "validation_loss")
    lines = ["  ".join(f"{name:>16}" for name in names)]
    return "\n".join(lines + ["  ".join(f"{row[name]:>16}" for name in names) for row in rows])


def as_csv(rows: list[dict]) -> str:
    """A line per recipe; a number with an interval takes three columns: itself, low and high."""
    lines = [",".join(name if not isinstance(value, dict) else f"{name},{name} low,{name} high"
                      for name, value in rows[0].items())]
    for row in rows:
        cells = ((value["value"], *value["interval"]) if isinstance(value, dict) else (value,)
                 for value in row.values())  # fmt: skip
        lines.append(",".join(str(cell) for cell in itertools.chain.from_iterable(cells)))
    return "\n".join(lines) + "\n"


def write(job: Job, trainer: Trainer, table: list[dict], found: dict[str, float]) -> None:
    """The finished model: a card and weights, or one safetensors file for a backbone of timm."""
    content = cards.describe(trainer.settings, trainer.data, job, len(trainer.parameters)) | {
        "started_from_sha256": trainer.network.start_sha256,
        "sweep": table,
        "curves": {"train_and_validation_loss": np.round(trainer.history, 5).tolist()},
        "test": {name: round(value, 4) for name, value in found.items()},
    }
    job.out.parent.mkdir(parents=True, exist_ok=True)
    module = trainer.finish()
    if job.out.suffix == ".json":
        cards.write(job.out, module, content, trainer.parameters)
        return
    network = trainer.network
    model = wrap(module, TASKS[trainer.settings.task], network.mean, network.std,
                 model_id=content["id"], simulated=content["simulated"])  # fmt: skip
    save_model(job.out, model, content)


# ---- command line --------------------------------------------------------------------------------


def register(subparsers) -> None:
    """Add ``nodules`` to the sub-commands of ``train``."""
    parser = subparsers.add_parser("nodules", help="the models of lung nodules",
                                   description=__doc__.splitlines()[0])  # fmt: skip
    defaults = asdict(Settings())
    parser.add_argument("--task", choices=tuple(TASKS), default=defaults.pop("task"))
    parser.add_argument("--split", choices=KINDS, default=defaults.pop("split"),
                        help="nodule: as in the paper, which leaks patients")
    parser.add_argument("--side-task", choices=SIDE_TASKS, default=defaults.pop("side_task"),
                        help="learnt besides: shape of the readers' outline, ratings")
    parser.add_argument("--source", choices=("phantom", "dicom"), default="phantom")
    parser.add_argument("--variant", choices=VARIANTS, default="ratings",
                        help="of the phantom; solid: shape only")
    parser.add_argument("--scans", type=Path, metavar="FOLDER",
                        help="download of LIDC-IDRI, for --source dicom")
    parser.add_argument("--backbone", default=BUNDLED, metavar="MODEL",
                        help="timm:<architecture> or a checkpoint; default: the bundled one")
    parser.add_argument("--work", type=Path, default=Path("runs/nodules"),
                        help="folder for tokens (110 kB a view at 168 px) and unfinished runs")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="model card (.json); .safetensors with --backbone timm:…")
    parser.add_argument("--table", type=Path, metavar="FILE.csv",
                        help="every recipe's numbers on validation, with intervals over patients")
    for name in ("trainable_layers", "dropout"):
        value = defaults.pop(name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), nargs="+",
                            default=[value], help="several values: a sweep")  # fmt: skip
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train as the command line says; wrong arguments end with one line and status 2."""
    single = {name: getattr(args, name) for name in asdict(Settings())
              if name not in ("trainable_layers", "dropout")}  # fmt: skip
    runs = [Settings(**single, trainable_layers=layers, dropout=dropout)
            for layers, dropout in itertools.product(args.trainable_layers, args.dropout)]
    problem = next(filter(None, map(_problem, runs)), None) or _problem_of_files(args)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    os.nice(NICE)
    source, nodules = open_source(args)
    suffix = ".json" if args.backbone == BUNDLED else ".safetensors"
    out = args.out or args.work / f"nodules-{args.task}{suffix}"
    train(Job(args.backbone, source, nodules, args.work, out, args.table), runs)
    print(f"wrote {out.name}")
    return 0


def open_source(args: argparse.Namespace) -> tuple[NoduleSource, tuple[Nodule, ...]]:
    """The source and the nodules of which it has crops; what a folder of scans holds is told."""
    if args.source == "phantom":
        return Phantom(args.variant), load_nodules()
    archive = DicomArchive(args.scans)
    print("\n".join((*archive.report, archive.summary)), flush=True)
    good, bad = with_crops(archive, archive.nodules)
    for nodule, error in bad:
        print(f"{nodule.patient_id}: nodule {nodule.id} left out: {error}")
    return archive, tuple(good)


def _problem(settings: Settings) -> str | None:
    if settings.epochs < 1 or settings.batch < 2 or settings.views < 1:
        return "--epochs and --views must be at least 1, --batch at least 2"
    if not (0 < settings.learning_rate < 1 and 0 < settings.decay <= 1
            and all(0 <= share < 1 for share in (settings.dropout, settings.token_dropout,
                                                 settings.average))
            and settings.weight_decay >= 0):
        return ("--learning-rate and --decay are between 0 and 1; --dropout, --token-dropout and "
                "--average at least 0 and below 1; --weight-decay at least 0")  # fmt: skip
    if settings.task == "biomarkers" and "ratings" in settings.side_task:
        return "--side-task ratings is for --task malignancy; the biomarkers' own task is ratings"
    if min(settings.seed, settings.split_seed, settings.trainable_layers) < 0:
        return "--seed, --split-seed and --trainable-layers must be at least 0"
    return None


def _problem_of_files(args: argparse.Namespace) -> str | None:
    if args.backbone != BUNDLED and args.token_dropout:
        return "--token-dropout is for the bundled backbone, whose tokens are computed once"
    if args.source == "dicom" and args.scans is None:
        return "--source dicom needs --scans FOLDER, a download of LIDC-IDRI"
    suffix = ".json" if args.backbone == BUNDLED else ".safetensors"
    if args.out is not None and args.out.suffix != suffix:
        return f"--out must end in {suffix} with this backbone"
    return None
