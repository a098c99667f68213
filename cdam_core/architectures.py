"""Where a Vision Transformer's class token reads patches for the last time, found in its structure.

CDAM explains the tokens T that enter *the last attention in which the class token reads patches*.
In most models that is the last of ``blocks``; in CaiT, XCiT and VOLO the class token joins after
them, in PiT and MViT there are stages, in CoaT scales, and a parallel block feeds two attentions at
once. ``find`` looks the place up in the structure, and ``check_reading`` proves on random tokens
that nothing after it reads a patch. Around that place a model is taken apart without touching it:

- ``tokens_entering`` runs the model's own forward on a shallow copy in which the place is held by a
  stand-in that hands the tokens out and ends the run;
- ``answers`` runs the model's own last block on a shallow copy that is fed with given tokens T,
  then the model's own norm and head.

So every kind of block is honoured as it is, nothing is stored on the module, and no hook is needed.
What is particular to a family of models is one row of ``FAMILIES``.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.coat import CoaT
from timm.models.convit import ConVit
from timm.models.crossvit import CrossVit
from timm.models.eva import Eva, EvaBlockPostNorm
from timm.models.mvitv2 import MultiScaleVit
from timm.models.naflexvit import NaFlexVit
from timm.models.pit import PoolingVisionTransformer
from timm.models.tnt import TNT
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from timm.models.volo import VOLO
from timm.models.xcit import Xcit
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cdam_core.errors import BadCheckpoint

POOLS = ("token", "avg")
Grid = tuple[int, int]


# ---- families ------------------------------------------------------------------------------------


def _as_it_is(module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    return block(tokens)


def _with_rotary_positions(
    module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid
) -> Tensor:
    rotary = module.rope
    if rotary is None:
        return block(tokens)
    stated = module.dynamic_img_size or not hasattr(rotary, "feat_shape")
    embedding = rotary.get_embed(shape=grid) if stated else rotary.get_embed()
    return block(tokens, rope=embedding[-1] if module.rope_mixed else embedding)


def _with_shared_bias(module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    shared = module.rel_pos_bias() if module.rel_pos_bias is not None else None
    return block(tokens, shared_rel_pos_bias=shared)


def _with_relative_positions(
    module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid
) -> Tensor:
    shared = module.shared_rel_pos
    return block(tokens, shared_rel_pos=shared.get_bias() if shared is not None else None)


def _class_token_apart(module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    return block(tokens[:, 1:], tokens[:, :1])


def _prefix_alone(module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    return block(tokens)[:, : module.cls_token.shape[1]]


def _with_grid(module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    return block(tokens, list(grid))[0]


def _without_convolution(module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    # The convolutional positions are in the tokens already: they come before the norm.
    return with_parts(block, {"cpe": _HandOut(tokens)})(tokens, grid)


def _outer_half(module: nn.Module, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    # What the inner half adds from the pixels is in the tokens already.
    tokens = tokens + block.attn_out(block.norm_out(tokens))
    return tokens + block.mlp(block.norm_mlp(tokens))


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        kind: its class in timm; subclasses belong to it.
        blocks: path of the list of blocks whose last one holds the place.
        run: (module, block, tokens (B, M, d), grid) to what the final norm gets, by the model's own
            block; the block is a copy fed with T.
        inlets: norms in the block whose output feeds the attention; None: see ``_inlets``.
        norm: name of the final norm.
        any_size: whether it takes any multiple of the patch size without being rebuilt.
    """

    kind: type[nn.Module]
    blocks: str = "blocks"
    run: Callable[[nn.Module, nn.Module, Tensor, Grid], Tensor] = _as_it_is
    inlets: tuple[str, ...] | None = None
    norm: str = "norm"
    any_size: bool = False


