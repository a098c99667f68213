"""The names and shapes of a Vision Transformer's tensors, and what they say about its architecture.

Beside ``checkpoints``, which reads the files: here a dictionary of tensors in DINO's, DINOv2's,
Lightning's, Hugging Face's or timm's names becomes one in timm's names, and the architecture is
read from its shapes. It knows nothing about files, and it works on meta tensors, so a file can be
recognised without reading its weights.

Sources of the names: timm 1.0 (``models/vision_transformer.py``, ``_convert_dinov2``); DINO and
DINOv2 (``vision_transformer.py`` of facebookresearch/dino and /dinov2); Hugging Face transformers
(``modeling_vit.py``, ``modeling_dinov2.py``, ``modeling_dinov2_with_registers.py``).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from math import isqrt
from typing import NoReturn

import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cdam_core.errors import BadCheckpoint

EXPECTED = (
    "expected a Vision Transformer with a class token in the names of timm, DINO, DINOv2, or "
    "Hugging Face's ViT or DINOv2"
)
HEAD_WIDTH = 64
# Widths that are not cut into heads of 64: ViT-SO400M, ViT-H, ViT-g and ViT-G (timm's definitions).
UNUSUAL_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
USUAL_EPS, HUGGING_FACE_EPS = 1e-6, 1e-12  # of the norms; the latter is ViTConfig's default
MAX_NAMED = 3  # tensors named in one message

_TIMM_ANCHOR = "patch_embed.proj.weight"
_HUGGING_FACE_ANCHOR = "embeddings.patch_embeddings.projection.weight"
_TRUNK = re.compile(
    r"(?:patch_embed|blocks|norm|fc_norm|norm_pre)\.|"
    r"(?:cls_token|pos_embed|reg_token|register_tokens|dist_token)$"
)
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model|net|backbone|teacher|student)\.)+")
_HEAD = re.compile(r"^(?:linear|head|classifier|fc)\.(weight|bias)$")
# Parts that were needed to pretrain and are no part of the answer.
_PRETRAINING = re.compile(
    r"^(?:(?:dino_|ibot_)?head\.(?:mlp|last_layer)\.|(?:dino|ibot)_(?:loss|patch_loss)\.|"
    r"pooler\.dense\.|mask_token$)"
)
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+\.)")
_HUGGING_FACE_BLOCK = re.compile(r"^encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)$")
_HUGGING_FACE_BLOCK_PARTS = {
    "layernorm_before": "norm1", "layernorm_after": "norm2", "norm1": "norm1", "norm2": "norm2",
    "attention.attention.query": "attn.q", "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v", "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.w12", "mlp.weights_out": "mlp.w3",
    "layer_scale1": "ls1", "layer_scale2": "ls2",
}  # fmt: skip
_HUGGING_FACE_REST = {
    "embeddings.cls_token": "cls_token", "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.distillation_token": "dist_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
}  # fmt: skip


@dataclass(frozen=True)
class Hints:
    """What tensors cannot say, as the file or its companions state it; None: not stated.

    Attributes:
        num_heads: of every attention layer.
        eps: added to the variance by the norms.
        swiglu: True where ``mlp.fc1`` holds the two halves of a SwiGLU.
        input_size: (height, width) of the position grid in pixels.
    """

    num_heads: int | None = None
    eps: float | None = None
    swiglu: bool = False
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Architecture:
    """Arguments of timm's ``VisionTransformer``, as read from tensors.

    Attributes:
        grid: (rows, cols) of positions; times ``patch_size`` it is the input size.
        hidden: features inside the MLP (twice that many leave ``fc1`` of a SwiGLU).
        registers: register tokens.
        positions_of_prefix: False where only patches have positions.
        num_classes: 0 for a backbone without a head.
    """

    grid: tuple[int, int]
    patch_size: tuple[int, int]
    width: int
    depth: int
    num_heads: int
    hidden: int
    qkv_bias: bool
    qk_norm: bool
    layer_scale: bool
    swiglu: bool
    registers: int
    positions_of_prefix: bool
    num_classes: int
    eps: float

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels at which no position is interpolated."""
        return (self.grid[0] * self.patch_size[0], self.grid[1] * self.patch_size[1])

    def build(self) -> VisionTransformer:
        """The module, on the meta device: names and shapes without memory."""
        gated = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if self.swiglu else {}
        rows_of_fc1 = self.hidden * (2 if self.swiglu else 1)
        with torch.device("meta"):
            return VisionTransformer(
                img_size=self.input_size,
                patch_size=self.patch_size,
                embed_dim=self.width,
                depth=self.depth,
                num_heads=self.num_heads,
                mlp_ratio=(rows_of_fc1 + 0.5) / self.width,  # timm rounds down
                qkv_bias=self.qkv_bias,
                qk_norm=self.qk_norm,
                init_values=1.0 if self.layer_scale else None,
                reg_tokens=self.registers,
                no_embed_class=not self.positions_of_prefix,
                num_classes=self.num_classes,
                norm_layer=partial(nn.LayerNorm, eps=self.eps),
                dynamic_img_size=True,
                weight_init="skip",
                **gated,
            )

    def describe(self) -> str:
        """A few words for a list or a message."""
        extras = [f"{self.registers} registers"] * (self.registers > 0)
        extras += ["layer scale"] * self.layer_scale + ["q/k norm"] * self.qk_norm
        extras += ["SwiGLU"] * self.swiglu
        patch = "x".join(str(side) for side in dict.fromkeys(self.patch_size))
        parts = [f"patch {patch} px", f"width {self.width}", f"{self.depth} blocks",
                 f"{self.num_heads} heads", f"{self.grid[0]}x{self.grid[1]} positions", *extras,
                 f"{self.num_classes} classes" if self.num_classes else "no head"]  # fmt: skip
        return f"ViT ({', '.join(parts)})"


