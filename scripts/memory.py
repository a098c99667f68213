"""Print the peak memory of relevance propagation beside the textbook version, and all times.

   python scripts/memory.py [--size PIXELS] [--threads N] [--what PART ...]

Parts: memory, textbook, times-vit, times-scenes; all of them by default. Memory is measured in
fresh processes, as the highest resident size above that of the loaded model (Linux). The model is a
ViT-S/8 with random weights; at 488 px its grid is 61 x 61. The textbook version keeps every
attention matrix, its gradient and the relevance matrix whole.
"""

import argparse
import contextlib
import ctypes
import gc
import subprocess
import sys
import time
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import cdam_core as cdam  # noqa: E402

ARCHITECTURE = "vit_small_patch8_224"
PARTS = ("memory", "textbook", "times-vit", "times-scenes")
ROWS = ("relevance_propagation", "transformer_attribution", "rollout")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=488)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--what", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        print(measure(given.measure, given.size))
        return
    names = [name for name in ROWS if "memory" in given.what]
    names += ["textbook relevance_propagation"] if "textbook" in given.what else []
    if names:
        side = given.size // 8
        print(f"{ARCHITECTURE} at {given.size} px, a {side} x {side} grid")
    for name in names:
        print_memory(name, given.size, given.threads)
    if "times-vit" in given.what:
        print_times(load(224), 224, "ViT-S/8, 1000 classes")
    if "times-scenes" in given.what and "scenes" in cdam.MODELS:
        scenes = cdam.load_model("scenes")
        print_times(scenes, scenes.input_size[0], "scenes")


def load(size: int) -> cdam.VisionModel:
    """ViT-S/8 with random weights, at a size of its own."""
    torch.manual_seed(0)
    module = timm.create_model(ARCHITECTURE, pretrained=False, img_size=size, num_classes=1000)
    return cdam.wrap(module)


# ---- memory -------------------------------------------------------------------------------------


def print_memory(name: str, size: int, threads: int) -> None:
    """One line, measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--size", str(size), "--threads",
               str(threads)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{name:40s} ended with code {done.returncode} (not enough memory?)")
        return
    above, seconds = done.stdout.split()[-2:]
    print(f"{name:40s} {float(above):8.2f} GB above the model  {float(seconds):7.1f} s", flush=True)


def measure(name: str, size: int) -> str:
    """Peak GB above the loaded model, and seconds."""
    model = load(size)
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.module(pixels[..., :64, :64] if model.module.dynamic_img_size else pixels)
    gc.collect()
    give_back_memory()
    # Writing 5 sets the peak back to the present size (see proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    start, before = time.perf_counter(), resident("VmRSS")
    if name.startswith("textbook"):
        textbook(model.module, pixels, 3)
    else:
        cdam.explain(model, pixels, 3, name)
    seconds = time.perf_counter() - start
    return f"{(resident('VmHWM') - before) / 1e6:.3f} {seconds:.1f}"


def give_back_memory() -> None:
    """Ask the allocator to return what it no longer uses."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def resident(field: str) -> int:
    """VmRSS or VmHWM in kB."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise SystemExit("Peak memory is read from /proc/self/status, which exists on Linux only.")


def textbook(module: nn.Module, pixels: Tensor, target: int) -> Tensor:
    """Relevance propagation as published: all attention in one graph, R a whole matrix."""
    x = module.norm_pre(module._pos_embed(module.patch_embed(pixels)))
    kept = []
    for block in module.blocks:
        attn, normed = block.attn, block.norm1(x)
        q, k, v = (
            attn.qkv(normed)
            .unflatten(-1, (3, attn.num_heads, attn.head_dim))
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        attention = (q @ k.transpose(-2, -1) * attn.scale).softmax(-1)
        attention.requires_grad_(True)
        kept.append(attention)
        x = x + attn.proj((attention @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    value = module.head(module.norm(x)[:, 0])[0, target]
    gradients = torch.autograd.grad(value, kept)
    relevance = torch.eye(x.shape[1])
    for attention, gradient in zip(kept, gradients, strict=True):
        mean = (attention.detach() * gradient)[0].clamp(min=0).mean(0)
        relevance = relevance + mean @ relevance
    return relevance[0, 1:]


# ---- times --------------------------------------------------------------------------------------


def print_times(model: cdam.VisionModel, size: int, title: str) -> None:
    """Seconds of every method with its default settings, beside one plain forward pass."""
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        forward = min(timed(lambda: model.module(pixels)) for _ in range(3))
    print(f"{title} at {size} px, {torch.get_num_threads()} threads: one forward {forward:.3f} s")
    for name, method in cdam.METHODS.items():
        x = model.encode(pixels) if method.needs == "encoding" else pixels
        seconds = timed(lambda name=name, x=x: cdam.explain(model, x, 3, name))
        print(f"  {name:26s} {seconds:8.2f} s  {seconds / forward:8.1f} x forward  {method.cost}",
              flush=True)  # fmt: skip


def timed(run) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