FAMILIES = (
    Family(Cait, "blocks_token_only", _class_token_apart),
    Family(Xcit, "cls_attn_blocks", any_size=True),
    Family(VOLO, "post_network"),
    Family(PoolingVisionTransformer, "transformers.-1.blocks", _prefix_alone),
    Family(MultiScaleVit, "stages.-1.blocks", _with_grid),
    Family(CoaT, "serial_blocks4", _without_convolution, norm="norm4"),
    Family(TNT, run=_outer_half, inlets=("norm_out",)),
    Family(Eva, run=_with_rotary_positions),
    Family(Beit, run=_with_shared_bias),
    Family(VisionTransformerRelPos, run=_with_relative_positions),
    Family(ConVit),
    Family(NaFlexVit),
    Family(VisionTransformer),
)

# Blocks that normalise after the attention: it is fed with the residual stream itself.
POST_NORMALISED = (ResPostBlock, ResPostRelPosBlock, EvaBlockPostNorm)


@dataclass(frozen=True)
class LastAttention:
    """The place, as names alone: it belongs to a structure, not to one module's tensors.

    Attributes:
        block: path of the block.
        inlets: in the block, the norms that feed the attention; T is their outputs side by side.
            Empty where nothing normalises before it: T is then the residual stream.
        prefix: tokens before the patches: class token, distillation token, registers.
        family: how to go on from there.
    """

    block: str
    inlets: tuple[str, ...]
    prefix: int
    family: Family

    @property
    def is_last_of_blocks(self) -> bool:
        """Whether the block is the last of ``module.blocks`` with one norm before its attention."""
        return self.family.blocks == "blocks" and self.inlets == ("norm1",)


def find(module: nn.Module, pool: str | None = None) -> LastAttention:
    """The last attention in which the answer is read from patches.

    Args:
        module: a network, possibly on the meta device.
        pool: how the answer is read, one of ``POOLS``; None: as the module says.

    Raises:
        BadCheckpoint: "unsupported" with what was found and what was expected.
    """
    reason = why_not(module, pool)
    if reason:
        raise BadCheckpoint("unsupported", reason)
    family = next(row for row in FAMILIES if isinstance(module, row.kind))
    try:
        path = family.blocks.replace("-1", str(_last_index(module, family.blocks)))
        blocks = module.get_submodule(path)
        block = blocks[-1]
    except (AttributeError, IndexError):  # pruned, or built without any
        raise BadCheckpoint(
            "unsupported",
            f"This {type(module).__name__} has no blocks in {family.blocks}; expected a whole "
            "network, as timm builds it.",
        ) from None
    inlets = _inlets(block) if family.inlets is None else family.inlets
    return LastAttention(f"{path}.{len(blocks) - 1}", inlets, _prefix(module), family)


def _last_index(module: nn.Module, path: str) -> int:
    """What -1 in a path stands for: the last stage."""
    head, stages, _ = path.partition(".-1")
    return len(module.get_submodule(head)) - 1 if stages else 0


def _inlets(block: nn.Module) -> tuple[str, ...]:
    if isinstance(block, POST_NORMALISED):
        return ()
    if hasattr(block, "attns"):
        return tuple(f"attns.{index}.norm" for index in range(len(block.attns)))
    name = next((name for name in ("norm1", "in_norm") if hasattr(block, name)), None)
    if name is None:
        raise BadCheckpoint(
            "unsupported",
            f"The last block is a {type(block).__name__} without norm1; expected a block that "
            "normalises its tokens before the attention.",
        )
    return (name,)


def _prefix(module: nn.Module) -> int:
    if isinstance(module, PoolingVisionTransformer):
        return module.cls_token.shape[1]
    return getattr(module, "num_prefix_tokens", 1)


# ---- what is not supported -----------------------------------------------------------------------