# ---- names ---------------------------------------------------------------------------------------


def to_timm_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Hints]:
    """Tensors in timm's names, of the one network that answers.

    Wrappers ("module.", "backbone.", "model.", ...) are taken off, of a teacher and a student the
    teacher is kept, heads that were needed to pretrain are left out, and a linear classifier under
    any of its usual names becomes ``head``. Whatever is not understood stays, under its own name,
    so that the check of the names notices it.

    Args:
        state: tensors by name, as a file holds them.

    Returns:
        The renamed tensors, and what the old names told that the new ones do not.

    Raises:
        BadCheckpoint: "unsupported" without a patch embedding, or with several networks.
    """
    prefix, hugging_face, others = _find_trunk(state)
    trunk, rest = {}, {}
    for name, value in state.items():
        if name.startswith(others):
            continue
        inside = name.startswith(prefix)
        short = name.removeprefix(prefix) if inside else _WRAPPERS.sub("", name)
        short = _from_hugging_face(short) if hugging_face and inside else short
        kept = trunk if inside and _TRUNK.match(short) else rest
        kept[_CHUNKED_BLOCK.sub(r"blocks.\1", short)] = value
    if hugging_face:
        _join_queries_keys_values(trunk)
    swiglu = _to_timm_mlp(trunk)
    _to_timm_registers(trunk)
    plain_vit = hugging_face and any("layernorm_before" in name for name in state)
    told = Hints(eps=HUGGING_FACE_EPS if plain_vit else None, swiglu=swiglu)
    return trunk | _head_of(rest), told


