"""Train the scenes model: ``python -m cdam_core train scenes``.

Producers (own processes) compose scenes, run them once through the frozen backbone and store the
tokens; the trainer reads them many times. Supervision is which classes are present, nothing else:
the masks are used only to measure. Every checkpoint is a finished model (weights and card), and
``--resume`` needs nothing but one.
"""

import argparse
import copy
import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from cdam_core.assets import assets_dir
from cdam_core.late_vit import PATCH_SIZE, LateClassTokenViT
from cdam_core.scenes import card as cards
from cdam_core.scenes import drawings
from cdam_core.scenes.classes import CLASS_NAMES
from cdam_core.scenes.generator import PLAIN, TRAINING, MixedScenes, SceneGenerator
from cdam_core.scenes.tokens import TokenStore, produce

HEAD_BIAS = -3.0  # logit of a class's rough share of the scenes: training starts calm
ENOUGH = 1000  # stored scenes before the first step
NICE = 19  # producers and trainer leave the machine to others


@dataclass(frozen=True)
class Settings:
    """The recipe; every field is an option of the command.

    Args:
        steps: updates; the learning rate falls to zero over them (half a cosine).
        side: height and width of the scenes, and of the model's input, in pixels.
        trained_blocks: blocks after the backbone; 1 or 2 keep the file under 8 MB.
        batch: scenes per step.
        learning_rate, weight_decay, warmup_steps: of AdamW.
        average: decay of the moving average of the weights, which is what is kept.
        head_dropout: chance that a feature is hidden from the head in a step.
        attention_penalty: weight of the mean squared attention logit in the loss.
        token_drop: largest share of patch tokens left out of a step.
        join_share: share of the steps that join scenes in pairs, under both scenes' labels.
        plain_share: share of the scenes composed as the measured ones are, within wider limits; the
            others are more crowded and changed in style.
        capacity: scenes that each producer's store holds (200 kB each at 224 px,
            440 kB at 336 px).
        producers: processes that compose and encode; 0 trains on what is stored.
        seed: of scenes and weights.
    """

    steps: int = 10_000
    side: int = 224
    trained_blocks: int = 1
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    warmup_steps: int = 100
    average: float = 0.999
    head_dropout: float = 0.2
    attention_penalty: float = 0.3
    token_drop: float = 0.5
    join_share: float = 0.0
    plain_share: float = 0.5
    capacity: int = 25_000
    producers: int = 2
    seed: int = 0


# ---- model ---------------------------------------------------------------------------------------