def why_not(module: nn.Module, pool: str | None = None) -> str | None:
    """Why a network cannot be explained, in one sentence; None: it can.

    Args:
        module: a network, possibly on the meta device.
        pool: how its answer shall be read, one of ``POOLS``; None: as it does by itself.
    """
    name = type(module).__name__
    own = getattr(module, "global_pool", "token")
    if pool is not None and pool not in POOLS:
        return f"pool={pool!r} arrived; expected one of {', '.join(POOLS)}, or None."
    if isinstance(module, CrossVit):
        return (
            f"A {name} reads its answer from two class tokens over two grids of patches, so no "
            "single map of patches explains it; expected one class token over one grid."
        )
    if isinstance(module, CoaT) and module.parallel_blocks is not None:
        return (
            f"A {name} with parallel blocks reads its answer from three class tokens over three "
            "grids of patches, so no single map explains it; expected one over one grid."
        )
    if not isinstance(module, tuple(row.kind for row in FAMILIES)):
        return (
            f"A {name} arrived, which has no class token that reads patches; expected a Vision "
            "Transformer of timm that reads its answer from a class token."
        )
    if getattr(module, "rope", None) is not None and isinstance(module, NaFlexVit):
        return f"A {name} with rotary positions arrived; expected one with learned positions."
    if getattr(module, "attn_pool", None) is not None or own == "map":
        return (
            f"This {name} pools its patches by attention, after the last block; CDAM explains "
            "models that read their answer from a class token (global_pool='token')."
        )
    if own not in POOLS:
        return f"This {name} pools by {own!r}; expected global_pool='token' or 'avg'."
    return _why_not_this_pool(module, name, own, pool)


def _why_not_this_pool(module: nn.Module, name: str, own: str, wanted: str | None) -> str | None:
    if own == (wanted or "token"):
        return None
    if wanted == "avg":
        return f"This {name} does not average its patches (pool='avg' arrived); leave pool out."
    variant = "pool='avg' explains it by the average-pooled variant (see docs/models.md)"
    if not has_class_token(module):
        return f"This {name} averages its patches and has no class token; {variant}."
    if module.num_classes:
        return (
            f"This {name} pools by 'avg', and its head was trained on averaged patches, not on "
            f"its class token; {variant}."
        )
    if wanted is None:
        return (
            f"This {name} averages its patches by default; as it has a class token and no head, "
            f"pool='token' reads that, and {variant}."
        )
    return None


def has_class_token(module: nn.Module) -> bool:
    """Whether there is a class token among its tokens."""
    owner = getattr(module, "embeds", module)
    names = ("cls_token", "cls_token4")
    return any(getattr(owner, name, None) is not None for name in names)


# ---- taking a model apart ------------------------------------------------------------------------


class _HandOut(nn.Module):
    """Returns a given tensor, whatever comes in."""

    def __init__(self, value: Tensor):
        super().__init__()
        self.value = value

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.value


class _Fed(nn.Module):
    """Runs an attention on given tokens, whatever comes in."""

    def __init__(self, inner: nn.Module, value: Tensor):
        super().__init__()
        self.inner, self.value = inner, value

    def forward(self, _: Tensor, **extras: Any) -> Tensor:
        return self.inner(self.value, **extras)


class _Arrived(Exception):
    """No error: carries tokens out of a forward pass that need not go on."""

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.tokens = tokens


class _End(nn.Module):
    """The place at which a forward pass ends."""

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        raise _Arrived(tokens)


