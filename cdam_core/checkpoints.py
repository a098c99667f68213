"""Files of weights from elsewhere: read without running anything, recognised, checked, loaded.

``load`` turns a ``.pth``, ``.pt``, ``.ckpt``, ``.bin`` or ``.safetensors`` file into a module that
``models.wrap`` adapts; ``recognise`` says what a file holds without reading its weights. Names and
shapes are the business of ``layouts``. The kind of a file is read from its first bytes, never from
its name, and torch files only through ``torch.load(weights_only=True)``: what that refuses stays
refused. Messages never contain the file's name.
"""

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cdam_core.architectures import POOLS, outline
from cdam_core.errors import BadCheckpoint
from cdam_core.layouts import (
    EXPECTED,
    Hints,
    named,
    read_architecture,
    shape_of,
    to_timm_names,
)

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
FOLDER_VARIABLE = "CDAM_MODELS"
CONVERSION = (
    "python -c \"import torch; c = torch.load('FILE', map_location='cpu', weights_only=False); "
    "c = c if isinstance(c, dict) else c.state_dict(); "
    "c = c.get('teacher', c.get('state_dict', c.get('model', c))); "
    "torch.save({k: v for k, v in c.items() if isinstance(v, torch.Tensor)}, 'SAFE.pth')\""
)
# Where a training script puts the weights inside its checkpoint, best first: averaged weights are
# the ones that are evaluated (timm's state_dict_ema; DINO's teacher).
NESTS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model_state_dict", "model",
         "student")  # fmt: skip
MAX_DEPTH = 4  # of such nests
MAX_COMPANION_BYTES = 2**20
MAX_NAME = 200  # characters of a class name
MAX_TRAINED_BLOCKS = 12  # after the bundled backbone
BACKBONE = "backbone.safetensors"  # the bundled one
_HUB_NAMES = ("model.safetensors", "pytorch_model.bin")  # have a config.json beside them
# First bytes: a zip archive (torch since 1.6), and the magic number of torch's older format
# (torch.serialization.MAGIC_NUMBER, pickled with protocol 2).
_ZIP, _OLD_TORCH = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class Facts:
    """What a file, or what lies beside it, states about its model; None: not stated.

    Attributes:
        hints: what the architecture needs beyond tensors.
        architecture: timm's name of it.
        class_names: one per output.
        mean, std: normalisation of pixels in [0, 1].
        pool: how the answer is read, one of ``architectures.POOLS``.
        identity: name of the model in results.
        used_size: (height, width) at which the model is used, where that is not the size that its
            positions were built for.
    """

    hints: Hints = field(default_factory=Hints)
    architecture: str | None = None
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pool: str | None = None
    identity: str | None = None
    used_size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A recognised file.

    Attributes:
        module: the network in eval mode; on the meta device if the weights were not read.
        description: architecture in a few words.
        facts: what is known about classes and normalisation.
    """

    module: nn.Module
    description: str
    facts: Facts


def local_folder() -> Path | None:
    """The folder of checkpoints that the environment variable CDAM_MODELS names, if it does."""
    stated = os.environ.get(FOLDER_VARIABLE, "").strip()
    return Path(stated) if stated else None


def find(source: str) -> Path | None:
    """A path, or the name of a file in the local folder, if there is such a thing."""
    folder = local_folder()
    candidates = [Path(source)]
    if folder is not None and Path(source).name == source:
        candidates.append(folder / source)
    try:
        return next((path for path in candidates if source and path.exists()), None)
    except OSError:  # a text too long for a name, a folder that may not be read
        return None


def given_for(name: str) -> Path | None:
    """A file in the local folder that is named like a timm architecture: it stands for its weights.

    Args:
        name: of the architecture, with its tag.
    """
    folder = local_folder()
    candidates = [folder / f"{name}{suffix}" for suffix in SUFFIXES] if folder else []
    return next((path for path in candidates if path.is_file()), None)


def load(path: Path) -> Checkpoint:
    """Read a file of weights.

    Args:
        path: of the file.

    Returns:
        ``Checkpoint`` with float32 weights in memory of its own; its facts name the model by the
        file's hash if nothing else does.

    Raises:
        BadCheckpoint: "unreadable" (no such kind of file), "unsafe" (needs code to be read),
            "damaged" (truncated, NaN), "unsupported" (another kind of network) or "mismatch"
            (names or shapes), with what was found and what was expected.
    """
    return _recognise(Path(path), with_weights=True)


def recognise(path: Path) -> Checkpoint:
    """What ``load`` would load, from names and shapes alone; NaN go unnoticed.

    Raises:
        BadCheckpoint: as ``load``.
    """
    return _recognise(Path(path), with_weights=False)


def card_in(path: Path) -> dict[str, Any] | None:
    """The model card that a safetensors file holds, as ``head.save_model`` writes it.

    Such a file has the trained part of a bundled architecture; its backbone ships with the library.

    Args:
        path: of any file.

    Returns:
        An ordinary model card that names the file as its weights; None: it is another kind of file.

    Raises:
        BadCheckpoint: "damaged".
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(9)[8:] != b"{":
            return None
    _, stated = _read_safetensors(path, with_weights=False)
    if "trained_blocks" not in stated:
        return None
    facts = _with_identity(_facts(path, stated), path)
    values = {"class_names": facts.class_names, "mean": facts.mean, "std": facts.std,
              "input_size": facts.hints.input_size}  # fmt: skip
    if missing := [name for name, value in values.items() if not value]:
        raise _damaged(f"The file's metadata lacks the entry {missing[0]}.")
    blocks = _stated(stated, "trained_blocks", int, lambda n: 0 < n <= MAX_TRAINED_BLOCKS)
    return {
        "id": facts.identity, "label": facts.identity, "class_names": list(facts.class_names),
        "mean": facts.mean, "std": facts.std, "simulated": stated.get("simulated") is True,
        "architecture": {"trained_blocks": blocks, "input_size": facts.hints.input_size},
        "backbone": BACKBONE, "weights": path.name, "whole_sha256": stated.get("weights_sha256"),
    }  # fmt: skip