def new_model(settings: Settings, backbone: Path | None = None) -> LateClassTokenViT:
    """An untrained model on the frozen backbone, seeded."""
    torch.manual_seed(settings.seed)
    model = LateClassTokenViT(len(CLASS_NAMES), trained_blocks=settings.trained_blocks)
    for block in model.blocks[model.backbone_depth:]:
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
    nn.init.trunc_normal_(model.head.weight, std=0.02)
    nn.init.constant_(model.head.bias, HEAD_BIAS)
    nn.init.trunc_normal_(model.late_cls_token, std=0.02)
    state = load_file(backbone or assets_dir() / "models" / "backbone.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    return model


def trained_parameters(model: LateClassTokenViT) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name; the rest is frozen here."""
    names = set(model.trained_state())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return {name: p for name, p in model.named_parameters() if name in names}


def count_tokens(side: int) -> int:
    """Rows of a scene's tokens: one class token and the patches."""
    return 1 + (side // PATCH_SIZE) ** 2


# ---- one step ------------------------------------------------------------------------------------


def draw_batch(stores: list[TokenStore], rng, count: int) -> tuple[Tensor, Tensor]:
    """Random scenes of one side: tokens (B, 1 + N, d) fp16 and labels (B, classes).

    The side is drawn by chance too, in proportion to the scenes stored of it.
    """
    sizes = np.array([len(store) for store in stores])
    tokens_of = [store.tokens.shape[1] for store in stores]
    chosen = tokens_of[rng.choice(len(stores), p=sizes / sizes.sum())]
    stores = [store for store, own in zip(stores, tokens_of, strict=True) if own == chosen]
    sizes = np.array([len(store) for store in stores])
    tokens, labels = [], []
    for store, size, share in zip(stores, sizes, rng.multinomial(count, sizes / sizes.sum()),
                                  strict=True):
        rows = np.sort(rng.integers(0, size, share)) if share else []
        tokens.extend(store.tokens[row] for row in rows)
        labels.extend(store.labels[row] for row in rows)
    order = rng.permutation(count)
    return (torch.from_numpy(np.stack(tokens)[order]),
            torch.from_numpy(np.stack(labels)[order]).float())


def thin_out(tokens: Tensor, rng, most: float) -> Tensor:
    """Leave out a random share of patch tokens, at most ``most``; row 0 stays."""
    patches = tokens.shape[1] - 1
    keep = 1 + rng.permutation(patches)[:int(patches * (1 - most * rng.random()))]
    return tokens[:, [0, *np.sort(keep)]]


def join_scenes(tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Halve the batch: pairs of scenes become one long sequence with both scenes' classes."""
    half = len(tokens) // 2
    joined = torch.cat([tokens[:half], tokens[half:2 * half, 1:]], dim=1)
    return joined, torch.maximum(labels[:half], labels[half:2 * half])


def loss_of(model: LateClassTokenViT, tokens: Tensor, labels: Tensor,
            attention_penalty: float = 0.0) -> Tensor:
    """Multi-label cross-entropy, summed over classes and averaged over scenes, and the penalty.

    CDAM's key path is as large as the attention logits. Kept small, the evidence of a patch is
    mostly what it says, not how it draws attention away from others, and lies less often on
    objects of other classes.
    """
    logits, attention_logits = model.class_row(tokens.float())
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(1).mean()
    return loss + attention_penalty * attention_logits.square().mean()


class Trainer:
    """Steps, schedule and averaged weights.

    Args:
        model: the model to train, in place.
        settings: the recipe.
        stores: where the scenes' tokens come from.
    """

    def __init__(self, model: LateClassTokenViT, settings: Settings, stores: list[TokenStore]):
        self.model, self.settings, self.stores = model.train(), settings, stores
        model.head_drop.p = settings.head_dropout
        self.rng = np.random.default_rng([settings.seed, 2])
        self.parameters = trained_parameters(model)
        self.averaged = {name: p.detach().clone() for name, p in self.parameters.items()}
        matrices = [p for p in self.parameters.values() if p.ndim == 2]
        vectors = [p for p in self.parameters.values() if p.ndim != 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay},
             {"params": vectors, "weight_decay": 0.0}], settings.learning_rate, betas=(0.9, 0.98))
        self.steps, self.loss = 0, float("nan")

    def step(self) -> None:
        """One update."""
        s, progress = self.settings, self.steps / self.settings.steps
        rate = s.learning_rate * min(1, (self.steps + 1) / s.warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * np.cos(np.pi * progress)) + 1e-6
        tokens, labels = draw_batch(self.stores, self.rng, s.batch)
        if self.rng.random() < s.join_share:
            tokens, labels = join_scenes(tokens, labels)
        if s.token_drop:
            tokens = thin_out(tokens, self.rng, s.token_drop)
        loss = loss_of(self.model, tokens, labels, s.attention_penalty)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(self.parameters.values()), 1.0)
        self.optimiser.step()
        self.steps += 1
        self._average()
        self.loss = loss.item() if self.steps == 1 else 0.98 * self.loss + 0.02 * loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the random start does not linger in the average.
        decay = min(self.settings.average, (self.steps + 1) / (self.steps + 10))
        for name, value in self.parameters.items():
            self.averaged[name].lerp_(value, 1 - decay)

    def result(self) -> LateClassTokenViT:
        """A copy of the model with the averaged weights, in eval mode."""
        model = copy.deepcopy(self.model).eval()
        model.load_state_dict(self.averaged, strict=False)
        return model