def with_parts(module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """A shallow copy in which parts are replaced, by path; everything else is shared."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    below: dict[str, dict[str, nn.Module]] = {}
    for path, part in parts.items():
        first, _, rest = path.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = part
        else:
            twin._modules[first] = part
    for first, deeper in below.items():
        twin._modules[first] = with_parts(module._modules[first], deeper)
    return twin


def tokens_entering(module: nn.Module, pixels: Tensor) -> Tensor:
    """The model's own forward, up to the last attention.

    Args:
        module: a network that ``find`` accepts.
        pixels: (B, 3, H, W), normalised.

    Returns:
        (B, P + N, d): the residual stream entering the last attention's norm.
    """
    place = find(module, module.global_pool)
    entrance = place.inlets[0] if place.inlets else "attn"
    twin = with_parts(module, {f"{place.block}.{entrance}": _End()})
    try:
        twin.forward_features(pixels)
    except _Arrived as arrived:
        return arrived.tokens
    raise BadCheckpoint(
        "unsupported",
        f"The forward pass of this {type(module).__name__} does not go through {place.block}; "
        "expected a Vision Transformer as timm builds it.",
    )


def normed(module: nn.Module, tokens: Tensor) -> Tensor:
    """T: tokens (B, M, d) entering the last attention, after the norm that feeds it.

    Where a block feeds two attentions through two norms, T is both side by side, (B, M, 2 d); where
    nothing normalises before the attention, T is the tokens themselves.
    """
    place = find(module, module.global_pool)
    block = module.get_submodule(place.block)
    each = [block.get_submodule(inlet)(tokens) for inlet in place.inlets]
    return torch.cat(each, dim=-1) if each else tokens


def answers(
    module: nn.Module, tokens: Tensor, fed: Tensor, grid: Grid | None = None
) -> tuple[Tensor, Tensor]:
    """The last block, the final norm and the head, with the attention fed by given tokens T.

    Args:
        module: a network that ``find`` accepts.
        tokens: (B, M, d) residual stream entering the last attention's norm.
        fed: (B, M, d) tokens T, as ``normed`` gives them; a graph through them is kept.
        grid: (rows, cols) of the patches; None: that of the module's own input size.

    Returns:
        latents (B, d), what the head reads after the final norm, and logits (B, classes); without a
        head the logits are the latents.
    """
    place = find(module, module.global_pool)
    block = module.get_submodule(place.block)
    fed_block = with_parts(block, _feeds(block, place, fed))
    out = place.family.run(module, fed_block, tokens, grid or own_grid(module))
    features = module.get_submodule(place.family.norm)(out)
    return module.forward_head(features, pre_logits=True), module.forward_head(features)


def _feeds(block: nn.Module, place: LastAttention, fed: Tensor) -> dict[str, nn.Module]:
    if not place.inlets:
        return {"attn": _Fed(block.attn, fed)}
    shares = fed.chunk(len(place.inlets), dim=-1)
    return {inlet: _HandOut(share) for inlet, share in zip(place.inlets, shares, strict=True)}


def check_reading(module: nn.Module, tokens: Tensor, grid: Grid) -> None:
    """Prove on given tokens that this is the last place where the class token reads patches.

    The latent must move with the patches in T, and must not move with the patches in the residual
    stream while T is held: then nothing after this attention reads a patch.

    Args:
        module: a network that reads its answer from a class token.
        tokens: (1, P + N, d) entering the last attention's norm.
        grid: (rows, cols) of its patches.

    Raises:
        BadCheckpoint: "unsupported" where it is not so.
    """
    prefix = find(module).prefix
    with torch.enable_grad():
        stream = tokens.detach().clone().requires_grad_(True)
        fed = normed(module, tokens.detach()).detach().clone().requires_grad_(True)
        latents, _ = answers(module, stream, fed, grid)
        draw = torch.Generator().manual_seed(0)
        direction = torch.randn(latents.shape, generator=draw).to(latents)
        of_stream, of_fed = torch.autograd.grad(
            (latents * direction).sum(), (stream, fed), allow_unused=True
        )
    reads = of_fed is not None and bool(of_fed[:, prefix:].abs().max() > 0)
    reads_later = of_stream is not None and bool(of_stream[:, prefix:].abs().max() > 0)
    if not reads or reads_later:
        found = "after its last attention" if reads_later else "nowhere in its last block"
        raise BadCheckpoint(
            "unsupported",
            f"This {type(module).__name__} reads patches {found}; expected a class token that "
            "reads them in the last attention, and nothing after it.",
        )


# ---- geometry ------------------------------------------------------------------------------------


_EMBEDDINGS = ("patch_embed", "patch_embed1", "pixel_embed")


def input_size_of(module: nn.Module) -> tuple[int, int]:
    """(height, width) in pixels that a module was built for; ``BadCheckpoint`` if nothing tells."""
    for owner in (getattr(module, name, None) for name in _EMBEDDINGS):
        size = getattr(owner, "img_size", None)
        if size:
            return (size, size) if isinstance(size, int) else tuple(size)
    config = getattr(module, "pretrained_cfg", None) or {}
    size = getattr(module, "img_size", None) or config.get("input_size")
    if size is None:
        raise BadCheckpoint(
            "unsupported",
            f"This {type(module).__name__} does not tell which image size it was built for; give "
            "input_size, (height, width) in pixels.",
        )
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def own_grid(module: nn.Module) -> Grid | None:
    """(rows, cols) at the module's own input size, where its patch embedding tells."""
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    return tuple(grid) if grid else None


def takes_any_size(module: nn.Module) -> bool:
    """Whether other input sizes than the module's own work without rebuilding it."""
    family = next((row for row in FAMILIES if isinstance(module, row.kind)), None)
    return bool(getattr(module, "dynamic_img_size", False) or (family and family.any_size))


def patch_size_of(module: nn.Module, size: Sequence[int], count: int) -> tuple[int, int]:
    """(height, width) in pixels of what one of ``count`` patch tokens stands for.

    The patch embedding's own, or with pooling between stages a multiple of it.

    Args:
        module: a network that ``find`` accepts.
        size: (height, width) of the image in pixels.
        count: patch tokens that enter the last attention.

    Raises:
        BadCheckpoint: "unsupported" where the tokens form no regular grid.
    """
    own = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if own is not None:
        own = (own, own) if isinstance(own, int) else tuple(own)
        if (size[0] // own[0]) * (size[1] // own[1]) == count:
            return own
    for rows in range(1, count + 1):
        cols = count // rows
        if rows * cols == count and size[0] * cols == size[1] * rows and size[0] % rows == 0:
            return (size[0] // rows, size[1] // cols)
    raise BadCheckpoint(
        "unsupported",
        f"{count} patch tokens arrived from {size[0]} x {size[1]} pixels, which form no regular "
        "grid; expected an input size that the patch size divides.",
    )


def width_and_depth(module: nn.Module) -> tuple[int, int]:
    """Features of a token and number of blocks, for estimates of memory."""
    blocks = sum(1 for part in module.modules() if hasattr(part, "mlp") and hasattr(part, "norm2"))
    return int(module.num_features), max(1, blocks)


# ---- structure without weights -------------------------------------------------------------------

_FILLING = frozenset(
    ("uniform_", "normal_", "erfinv_", "mul_", "add_", "sub_", "div_", "clamp_", "fill_", "zero_",
     "copy_")
)  # fmt: skip


class _NoFilling(TorchFunctionMode):
    """Leaves out the filling of tensors that hold nothing: most of the time otherwise."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        filled = args and isinstance(args[0], Tensor) and args[0].is_meta
        if filled and getattr(func, "__name__", "") in _FILLING:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def structure_only():
    """Modules built inside have names and shapes, on the meta device, and no numbers."""
    with torch.device("meta"), _NoFilling():
        yield


def outline(name: str) -> nn.Module:
    """A timm architecture on the meta device; raises whatever timm raises."""
    with structure_only():
        return timm.create_model(name, pretrained=False)


@cache
def why_not_by_name(name: str, pool: str | None = None) -> str | None:
    """Why a timm architecture cannot be explained, in one sentence; None: it can.

    Args:
        name: of the architecture, with or without a tag.
        pool: as ``why_not``.
    """
    if not timm.is_model(name):
        return "The installed timm does not know this architecture."
    try:
        module = outline(name)
    except Exception as error:  # architectures that need more than a name raise their own errors
        return f"timm could not build this architecture ({type(error).__name__})."
    return why_not(module, pool)


def size_options(name: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Arguments of timm's ``create_model`` for an input size; None: the architecture's own.

    What can take any size is built so, and its positions are interpolated as images come; anything
    else is built for the one size.
    """
    if hasattr(outline(name), "dynamic_img_size"):
        return {"dynamic_img_size": True}
    return {} if size is None else {"img_size": size}