def _recognise(path: Path, with_weights: bool) -> Checkpoint:
    state, stated = _read(path, with_weights)
    size = path.stat().st_size
    _check_values(state, size, with_weights)
    facts = _facts(path, stated)
    renamed, told = _in_timm_names(path, state, facts.architecture)
    if sum(value.numel() for value in renamed.values()) > size + 2**20:
        raise _damaged("Its tensors claim more numbers than the file can hold.")
    hints = _joined(facts.hints, told)
    with torch.device("cpu" if with_weights else "meta"):
        module, description = _fitting_module(path, renamed, hints, facts.architecture)
    if facts.pool is not None:
        module.global_pool = facts.pool
    if with_weights:
        own = {name: value.detach().clone().float() for name, value in renamed.items()}
        module.load_state_dict(own, assign=True)
        facts = _with_identity(facts, path)
    return Checkpoint(module.eval(), description, facts)


def _in_timm_names(
    path: Path, state: Mapping[str, Tensor], architecture: str | None
) -> tuple[dict[str, Tensor], Hints]:
    """Tensors in timm's names: those of a named architecture are taken as they are."""
    name = architecture or path.stem
    try:
        return to_timm_names(state)
    except BadCheckpoint:
        if not timm.is_model(name):
            raise
        wanted = {each for each in outline(name).state_dict() if not each.startswith("head.")}
        if {each for each in state if not each.startswith("head.")} != wanted:
            raise
        return dict(state), Hints()


def _fitting_module(
    path: Path, state: Mapping[str, Tensor], hints: Hints, architecture: str | None
) -> tuple[nn.Module, str]:
    """The network to be filled; one that the file is merely named after counts only if it fits."""
    if architecture is None and timm.is_model(path.stem):
        try:
            return _checked_module(state, hints, path.stem)
        except BadCheckpoint:
            pass
    return _checked_module(state, hints, architecture)