def _find_trunk(state: Mapping[str, Tensor]) -> tuple[str, bool, tuple[str, ...]]:
    """Prefix of the network's tensors, whether in Hugging Face's names, prefixes to leave out."""
    found = {}
    for name in state:
        for anchor in (_TIMM_ANCHOR, _HUGGING_FACE_ANCHOR):
            if name == anchor or name.endswith(f".{anchor}"):
                found[name.removesuffix(anchor)] = anchor == _HUGGING_FACE_ANCHOR
    if not found:
        _refuse_other_networks(state)
    teachers = [prefix for prefix in found if re.search(r"teacher|ema\b", prefix)]
    chosen = list(found) if len(found) == 1 else teachers
    if len(chosen) != 1:
        raise BadCheckpoint(
            "unsupported",
            f"The file holds {len(found)} Vision Transformers; expected one, or a teacher and a "
            "student. Export the one to explain.",
        )
    others = {_branch(prefix, chosen[0]) for prefix in found if prefix not in chosen}
    return chosen[0], found[chosen[0]], tuple(others)


def _branch(prefix: str, chosen: str) -> str:
    """The part of a prefix up to where it leaves the chosen one: "student." of all its parts."""
    parts, kept = prefix.split(".")[:-1], []
    for own, other in zip_longest(parts, chosen.split(".")[:-1]):
        kept.append(own or "")
        if own != other:
            break
    return ".".join(kept).removesuffix(".") + "."


def _refuse_other_networks(state: Mapping[str, Tensor]) -> NoReturn:
    if "late_cls_token" in state:
        raise BadCheckpoint(
            "unsupported",
            "These are the trained weights of a model with a card; expected the path of "
            "the card (.json) that lies beside them.",
        )
    if any(_HEAD.match(_WRAPPERS.sub("", name)) for name in state) and len(state) <= 2:
        raise BadCheckpoint(
            "unsupported",
            "The file holds a linear head without the network it belongs to; "
            f"{EXPECTED} together with its head.",
        )
    convolutional = any(re.search(r"(?:^|\.)(?:layer\d\.\d+\.)?conv\d?\.weight$", n) for n in state)
    kind = "a convolutional network such as a ResNet" if convolutional else "no Vision Transformer"
    raise BadCheckpoint(
        "unsupported",
        f"{len(state)} tensors without a patch embedding arrived ({named(state)}), so "
        f"this is {kind}; {EXPECTED}.",
    )


def _from_hugging_face(name: str) -> str:
    block = _HUGGING_FACE_BLOCK.match(name)
    if block and block[2] in _HUGGING_FACE_BLOCK_PARTS:
        kind = "gamma" if block[3] == "lambda1" else block[3]
        return f"blocks.{block[1]}.{_HUGGING_FACE_BLOCK_PARTS[block[2]]}.{kind}"
    return _HUGGING_FACE_REST.get(name, name)


