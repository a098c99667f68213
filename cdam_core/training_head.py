"""Train a linear head on a frozen backbone: ``python -m cdam_core train head``.

The recipe of the CDAM paper (arXiv 2312.02364, section 6): RandomResizedCrop and horizontal flip
with torchvision's defaults, Adam with 3e-4, batches of 128, 10 epochs; measured on pictures resized
to 256/224 of the input size (bicubic) and cropped in the middle. ``--cache`` embeds every picture
once, without augmentation, and fits the head on the embeddings.

Everything unfinished lies in a work folder beside the result, so the same command goes on where it
was stopped; the order of the pictures and their augmentation follow from the seed alone, and a run
that was stopped ends with the same head as one that was not.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cdam_core.errors import BadImage, BadTarget
from cdam_core.files import write_atomically
from cdam_core.head import (
    Evaluation,
    LinearHead,
    as_card,
    evaluate,
    fit_head,
    require_linear_place,
    save_model,
    suffix_for,
    with_head,
)
from cdam_core.images import open_image
from cdam_core.models import VisionModel, imagenet_names, load_model

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
SHARD = 1024  # embeddings in one file of the work folder
PROGRESS_SECONDS = 10.0
VALIDATION_RESIZE = 256 / 224  # of the side that is then cropped
LABEL_OF_BROKEN = -1


@dataclass(frozen=True)
class Settings:
    """The recipe; every field is an option of the command.

    Args:
        epochs, batch, learning_rate: of the paper's recipe.
        strength: of the data against small weights, with ``--cache`` (see ``head.fit_head``).
        val_share: share of each class kept for measuring where the folder has no ``val``.
        seed: of the split, the order, the augmentation and the head's start.
    """

    epochs: int = 10
    batch: int = 128
    learning_rate: float = 3e-4
    strength: float = 1.0
    val_share: float = 0.2
    seed: int = 0


# ---- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Pictures by class, as (path, class index)."""

    class_names: tuple[str, ...]
    train: list[tuple[Path, int]]
    val: list[tuple[Path, int]]


def read_folder(folder: Path, val_share: float = 0.2, seed: int = 0) -> Data:
    """List a folder of pictures: ``train/<class>/`` and ``val/<class>/``, or ``<class>/`` to split.

    Args:
        folder: classes are the names of its sub-folders, in alphabetical order; the 1000 folders
            of ImageNet (n01440764, ...) get ImageNet's names.
        val_share: share of each class to measure on, at least one picture, drawn by ``seed``.

    Raises:
        BadImage: "unreadable" for fewer than two classes, one without pictures, or a class in
            ``val`` that ``train`` does not have.
    """
    divided = (folder / "train").is_dir() and (folder / "val").is_dir()
    train = _by_class(folder / "train" if divided else folder)
    names = tuple(train)
    if divided:
        val = _by_class(folder / "val")
        if not set(val) <= set(names):
            raise _bad_folder("val has a class folder that train does not have")
    else:
        val = {name: _held_out(paths, val_share, [seed, i])
               for i, (name, paths) in enumerate(train.items())}  # fmt: skip
        train = {name: sorted(set(paths) - set(val[name])) for name, paths in train.items()}
    return Data(_display_names(names), *(
        [(path, names.index(name)) for name, paths in part.items() for path in paths]
        for part in (train, val)
    ))  # fmt: skip


def _bad_folder(what: str) -> BadImage:
    return BadImage("unreadable", f"{what}; expected a folder with one sub-folder of pictures per "
                    "class, or such folders called train and val.")  # fmt: skip