# ---- producers -----------------------------------------------------------------------------------


def load_sprites(cache: Path, work: Path) -> dict[str, list[drawings.Sprite]]:
    """All training drawings, rasterised once and kept in the work folder."""
    stored = work / "sprites.pickle"
    if not stored.exists():
        sprites = drawings.draw(drawings.training_sets(), cache)
        stored.with_suffix(".tmp").write_bytes(pickle.dumps(sprites))
        stored.with_suffix(".tmp").replace(stored)
    return pickle.loads(stored.read_bytes())


def producer_seed(settings: Settings, index: int, moved_on: int) -> int:
    """Seed of one producer's scenes; another for every producer and every resumed run."""
    sequence = np.random.SeedSequence([settings.seed, index, moved_on])
    return int(sequence.generate_state(1)[0])


def training_scenes(sprites, settings: Settings, seed: int) -> MixedScenes:
    """The source of training scenes, as the recipe mixes it."""
    crowded = SceneGenerator(sprites, TRAINING, settings.side, seed)
    plain = SceneGenerator(sprites, PLAIN, settings.side, seed + 1)
    share = settings.plain_share
    return MixedScenes({crowded: 1 - share, plain: share}, seed)


def run_producer(settings: Settings, cache: Path, work: Path, index: int, moved_on: int) -> None:
    """Body of a producer process; ends with its parent."""
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    generator = training_scenes(load_sprites(cache, work), settings,
                                producer_seed(settings, index, moved_on))
    store = TokenStore(work / f"tokens-{settings.side}-{index}", settings.capacity,
                       count_tokens(settings.side))
    produce(new_model(settings).eval(), generator, store)


def start_producers(settings: Settings, cache: Path, work: Path, moved_on: int) -> list:
    """Start the producer processes; they die with this one.

    Args:
        settings: the recipe.
        cache: folder of the packages.
        work: folder of sprites and token stores.
        moved_on: part of the seed, so that a resumed training sees new scenes.
    """
    load_sprites(cache, work)
    context = multiprocessing.get_context("spawn")
    processes = []
    for index in range(settings.producers):
        arguments = (settings, cache, work, index, moved_on)
        processes.append(context.Process(target=run_producer, args=arguments, daemon=True))
        processes[-1].start()
    return processes


def open_stores(work: Path) -> list[TokenStore]:
    """Every store in the work folder that already holds scenes, of whatever side.

    The trained block has no positions of its own, so scenes of any side train it.
    """
    stores = [TokenStore(path.parent) for path in sorted(work.glob("*/written.npy"))]
    return [store for store in stores if len(store)]


def wait_for_scenes(work: Path, processes: list) -> list[TokenStore]:
    """Block until there is enough to train on.

    Raises:
        SystemExit: if nothing is stored and nobody produces, or a producer died.
    """
    while True:
        stores = open_stores(work)
        enough = sum(map(len, stores)) >= ENOUGH and len(stores) >= len(processes)
        if enough or (stores and not processes):
            return stores
        if not processes:
            raise SystemExit("no scenes are stored and there are no producers: give --producers 2")
        if not all(process.is_alive() for process in processes):
            raise SystemExit("a producer stopped; its message is above")
        print(f"scenes stored: {sum(map(len, stores))} of {ENOUGH}", flush=True)
        time.sleep(10)


# ---- the whole job -------------------------------------------------------------------------------