def _join_queries_keys_values(trunk: dict[str, Tensor]) -> None:
    """Hugging Face keeps query, key and value apart; timm stacks them in this order."""
    for name in [name for name in trunk if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        tensors = [trunk[part] for part in parts if part in trunk]
        alike = len({value.shape for value in tensors}) == 1 and trunk[name].ndim in (1, 2)
        if len(tensors) == 3 and alike:  # what does not fit stays, and is refused by its name
            trunk[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(tensors)
            for part in parts:
                del trunk[part]


def _to_timm_mlp(trunk: dict[str, Tensor]) -> bool:
    """DINOv2's SwiGLU in timm's names; True if there was one."""
    gated = [name for name in trunk if re.search(r"\.mlp\.(?:w12|w3)\.", name)]
    for name in gated:
        short = name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        trunk[short] = trunk.pop(name)
    return bool(gated)


def _to_timm_registers(trunk: dict[str, Tensor]) -> None:
    """DINOv2's registers have no positions: timm adds the class token's to the token itself."""
    if {"register_tokens", "cls_token", "pos_embed"} <= set(trunk):
        positions = _three_axes(trunk, "pos_embed")
        if trunk["cls_token"].shape != positions[:, :1].shape:
            raise BadCheckpoint(
                "mismatch",
                f"cls_token has the shape {shape_of(trunk['cls_token'])} and pos_embed "
                f"{shape_of(positions)}; expected 1 x 1 x width and 1 x tokens x width.",
            )
        trunk["reg_token"] = trunk.pop("register_tokens")
        trunk["cls_token"] = trunk["cls_token"] + positions[:, :1]
        trunk["pos_embed"] = positions[:, 1:]


def _head_of(rest: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier as ``head``; a missing bias is zero; what is not understood stays."""
    kept = {}
    for name, value in rest.items():
        if _PRETRAINING.match(name):
            continue
        head = _HEAD.match(name)
        short = f"head.{head[1]}" if head else name
        if short in kept:
            raise BadCheckpoint(
                "unsupported",
                "The file holds two linear heads; expected one. Export the one to explain.",
            )
        kept[short] = value
    if "head.weight" in kept and "head.bias" not in kept:
        kept["head.bias"] = kept["head.weight"].new_zeros(kept["head.weight"].shape[0])
    return kept


# ---- architecture --------------------------------------------------------------------------------


def read_architecture(state: Mapping[str, Tensor], hints: Hints) -> Architecture:
    """The architecture that tensors in timm's names describe.

    Args:
        state: as ``to_timm_names`` gives it.
        hints: what the file states beyond tensors.

    Returns:
        ``Architecture``; whether every tensor fits it is checked when they are loaded.

    Raises:
        BadCheckpoint: "unsupported" for what cannot be told from tensors or not be explained,
            "mismatch" for tensors that contradict each other.
    """
    _require_known_kind(state)
    weight = state["patch_embed.proj.weight"]
    if weight.ndim != 4 or weight.shape[1] != 3:
        raise BadCheckpoint(
            "unsupported",
            f"The patch embedding has the shape {shape_of(weight)}; expected width x 3 x height x "
            "width of a patch, for colour images.",
        )
    width = weight.shape[0]
    registers = _three_axes(state, "reg_token").shape[1] if "reg_token" in state else 0
    grid, positions_of_prefix = _position_grid(state, registers, tuple(weight.shape[2:]), hints)
    swiglu, hidden = _mlp(state, hints)
    return Architecture(
        grid=grid,
        patch_size=tuple(weight.shape[2:]),
        width=width,
        depth=_depth(state),
        num_heads=_num_heads(state, width, hints),
        hidden=hidden,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        qk_norm="blocks.0.attn.q_norm.weight" in state,
        layer_scale="blocks.0.ls1.gamma" in state,
        swiglu=swiglu,
        registers=registers,
        positions_of_prefix=positions_of_prefix,
        num_classes=_num_classes(state, width),
        eps=hints.eps or USUAL_EPS,
    )


def _require_known_kind(state: Mapping[str, Tensor]) -> None:
    ask = "; name timm's architecture in the file's metadata (see docs/models.md)"
    refusals = {
        "norm_pre.weight": "a norm before the first block (CLIP), whose activation the tensors do "
        f"not tell{ask}",
        "dist_token": f"a distillation token{ask}",
    }
    for name, reason in refusals.items():
        if name in state:
            raise BadCheckpoint("unsupported", f"The file has {reason}.")
    if "fc_norm.weight" in state and "norm.weight" not in state:
        raise BadCheckpoint(
            "unsupported",
            "The norm after pooling (fc_norm) says that this model averages its patches; CDAM "
            "explains models that read their answer from a class token.",
        )
    missing = [name for name in ("cls_token", "pos_embed") if name not in state]
    if missing:
        raise BadCheckpoint(
            "unsupported",
            f"The file has a patch embedding but no {' and no '.join(missing)}; {EXPECTED} "
            "and learned absolute positions.",
        )


def _three_axes(state: Mapping[str, Tensor], name: str) -> Tensor:
    if state[name].ndim != 3:
        raise BadCheckpoint(
            "mismatch",
            f"{name} has the shape {shape_of(state[name])}; expected 1 x tokens x width.",
        )
    return state[name]


def _depth(state: Mapping[str, Tensor]) -> int:
    indices = {int(match[1]) for name in state if (match := re.match(r"blocks\.(\d{1,4})\.", name))}
    if not indices:
        raise BadCheckpoint(
            "mismatch", f"The file has a patch embedding but no blocks; {EXPECTED}."
        )
    return min(max(indices) + 1, 2 * len(indices))  # a gap shows as missing names, a huge one too


def _num_heads(state: Mapping[str, Tensor], width: int, hints: Hints) -> int:
    """Stated, or told by the width of the q norm, or 64 features a head with known exceptions."""
    heads = hints.num_heads
    if heads is None and "blocks.0.attn.q_norm.weight" in state:
        heads = width // max(1, state["blocks.0.attn.q_norm.weight"].numel())
    if heads is None:
        heads = UNUSUAL_HEADS.get(width) or (width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 0)
    if not heads or width % heads:
        stated = f"{heads} heads" if heads else "no number of heads"
        raise BadCheckpoint(
            "unsupported",
            f"A width of {width} with {stated} arrived; expected a multiple of {HEAD_WIDTH}, "
            "or the number of heads as num_heads in the file's metadata.",
        )
    return heads


def _mlp(state: Mapping[str, Tensor], hints: Hints) -> tuple[bool, int]:
    """Whether the MLP is a SwiGLU, and its inner width."""
    first, second = (state.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
    if first is None or second is None or first.ndim != 2 or second.ndim != 2:
        raise BadCheckpoint(
            "mismatch",
            "The first block has no MLP of two layers (blocks.0.mlp.fc1 and fc2); "
            f"{EXPECTED}.",
        )
    gated = first.shape[0] == 2 * second.shape[1]
    if gated and not hints.swiglu:
        raise BadCheckpoint(
            "unsupported",
            f"The MLP is gated ({first.shape[0]} features enter the gate, {second.shape[1]} leave "
            "it) and the tensors do not tell by what; expected DINOv2's SwiGLU under its own "
            "names (mlp.w12, mlp.w3), or timm's architecture in the file's metadata.",
        )
    return gated, second.shape[1]


def _num_classes(state: Mapping[str, Tensor], width: int) -> int:
    head = state.get("head.weight")
    if head is None:
        return 0
    if head.ndim != 2 or head.shape[1] != width:
        raise BadCheckpoint(
            "mismatch",
            f"The linear head has the shape {shape_of(head)}, but the class token has {width} "
            "features; expected a head that reads the class token of the last block alone (heads "
            "on several blocks, or on averaged patches too, cannot be explained).",
        )
    return head.shape[0]


def _position_grid(
    state: Mapping[str, Tensor], registers: int, patch: tuple[int, int], hints: Hints
) -> tuple[tuple[int, int], bool]:
    """(rows, cols) of the positions, and whether class token and registers have some too."""
    count = _three_axes(state, "pos_embed").shape[1]
    size = hints.input_size
    stated = size and tuple(side // step for side, step in zip(size, patch, strict=True))
    for n_prefix in (1 + registers, 0):
        n_patches = count - n_prefix
        if stated and stated[0] * stated[1] == n_patches:
            return stated, n_prefix > 0
        side = isqrt(max(0, n_patches))
        if not stated and side and side**2 == n_patches:
            return (side, side), n_prefix > 0
    raise BadCheckpoint(
        "mismatch",
        f"{count} positions arrived for {1 + registers} tokens before the patches; expected a "
        "square grid, or its input_size (height, width) in the file's metadata.",
    )


# ---- words ---------------------------------------------------------------------------------------


def named(names: Iterable[str]) -> str:
    """The first few names, without anything but letters, digits, dots and underscores."""
    names = list(names)
    few = [re.sub(r"[^\w.]", "", name)[:60] for name in names[:MAX_NAMED]]
    more = len(names) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")


def shape_of(value: Tensor) -> str:
    """A shape as people write it."""
    return " x ".join(str(side) for side in value.shape) or "a single number"