def _by_class(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise _bad_folder("There is no such folder")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {
        each.name: sorted(p for p in each.rglob("*") if p.suffix.lower() in SUFFIXES)
        for each in classes
    }
    if len(found) < 2:
        raise _bad_folder(f"{len(found)} class folders were found")
    empty = sum(not paths for paths in found.values())
    if empty:
        raise _bad_folder(f"{empty} of {len(found)} class folders hold no pictures")
    return found


def _held_out(paths: list[Path], share: float, seed: list[int]) -> list[Path]:
    count = max(1, round(share * len(paths)))
    if count >= len(paths):
        raise _bad_folder("A class has too few pictures to keep one for measuring")
    chosen = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [paths[i] for i in sorted(chosen)]


def _display_names(names: tuple[str, ...]) -> tuple[str, ...]:
    synsets = all(len(n) == 9 and n[0] == "n" and n[1:].isdigit() for n in names)
    return imagenet_names() if synsets and len(names) == 1000 else names


class Pictures(Dataset):
    """Pictures cut to the model's input size, as (pixels uint8 (3, H, W), label, index).

    A broken picture has the label -1 and its reason instead of pixels.

    Args:
        items: (path, class index), in the order in which they are asked for.
        numbers: index of each item in the whole; with ``seed`` and ``epoch`` the augmentation
            follows from it, whoever asks and in whatever order.
        size: (height, width).
        augment: the recipe of training, else that of measuring.
    """

    def __init__(self, items, numbers, size: tuple[int, int], augment: bool,
                 seed: int = 0, epoch: int = 0):  # fmt: skip
        self.items, self.numbers, self.augment = items, numbers, augment
        self.seed, self.epoch = seed, epoch
        self.cut = training_cut(size) if augment else measuring_cut(size)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int):
        (path, label), number = self.items[row], int(self.numbers[row])
        try:
            image = open_image(path)
        except BadImage as error:
            return error.reason, LABEL_OF_BROKEN, number
        if self.augment:
            draw = np.random.SeedSequence([self.seed, self.epoch, number]).generate_state(1)[0]
            with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
                torch.manual_seed(int(draw))
                image = self.cut(image)
        else:
            image = self.cut(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), label, number


def training_cut(size: tuple[int, int]):
    """RandomResizedCrop and horizontal flip with torchvision's default arguments."""
    from torchvision import transforms

    return transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    )


def measuring_cut(size: tuple[int, int]):
    """Resize to 256 and crop 224 in the middle, or the same proportions of another size."""
    from torchvision import transforms

    side = round(max(size) * VALIDATION_RESIZE)
    return transforms.Compose(
        [transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
         transforms.CenterCrop(size)]
    )  # fmt: skip


def _collate(rows: list) -> tuple[Tensor, Tensor, list[tuple[int, str]]]:
    """Pixels, labels, and (number, reason) of the broken ones."""
    good = [(pixels, label) for pixels, label, _ in rows if label != LABEL_OF_BROKEN]
    broken = [(number, reason) for reason, label, number in rows if label == LABEL_OF_BROKEN]
    pixels = torch.stack([p for p, _ in good]) if good else torch.empty(0)
    return pixels, torch.tensor([label for _, label in good]), broken