def _checked_module(
    state: Mapping[str, Tensor], hints: Hints, architecture: str | None
) -> tuple[nn.Module, str]:
    try:
        module, description = _empty_module(state, hints, architecture)
    except BadCheckpoint:
        raise
    except Exception as error:  # timm's own, for sizes that make no network
        raise BadCheckpoint(
            "mismatch",
            f"timm cannot build the network that the tensors describe ({type(error).__name__}); "
            f"{EXPECTED}.",
        ) from None
    _check_names_and_shapes(module, state, description)
    return module, description


def _joined(stated: Hints, told: Hints) -> Hints:
    """What the file states goes before what its layout tells."""
    return Hints(
        stated.num_heads, stated.eps or told.eps, stated.swiglu or told.swiglu, stated.input_size
    )


def _with_identity(facts: Facts, path: Path) -> Facts:
    if facts.identity:
        return facts
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Facts(**{**vars(facts), "identity": f"checkpoint-{digest[:12]}"})


# ---- reading -------------------------------------------------------------------------------------


def _read(path: Path, with_weights: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name (on the meta device without weights), and what the file states."""
    if not path.is_file():
        raise BadCheckpoint(
            "unreadable",
            "A folder arrived, or nothing; expected one file of weights "
            f"({', '.join(SUFFIXES)}) or a model card (.json).",
        )
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise BadCheckpoint("unreadable", f"The file is empty; {EXPECTED}.")
    if start[8:9] == b"{":  # eight bytes of length, then a JSON header (safetensors' README)
        return _read_safetensors(path, with_weights)
    if start.startswith((_ZIP, _OLD_TORCH)):
        return _read_torch(path, with_weights, zipped=start.startswith(_ZIP))
    if start[:1] == b"\x80":
        _refuse_pickle("a plain pickle instead of torch's own format")
    raise BadCheckpoint(
        "unreadable",
        "The file starts like neither safetensors nor torch; expected weights saved by "
        "safetensors or torch.save.",
    )


def _damaged(what: str) -> BadCheckpoint:
    return BadCheckpoint("damaged", f"{what} Copy or export the file again.")


def _read_safetensors(path: Path, with_weights: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            read = file.get_tensor if with_weights else lambda name: _outline(file.get_slice(name))
            return {name: read(name) for name in names}, _metadata(file.metadata() or {})
    except SafetensorError:
        raise _damaged(
            "The file starts like safetensors, but its header and its length do not fit: it is "
            "truncated or damaged."
        ) from None


def _outline(piece) -> Tensor:
    """A tensor of the same shape without memory; integers stay recognisable as such."""
    floating = piece.get_dtype() in ("F64", "F32", "F16", "BF16")
    kind = torch.float32 if floating else torch.int8
    return torch.empty(piece.get_shape(), dtype=kind, device="meta")


def _metadata(entries: Mapping[str, str]) -> dict[str, Any]:
    """Safetensors holds strings; ours are JSON, and a plain word stands for itself."""
    values = {}
    for name in _STATED & set(entries):
        try:
            values[name] = json.loads(entries[name])
        except ValueError:
            values[name] = entries[name]
    return values


def _read_torch(
    path: Path, with_weights: bool, zipped: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if zipped:
        _require_torch_archive(path)
    try:
        # Mapped, not read: of a training checkpoint only the weights are ever needed.
        content = torch.load(
            path, map_location="cpu" if with_weights else "meta", weights_only=True, mmap=zipped
        )
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        if foreign:
            _refuse_pickle(f"the foreign object {foreign[1]}")
        raise _damaged("The file is no torch file that holds only weights.") from None
    except Exception:  # torch raises whatever its reader stumbles over
        raise _damaged("The torch file is truncated or damaged.") from None
    stated = {name: content[name] for name in _STATED if name in content} \
        if isinstance(content, Mapping) else {}  # fmt: skip
    return _state_in(content), stated


def _refuse_pickle(what: str) -> NoReturn:
    raise BadCheckpoint(
        "unsafe",
        f"Reading this file would run code: it holds {what}; expected tensors, numbers and texts "
        f"alone. If the file is yours and you trust it, convert it where it was made: {CONVERSION}",
    )


def _require_torch_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise _damaged("The torch file is truncated or damaged.") from None
    if "data.pkl" not in names or "constants.pkl" in names:
        kind = "a TorchScript program" if "constants.pkl" in names else "an archive of other files"
        raise BadCheckpoint(
            "unsupported",
            f"This is {kind}; expected weights saved by torch.save(module.state_dict(), ...).",
        )


def _state_in(content: object) -> dict[str, Tensor]:
    """The dictionary of tensors, out of the nests of a training script."""
    for _ in range(MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
        nest = next((key for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            state = {
                name: value for name, value in content.items()
                if isinstance(name, str) and isinstance(value, Tensor)
            }  # fmt: skip
            if state:
                return state
            break
        content = content[nest]
    raise BadCheckpoint(
        "unsupported",
        "The file holds no dictionary of tensors; expected a state dict, on its own or as "
        f"{', '.join(NESTS)} of a training checkpoint.",
    )


# ---- what a file states --------------------------------------------------------------------------


def _facts(path: Path, stated: Mapping[str, Any]) -> Facts:
    """From the file, the text file beside it, and the hub's companions, in this order."""
    stated = {**_companions(path), **stated}
    named_by_text = _names_beside(path) if "class_names" not in stated else None
    hints = Hints(
        num_heads=_stated(stated, "num_heads", int, lambda n: 0 < n <= 256),
        eps=_stated(stated, "layer_norm_eps", float, lambda value: 0 < value < 1e-2),
        swiglu=stated.get("mlp") == "swiglu",
        input_size=_numbers(stated, "input_size", 2, lambda value: 0 < value <= 4096, int),
    )
    architecture = stated.get("architecture", stated.get("arch"))
    known = isinstance(architecture, str) and re.fullmatch(r"[\w.]+", architecture)
    return Facts(
        hints=hints,
        architecture=architecture if known and timm.is_model(architecture) else None,
        class_names=_class_names(stated.get("class_names")) or named_by_text,
        mean=_numbers(stated, "mean", 3, lambda value: -10 < value < 10),
        std=_numbers(stated, "std", 3, lambda value: 0 < value < 10),
        pool=stated["pool"] if stated.get("pool") in POOLS else None,
        identity=_identity(stated.get("id")),
        used_size=_numbers(stated, "used_size", 2, lambda value: 0 < value <= 4096, int),
    )


_STATED = {"architecture", "arch", "class_names", "mean", "std", "num_heads", "layer_norm_eps",
           "input_size", "mlp", "pool", "id", "trained_blocks", "weights_sha256",
           "simulated", "used_size"}  # fmt: skip


def _bad_entry(name: str, expected: str) -> BadCheckpoint:
    return BadCheckpoint(
        "damaged", f"The entry {name} of the file's metadata is unusable; expected {expected}."
    )


def _stated(stated: Mapping, name: str, kind: type, fits) -> Any:
    value = stated.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | kind) or not fits(value):
        raise _bad_entry(name, "one sensible number")
    return kind(value)