def train(settings: Settings, cache: Path, work: Path, out: Path, resume: Path | None = None,
          checkpoint_minutes: float = 5.0) -> Path:
    """Train and write the model's weights and card, again and again until the last step.

    Args:
        settings: the recipe.
        cache: folder of the downloaded packages of drawings.
        work: folder for sprites and tokens; grows to ``capacity`` times 200 kB per producer.
        out: path of the card to write; the weights lie beside it under the same name.
        resume: card of a model to go on from.
        checkpoint_minutes: how often to write.

    Returns:
        ``out``.
    """
    model, seen_before, stored_before = new_model(settings), 0, 0
    work.mkdir(parents=True, exist_ok=True)
    if resume is not None:
        seen_before = cards.load_trained(resume, model)["images_seen"]
        # What an interrupted run has left in the work folder is counted on its card already.
        stored_before = sum(store.written for store in open_stores(work))
    processes = start_producers(settings, cache, work, seen_before)
    trainer = Trainer(model, settings, wait_for_scenes(work, processes))
    clock = time.monotonic()

    def checkpoint() -> None:
        stored = sum(store.written for store in trainer.stores)
        seen = seen_before + max(0, stored - stored_before)
        cards.write(out, trainer.result(), asdict(settings), seen, trainer.steps)

    try:
        while trainer.steps < settings.steps:
            trainer.step()
            if time.monotonic() - clock > 60 * checkpoint_minutes:
                clock = time.monotonic()
                checkpoint()
                report(trainer)
    except KeyboardInterrupt:
        print("stopped; go on with --resume", flush=True)
    finally:
        for process in processes:
            process.terminate()
    checkpoint()
    report(trainer)
    return out


def report(trainer: Trainer) -> None:
    """One progress line as JSON."""
    stored = sum(store.written for store in trainer.stores)
    print(json.dumps({"steps": trainer.steps, "of": trainer.settings.steps, "scenes": stored,
                      "loss": round(trainer.loss, 4)}), flush=True)


# ---- command line --------------------------------------------------------------------------------


def register(subparsers) -> None:
    """Add ``scenes`` to the sub-commands of ``train``."""
    parser = subparsers.add_parser("scenes", help="the model of everyday objects",
                                   description=__doc__.splitlines()[0])
    defaults = Settings()
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings"),
                        help="folder of the npm packages; missing ones are fetched")
    parser.add_argument("--work", type=Path, default=Path("runs/scenes"),
                        help="folder for sprites and tokens (up to 10 GB)")
    parser.add_argument("--out", type=Path, default=Path("runs/scenes/scenes.json"),
                        help="card to write; the weights lie beside it")
    parser.add_argument("--resume", nargs="?", type=Path, metavar="CARD",
                        const=assets_dir() / "models" / "scenes.json",
                        help="go on from a model's card (default: the bundled one)")
    for name, value in asdict(defaults).items():
        kind = int if isinstance(value, int) else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train as the command line says; wrong arguments end with one line and status 2."""
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    problem = check(settings, args)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    os.nice(NICE)
    train(settings, args.drawings, args.work, args.out, args.resume)
    print(f"wrote {args.out}")
    return 0


def check(settings: Settings, args: argparse.Namespace) -> str | None:
    """What is wrong with the arguments, in one sentence, or None."""
    if settings.steps < 1 or settings.batch < 2 or settings.capacity < settings.batch:
        return "--steps must be at least 1, --batch at least 2, --capacity at least one batch"
    if settings.side < 4 * PATCH_SIZE or settings.side % PATCH_SIZE:
        return f"--side must be a multiple of {PATCH_SIZE}, at least {4 * PATCH_SIZE}"
    if settings.trained_blocks not in (1, 2):
        return "--trained-blocks must be 1 or 2"
    shares = (settings.token_drop, settings.head_dropout, settings.join_share,
              settings.plain_share)
    if not all(0 <= share <= 1 for share in shares) or 1 in shares[:2]:
        return ("--token-drop, --head-dropout, --join-share and --plain-share are shares between "
                "0 and 1, the first two below 1")
    if settings.attention_penalty < 0:
        return "--attention-penalty must not be negative"
    if args.resume is not None and not args.resume.is_file():
        return "--resume found no model card there"
    return None


def main(arguments: list[str] | None = None) -> int:
    """``python -m cdam_core.scenes.training scenes …``, the same command on its own."""
    parser = argparse.ArgumentParser(prog="python -m cdam_core train")
    register(parser.add_subparsers(required=True))
    args = parser.parse_args(arguments)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