# ---- embedding -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Job:
    """One run of the command: what it works on and where it keeps what is unfinished."""

    model: VisionModel
    data: Data
    settings: Settings
    work: Path
    workers: int = 0
    checkpoint_seconds: float = 300.0
    broken: dict[str, str] = field(default_factory=dict)  # "train 17" -> reason

    def batches(self, items, numbers, augment: bool, epoch: int = 0) -> Iterator:
        """Batches of pixels on the model's device, normalised; labels; broken pictures."""
        pictures = Pictures(items, numbers, self.model.input_size, augment,
                            self.settings.seed, epoch)  # fmt: skip
        loader = DataLoader(pictures, self.settings.batch, num_workers=self.workers,
                            collate_fn=_collate)  # fmt: skip
        device = next(self.model.module.parameters()).device
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1)
                     for v in (self.model.mean, self.model.std))  # fmt: skip
        for pixels, labels, broken in loader:
            if len(labels):
                pixels = (pixels.to(device, torch.float32) / 255 - mean) / std
            yield pixels, labels.to(device), broken

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, d) latents in float32; the backbone runs in half precision on a GPU."""
        half = torch.bfloat16 if _has_bfloat16(pixels.device) else torch.float16
        with torch.autocast(pixels.device.type, half, enabled=pixels.is_cuda):
            return self.model.embed(pixels).float()

    def note(self, part: str, broken: list[tuple[int, str]]) -> None:
        """Remember a picture that was left out, and say so once."""
        items = getattr(self.data, part)
        for number, reason in broken:
            if f"{part} {number}" not in self.broken:
                self.broken[f"{part} {number}"] = reason
                print(f"left out ({reason}): {items[number][0].name}", flush=True)


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def features_of(job: Job, part: str) -> tuple[Tensor, Tensor]:
    """Embeddings (n, d) and labels (n,) of a part of the data, without augmentation.

    A shard that lies in the work folder is not computed again.
    """
    items, kept = getattr(job.data, part), []
    clock = _Clock(f"embedding {part}", len(items))
    for start in range(0, len(items), SHARD):
        path = job.work / f"{part}-{start // SHARD:05d}.safetensors"
        shard = _read_shard(path)
        if shard is None:
            numbers = range(start, min(start + SHARD, len(items)))
            shard = _embed_shard(job, part, numbers)
            write_atomically(path, save(*shard))
        tensors, notes = shard
        job.note(part, json.loads(notes["broken"]))
        kept.append(tensors)
        clock.tell(min(start + SHARD, len(items)))
    device = next(job.model.module.parameters()).device
    features, labels = (torch.cat([s[k] for s in kept]).to(device) for k in ("features", "labels"))
    return features, labels


def _embed_shard(job: Job, part: str, numbers: range) -> tuple[dict[str, Tensor], dict[str, str]]:
    features, labels, all_broken = [torch.empty(0, job.model.module.num_features)], [], []
    items = getattr(job.data, part)[numbers.start : numbers.stop]
    for pixels, batch_labels, broken in job.batches(items, numbers, augment=False):
        if len(batch_labels):
            features.append(job.embed(pixels).cpu())
            labels.append(batch_labels.cpu())
        all_broken += broken
    tensors = {"features": torch.cat(features),
               "labels": torch.cat(labels) if labels else torch.empty(0, dtype=torch.long)}
    return tensors, {"broken": json.dumps(all_broken)}  # fmt: skip


def _read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


class _Clock:
    """Progress lines, not too many."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.started = what, total, time.monotonic()
        self.said = self.started

    def tell(self, done: int, text: str = "") -> None:
        now = time.monotonic()
        if now - self.said >= PROGRESS_SECONDS or done >= self.total:
            self.said = now
            print(f"{self.what}: {done} of {self.total} pictures{text}, "
                  f"{now - self.started:.0f} s", flush=True)  # fmt: skip


# ---- the paper's recipe --------------------------------------------------------------------------


class Trainer:
    """The head, Adam and where they stand; all of it goes into one safetensors file.

    Args:
        job: backbone, data and settings.
    """

    def __init__(self, job: Job):
        self.job, count = job, len(job.data.class_names)
        width = job.model.module.num_features
        draw = torch.Generator().manual_seed(job.settings.seed)
        device = next(job.model.module.parameters()).device
        spread = width**-0.5  # torch's default start of a linear layer
        weight, bias = ((torch.rand(shape, generator=draw) * 2 - 1) * spread
                        for shape in ((count, width), (count,)))  # fmt: skip
        self.parameters = {"weight": nn.Parameter(weight.to(device)),
                           "bias": nn.Parameter(bias.to(device))}  # fmt: skip
        self.optimiser = torch.optim.Adam(self.parameters.values(), job.settings.learning_rate)
        self.epoch = self.batch = 0
        self.loss = float("nan")

    @property
    def head(self) -> LinearHead:
        """The head as it stands."""
        return LinearHead(*(p.detach().clone() for p in self.parameters.values()))

    def step(self, features: Tensor, labels: Tensor) -> None:
        """One update from (B, d) embeddings and (B,) labels."""
        logits = features @ self.parameters["weight"].T + self.parameters["bias"]
        loss = nn.functional.cross_entropy(logits, labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.loss = loss.item()

    def run_epoch(self, path: Path) -> None:
        """The rest of the current epoch; ``path`` is written now and then, and on Ctrl-C."""
        job, items, size = self.job, self.job.data.train, self.job.settings.batch
        order = np.random.default_rng([job.settings.seed, self.epoch]).permutation(len(items))
        rest = order[self.batch * size :]
        chosen = [items[i] for i in rest]
        clock = _Clock(f"epoch {self.epoch + 1} of {job.settings.epochs}", len(items))
        written = time.monotonic()
        try:
            for pixels, labels, broken in job.batches(chosen, rest, True, self.epoch):
                if len(labels):
                    self.step(job.embed(pixels), labels)
                self.batch += 1
                job.note("train", broken)
                clock.tell(min(self.batch * size, len(items)), f", loss {self.loss:.3f}")
                if time.monotonic() - written > job.checkpoint_seconds:
                    written = time.monotonic()
                    self.save(path)
        except KeyboardInterrupt:
            self.save(path)
            raise
        self.epoch, self.batch = self.epoch + 1, 0
        self.save(path)

    def save(self, path: Path) -> None:
        """Everything that is needed to go on."""
        tensors = {name: p.detach().clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for entry, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{name}.{entry}"] = value.detach().clone()
        notes = {"epoch": self.epoch, "batch": self.batch, "loss": self.loss,
                 "broken": self.job.broken}  # fmt: skip
        write_atomically(path, save(tensors, {k: json.dumps(v) for k, v in notes.items()}))

    def load(self, path: Path) -> bool:
        """Go on from a file; False if there is none that can be read."""
        found = _read_shard(path)
        if found is None:
            return False
        tensors, notes = found
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name])
            entries = {
                key.removeprefix(f"{name}."): value.to(parameter.device) if value.ndim else value
                for key, value in tensors.items() if key.startswith(f"{name}.")
            }  # fmt: skip
            if entries:
                self.optimiser.state[parameter] = entries
        self.epoch, self.batch = json.loads(notes["epoch"]), json.loads(notes["batch"])
        self.job.broken |= json.loads(notes["broken"])
        return True