def _numbers(stated: Mapping, name: str, count: int, fits, kind: type = float) -> Any:
    values = stated.get(name)
    if values is None:
        return None
    if not isinstance(values, list | tuple) or len(values) != count:
        raise _bad_entry(name, f"{count} numbers")
    return tuple(_stated({name: value}, name, kind, fits) for value in values)


def _class_names(values: object) -> tuple[str, ...] | None:
    if values is None:
        return None
    fits = isinstance(values, list | tuple) and all(
        isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()
        for name in values
    )
    if not fits:
        raise _bad_entry("class_names", f"a list of texts of at most {MAX_NAME} characters")
    return tuple(values)


def _identity(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:-]{1,80}", value) else None


def _names_beside(path: Path) -> tuple[str, ...] | None:
    """Class names in a text file of the same stem: UTF-8, one a line, in the order of outputs."""
    text = path.with_suffix(".txt")
    if not text.is_file() or text == path:
        return None
    try:
        lines = _small_text(text).strip().splitlines()
        return _class_names([line.strip() for line in lines])
    except (OSError, UnicodeDecodeError, BadCheckpoint):
        raise BadCheckpoint(
            "unreadable",
            "The text file beside the checkpoint is no list of class names; expected UTF-8, one "
            f"name of at most {MAX_NAME} characters a line.",
        ) from None