def train_augmented(job: Job) -> tuple[LinearHead, Evaluation]:
    """The paper's recipe, from where it was stopped."""
    trainer, path = Trainer(job), job.work / "state.safetensors"
    if trainer.load(path):
        print(f"going on in epoch {trainer.epoch + 1}, batch {trainer.batch + 1}", flush=True)
    features, labels = features_of(job, "val")
    while trainer.epoch < job.settings.epochs:
        trainer.run_epoch(path)
        found = evaluate(trainer.head.predict(features), labels, job.data.class_names)
        print(f"epoch {trainer.epoch}: {found.lines(0)[0]}", flush=True)
    return trainer.head, evaluate(trainer.head.predict(features), labels, job.data.class_names)


def train_cached(job: Job) -> tuple[LinearHead, Evaluation]:
    """Every picture embedded once, then a logistic regression."""
    val, val_labels = features_of(job, "val")
    features, labels = features_of(job, "train")

    def tell(step: int, loss: float) -> None:
        if step % 20 == 0:
            print(f"fitting: step {step}, loss {loss:.4f}", flush=True)

    head = fit_head(features, labels, len(job.data.class_names), job.settings.strength,
                    on_step=tell)  # fmt: skip
    return head, evaluate(head.predict(val), val_labels, job.data.class_names)


# ---- the whole job -------------------------------------------------------------------------------


def train(
    backbone: str, folder: Path, out: Path, settings: Settings, *, cache: bool = False,
    again: bool = False, device: str = "auto", workers: int = 0, checkpoint_seconds: float = 300.0,
) -> Evaluation:  # fmt: skip
    """Train a head and write the model with it.

    Args:
        backbone: what ``load_model`` takes.
        folder: pictures, see ``read_folder``.
        out: file to write, see ``head.suffix_for``; unfinished work lies in ``<out>.work``.
        settings: the recipe.
        cache: embed once without augmentation instead of the paper's recipe.
        again: overwrite a finished file and forget unfinished work.
        device: "cpu", "cuda" or "auto".
        workers: processes that open pictures; 0: this one.
        checkpoint_seconds: how often the state is written within an epoch.

    Raises:
        CdamError: with one sentence, for everything that is wrong with the input.
    """
    _require_torchvision()
    _check_settings(settings)
    if out.exists() and not again:
        raise BadTarget("bad-setting", "The result is there already; expected another --out, or "
                        "--again to overwrite it.")  # fmt: skip
    data = read_folder(folder, settings.val_share, settings.seed)
    model = load_model(backbone)
    require_linear_place(model)
    _check_out(out, model)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model.module.to(chosen)
    work = out.with_name(f"{out.name}.work")
    _claim(work, _fingerprint(model, data, folder, settings, cache), again)
    job = Job(model, data, settings, work, workers, checkpoint_seconds)
    print(f"{len(data.class_names)} classes, {len(data.train)} pictures to train on and "
          f"{len(data.val)} to measure on, {chosen}", flush=True)  # fmt: skip
    head, found = (train_cached if cache else train_augmented)(job)
    _finish(job, head, found, out, backbone, cache)
    return found


def _finish(job: Job, head: LinearHead, found: Evaluation, out: Path, backbone: str,
            cache: bool) -> None:  # fmt: skip
    model, data = job.model, job.data
    model.module.to("cpu")
    head = LinearHead(head.weight.cpu(), head.bias.cpu())
    reasons = dict(Counter(job.broken.values()))
    digest = hashlib.sha256(head.weight.numpy().tobytes()).hexdigest()[:12]
    named = backbone if backbone.startswith("timm:") else model.id
    card = as_card(
        found, label=f"{len(data.class_names)} classes", backbone=named,
        recipe="cached embeddings" if cache else "paper (augmented)",
        settings=asdict(job.settings), n_train=len(data.train), n_val=len(data.val),
        left_out=reasons,
    )  # fmt: skip
    save_model(out, with_head(model, head, data.class_names, f"head-{digest}"), card)
    if reasons:
        print(f"left out: {', '.join(f'{n} {reason}' for reason, n in reasons.items())}")
    print("\n".join(found.lines()))
    shutil.rmtree(job.work)


def _require_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        raise BadTarget("unsupported", "Training a head needs torchvision, which is not installed; "
                        "install it with: pip install torchvision.") from None  # fmt: skip


def _check_settings(settings: Settings) -> None:
    fits = (settings.epochs >= 1 and settings.batch >= 1 and 0 < settings.learning_rate < 10
            and settings.strength > 0 and 0 < settings.val_share < 1 and settings.seed >= 0)
    if not fits:
        raise BadTarget("bad-setting", "A setting is out of range; expected at least 1 epoch, a "
                        "batch of at least 1, a positive learning rate and strength, a share for "
                        "measuring between 0 and 1, and a seed of at least 0.")  # fmt: skip


def _check_out(out: Path, model: VisionModel) -> None:
    if out.suffix != suffix_for(model):
        raise BadTarget("bad-setting", f"--out ends in {out.suffix or 'nothing'}; with this "
                        f"backbone expected a file ending in {suffix_for(model)}.")  # fmt: skip


def _fingerprint(model: VisionModel, data: Data, folder: Path, settings: Settings,
                 cache: bool) -> str:  # fmt: skip
    """What unfinished work belongs to: weights, pictures (name and size) and settings."""
    files = [(path.relative_to(folder).as_posix(), path.stat().st_size, label)
             for path, label in data.train + data.val]  # fmt: skip
    asked = [model.weights_sha256, data.class_names, files, asdict(settings), cache]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _claim(work: Path, fingerprint: str, again: bool) -> None:
    """Make the work folder, or check that what lies in it is of the same job."""
    record = work / "job.json"
    if again and record.is_file():
        shutil.rmtree(work)
    if record.is_file():
        if json.loads(record.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
            raise BadTarget("bad-setting", "Unfinished work of another backbone, folder or "
                            "settings lies beside --out; give the same ones to go on, or --again "
                            "to forget it.")  # fmt: skip
        return
    work.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps({"fingerprint": fingerprint}).encode())


# ---- command line --------------------------------------------------------------------------------


def register(subparsers) -> None:
    """Add ``head`` to the sub-commands of ``train``."""
    parser = subparsers.add_parser("head", help="a linear head on a frozen backbone",
                                   description=__doc__.split("\n\n")[1])  # fmt: skip
    parser.add_argument("--backbone", required=True, metavar="MODEL|FILE",
                        help="timm:<architecture>, a checkpoint, or a bundled model")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER",
                        help="one sub-folder of pictures per class, or such folders train and val")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE",
                        help=".safetensors (.json, a card, for the head of a bundled model)")
    parser.add_argument("--cache", action="store_true",
                        help="embed once without augmentation: a first head in minutes")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=0, help="processes that open pictures")
    parser.add_argument("--again", action="store_true",
                        help="overwrite the result and forget unfinished work")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train as the command line says."""
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    train(args.backbone, args.data, args.out, settings, cache=args.cache, again=args.again,
          device=args.device, workers=args.workers)  # fmt: skip
    print(f"wrote {args.out.name}")
    return 0