def _companions(path: Path) -> dict[str, Any]:
    """What config.json and preprocessor_config.json say beside a file of the hub's own name."""
    if path.name not in _HUB_NAMES:
        return {}
    config = _small_json(path.with_name("config.json"))
    images = _small_json(path.with_name("preprocessor_config.json"))
    timm_config = config.get("pretrained_cfg")
    timm_config = timm_config if isinstance(timm_config, dict) else {}
    stated = {
        "architecture": config.get("architecture"),
        "num_heads": config.get("num_attention_heads"),
        "layer_norm_eps": config.get("layer_norm_eps"),
        "class_names": _ordered_labels(config.get("id2label")),
        "mean": timm_config.get("mean", images.get("image_mean")),
        "std": timm_config.get("std", images.get("image_std")),
    }
    return {name: value for name, value in stated.items() if value is not None}


def _ordered_labels(labels: object) -> list[str] | None:
    """Hugging Face's id2label as a list; its placeholders LABEL_0, LABEL_1 are no names."""
    if not isinstance(labels, dict) or not all(str(key).isdigit() for key in labels):
        return None
    names = [labels[key] for key in sorted(labels, key=int)]
    if all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names):
        return None
    return names


def _small_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_COMPANION_BYTES).decode("utf-8-sig")


def _small_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_small_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# ---- checks --------------------------------------------------------------------------------------


def _check_values(state: Mapping[str, Tensor], size: int, with_weights: bool) -> None:
    if any(value.numel() > size for value in state.values()):
        raise _damaged("A tensor claims more numbers than the file can hold.")
    hollow = [name for name, value in state.items() if value.numel() == 0]
    if hollow:
        raise BadCheckpoint(
            "mismatch",
            f"Tensors without a single number arrived ({named(hollow)}); expected weights.",
        )
    odd = [n for n, value in state.items() if not _is_plain_number(value) and not _counts(n)]
    if odd:
        raise BadCheckpoint(
            "unsupported",
            f"Tensors that are not plain floating-point numbers arrived ({named(odd)}); expected "
            "float32, float16 or bfloat16. Export the model without quantisation.",
        )
    if not with_weights:
        return
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise _damaged(
            f"NaN or infinite values in {len(broken)} of {len(state)} tensors ({named(broken)}); "
            "expected finite weights."
        )


def _is_plain_number(value: Tensor) -> bool:
    return (
        value.layout == torch.strided
        and not value.is_quantized
        and value.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    )


def _counts(name: str) -> bool:
    """Batch norm's counter, the one integer that state dicts of networks usually hold."""
    return name.endswith("num_batches_tracked")


def _empty_module(
    state: Mapping[str, Tensor], hints: Hints, architecture: str | None
) -> tuple[nn.Module, str]:
    """The network to be filled, and its architecture in a few words."""
    if architecture is None:
        found = read_architecture(state, hints)
        return found.build(), found.describe()
    head = state.get("head.weight")
    options = {"num_classes": 0 if head is None else len(head)}
    if hints.input_size:
        options["img_size"] = hints.input_size
    try:
        module = timm.create_model(architecture, dynamic_img_size=True, **options)
    except TypeError:  # an architecture for one size only
        module = timm.create_model(architecture, **options)
    return module, f"timm's {architecture} ({options['num_classes'] or 'no'} classes)"


def _check_names_and_shapes(
    module: nn.Module, state: Mapping[str, Tensor], description: str
) -> None:
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    wrong = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    found = []
    if missing:
        found.append(f"missing {named(missing)}")
    if unexpected:
        found.append(f"unexpected {named(unexpected)}")
    if wrong:
        found.append(
            f"wrong shapes of {named(wrong)} ({named(wrong[:1])} is {shape_of(state[wrong[0]])}, "
            f"expected {shape_of(wanted[wrong[0]])})"
        )
    if found:
        raise BadCheckpoint(
            "mismatch", f"The file looks like a {description}, but: {'; '.join(found)}. {_WANTED}"
        )


_WANTED = f"{EXPECTED[0].upper()}{EXPECTED[1:]}, complete and without other parts."
