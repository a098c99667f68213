"""Checkpoints from elsewhere: every layout explains like timm, every refusal has its reason.

The files are made here by renaming the tensors of a random timm model, independently of the code
that reads them.
"""

import argparse
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import zipfile
from functools import partial

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import cdam_core as cdam
from cdam_core import checkpoints
from cdam_core.models import imagenet_names
from tests.conftest import randomise

WIDTH, SIDE, CLASSES = 128, 32, 5  # two heads of 64, a 4 x 4 grid of 8 px patches
NAMES = ["ant", "bee", "cat", "dog", "eel"]


def vit(**extra):
    """A tiny float32 ViT whose size differs from timm's in everything that can be read."""
    layout = {
        "img_size": SIDE, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2,
        "num_classes": CLASSES, "mlp_ratio": 3, "dynamic_img_size": True,
    }  # fmt: skip
    return randomise(VisionTransformer(**(layout | extra))).float()


def state_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def plain():
    """The model that most layouts are made of."""
    return vit()


def assert_same(path, module, **wrapping):
    """The file explains exactly as the module it was made of."""
    model, expected = cdam.load_model(path), cdam.wrap(module, **wrapping)
    pixels = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(3))
    assert model.input_size == expected.input_size
    for target in [0, 1] if expected.class_names else []:
        ours = cdam.explain(model, pixels, target)
        theirs = cdam.explain(expected, pixels, target)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.values, theirs.values)
    assert torch.equal(model.embed(pixels), expected.embed(pixels))
    return model


# ---- layouts -------------------------------------------------------------------------------------


def test_a_state_dict_of_timm(plain, tmp_path):
    torch.save(plain.state_dict(), tmp_path / "m.pth")
    model = assert_same(tmp_path / "m.pth", plain)
    assert model.class_names == [f"class {i}" for i in range(CLASSES)]
    assert re.fullmatch(r"checkpoint-[0-9a-f]{12}", model.id)
    assert model.closed_form


def test_the_older_torch_format_and_half_precision(tmp_path):
    module = vit().half().float()
    state = {name: value.half() for name, value in state_of(module).items()}
    torch.save(state, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    assert_same(tmp_path / "m.pth", module)


def test_a_backbone_of_dino_has_no_classes(tmp_path):
    """The published DINO files are the trunk alone."""
    module = vit(num_classes=0)
    torch.save(state_of(module), tmp_path / "dino.pth")
    assert assert_same(tmp_path / "dino.pth", module).class_names == []


def test_of_teacher_and_student_the_teacher_is_kept(plain, tmp_path):
    """DINO's training checkpoint: two networks, each with a projection head, nothing to explain."""
    trunk = {k: v for k, v in state_of(plain).items() if not k.startswith("head.")}
    projection = {
        "head.mlp.0.weight": torch.ones(4, WIDTH), "head.mlp.0.bias": torch.ones(4),
        "head.last_layer.weight_g": torch.ones(7, 1), "head.last_layer.weight_v": torch.ones(7, 4),
    }  # fmt: skip
    student = {f"module.backbone.{k}": torch.zeros_like(v) for k, v in trunk.items()}
    teacher = {f"backbone.{k}": v for k, v in trunk.items()}
    torch.save({
        "student": student | {f"module.{k}": v for k, v in projection.items()},
        "teacher": teacher | projection,
        "optimizer": {"state": {0: {"step": 1}}}, "epoch": 99,
        "dino_loss": {"center": torch.zeros(1, 7)},
    }, tmp_path / "full.pth")  # fmt: skip
    backbone = vit(num_classes=0)
    backbone.load_state_dict(trunk)
    assert_same(tmp_path / "full.pth", backbone)
    flat = {f"student.{k}": v for k, v in student.items()}
    flat |= {f"teacher.{k}": v for k, v in (teacher | projection).items()}
    torch.save({"model": flat}, tmp_path / "flat.pth")
    assert_same(tmp_path / "flat.pth", backbone)


def test_the_lightning_file_of_the_papers_authors(plain, tmp_path):
    """``model.*`` in DINO's names and ``linear.*``, among Lightning's own entries."""
    state = {
        k.replace("head.", "linear.") if k.startswith("head.") else f"model.{k}": v
        for k, v in state_of(plain).items()
    }
    torch.save({
        "epoch": 9, "global_step": 100, "pytorch-lightning_version": "1.9.0", "loops": {},
        "state_dict": state, "callbacks": {}, "optimizer_states": [], "lr_schedulers": [],
    }, tmp_path / "last.ckpt")  # fmt: skip
    assert_same(tmp_path / "last.ckpt", plain)


def hugging_face(module, prefix, block_names, rest):
    """Rename timm's tensors to Hugging Face's; query, key and value come apart."""
    out = {}
    for name, value in state_of(module).items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias|gamma)", name)
        if match:
            layer = f"{prefix}encoder.layer.{match[1]}."
            if match[2] == "attn.qkv":
                for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    out[f"{layer}attention.attention.{part}.{match[3]}"] = piece.clone()
            else:
                kind = "lambda1" if match[3] == "gamma" else match[3]
                out[f"{layer}{block_names[match[2]]}.{kind}"] = value
        elif name.startswith("head."):
            out[name.replace("head.", "classifier.")] = value
        else:
            stem, _, kind = name.rpartition(".")
            out[prefix + (rest[name] if name in rest else f"{rest[stem]}.{kind}")] = value
    return out


REST = {
    "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
}  # fmt: skip
VIT_BLOCK = {
    "norm1": "layernorm_before", "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}  # fmt: skip
DINOV2_BLOCK = {
    "norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.output.dense",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "ls1": "layer_scale1", "ls2": "layer_scale2",
}  # fmt: skip


def test_a_vit_of_hugging_face(tmp_path):
    module = vit(norm_layer=partial(nn.LayerNorm, eps=1e-12))
    state = hugging_face(module, "vit.", VIT_BLOCK, REST)
    assert "vit.encoder.layer.0.attention.attention.query.weight" in state
    save_file(state, tmp_path / "m.safetensors")
    assert_same(tmp_path / "m.safetensors", module)


def test_a_dinov2_of_hugging_face_with_registers(tmp_path):
    """There the registers have no positions and the class token has one; in timm neither has."""
    module = vit(num_classes=0, reg_tokens=4, no_embed_class=True, init_values=1.0)
    randomise(module).float()
    original = state_of(module)
    state = hugging_face(module, "", DINOV2_BLOCK, REST | {"reg_token": "registers"})
    class_position = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(5))
    state["embeddings.register_tokens"] = state.pop("registers")
    state["embeddings.mask_token"] = torch.zeros(1, WIDTH)
    state["embeddings.cls_token"] = original["cls_token"] - class_position
    state["embeddings.position_embeddings"] = torch.cat([class_position, original["pos_embed"]], 1)
    with torch.no_grad():  # the sum is rounded once on its way
        module.cls_token.copy_(state["embeddings.cls_token"] + class_position)
    save_file(state, tmp_path / "m.safetensors")
    model = assert_same(tmp_path / "m.safetensors", module)
    assert model.num_prefix_tokens == 5


def test_dinov2_in_its_own_names_with_chunks_and_swiglu(tmp_path):
    module = vit(num_classes=0, init_values=1.0, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)
    state = {}
    for name, value in state_of(module).items():
        name = re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", name)
        state[name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")] = value
    torch.save({"teacher": {f"backbone.{k}": v for k, v in state.items()}}, tmp_path / "t.pth")
    assert_same(tmp_path / "t.pth", module)


@pytest.mark.parametrize("extra", [
    {"reg_tokens": 4}, {"reg_tokens": 4, "no_embed_class": True}, {"no_embed_class": True},
    {"init_values": 0.5}, {"qk_norm": True, "num_heads": 4}, {"qkv_bias": False},
    {"mlp_ratio": 2.7}, {"patch_size": (4, 8), "img_size": (16, 32)},
], ids=str)  # fmt: skip
def test_what_is_read_from_the_shapes(extra, tmp_path):
    module = vit(**extra)
    torch.save(state_of(module), tmp_path / "m.pth")
    assert_same(tmp_path / "m.pth", module)


@pytest.mark.parametrize("name", [
    "vit_tiny_patch16_224", "vit_small_patch8_224", "vit_base_patch14_dinov2",
    "vit_large_patch16_224",
    "vit_so150m_patch16_reg4_map_256", "vit_huge_patch14_224", "vit_giant_patch14_224",
    "vit_gigantic_patch14_224", "deit3_medium_patch16_224", "vit_so400m_patch14_siglip_224",
])  # fmt: skip
def test_the_rule_for_heads_holds_for_timms_models(name):
    from cdam_core.layouts import Hints, _num_heads

    with torch.device("meta"):
        module = timm.create_model(name)
    heads = module.blocks[0].attn.num_heads
    assert _num_heads({}, module.embed_dim, Hints()) == heads


# ---- what tensors cannot say ---------------------------------------------------------------------


def save_with_metadata(module, path, **metadata):
    entries = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    save_file(state_of(module), path, metadata={"format": "pt"} | entries)


def test_metadata_gives_heads_grid_names_and_normalisation(tmp_path):
    module = vit(num_heads=8, img_size=(16, 32), norm_layer=partial(nn.LayerNorm, eps=1e-5))
    save_with_metadata(
        module, tmp_path / "m.safetensors", num_heads=8, input_size=[16, 32], layer_norm_eps=1e-5,
        class_names=NAMES, mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], id="insects",
    )  # fmt: skip
    model = assert_same(tmp_path / "m.safetensors", module)
    assert model.class_names == NAMES
    assert (model.mean, model.std, model.id) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3), "insects")
    assert model.grid == (2, 4)


def test_entries_of_a_torch_file_count_as_metadata(plain, tmp_path):
    torch.save({"state_dict": state_of(plain), "class_names": NAMES}, tmp_path / "m.pth")
    assert cdam.load_model(tmp_path / "m.pth").class_names == NAMES


def test_an_architecture_that_is_named_is_built_by_timm(tmp_path):
    """64 features in two heads, and pixels in -1..1: neither is in the tensors."""
    module = randomise(timm.create_model("test_vit", num_classes=CLASSES)).float()
    torch.save({"arch": "test_vit", "state_dict": state_of(module)}, tmp_path / "m.pth")
    model = assert_same(tmp_path / "m.pth", module)
    assert model.module.blocks[0].attn.num_heads == 2
    assert model.mean == (0.5, 0.5, 0.5)
    module = vit(pre_norm=True)
    torch.save(state_of(module), tmp_path / "clip.pth")
    refusal(tmp_path / "clip.pth", "unsupported", "name timm's architecture")


def test_the_hubs_companions_are_read_beside_a_file_of_the_hubs_name(tmp_path):
    module = vit(num_heads=4)
    config = {"num_attention_heads": 4, "id2label": {str(i): n for i, n in enumerate(NAMES)}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    images = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    save_file(state_of(module), tmp_path / "model.safetensors")
    model = assert_same(tmp_path / "model.safetensors", module)
    assert model.class_names == NAMES
    assert model.mean == (0.5, 0.5, 0.5)
    save_file(state_of(module), tmp_path / "other.safetensors")
    assert cdam.load_model(tmp_path / "other.safetensors").class_names[0] == "class 0"


def test_names_in_a_text_file_beside(plain, tmp_path):
    torch.save(state_of(plain), tmp_path / "m.pth")
    (tmp_path / "m.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    assert cdam.load_model(tmp_path / "m.pth").class_names == NAMES
    (tmp_path / "m.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(cdam.BadCheckpoint, match="2 class names arrived for a head with 5"):
        cdam.load_model(tmp_path / "m.pth")
    (tmp_path / "m.txt").write_bytes(b"\xff\xfe\x81")
    refusal(tmp_path / "m.pth", "unreadable", "one name")


def test_a_thousand_outputs_are_imagenets(tmp_path):
    torch.save(state_of(vit(num_classes=1000)), tmp_path / "m.pth")
    model = cdam.load_model(tmp_path / "m.pth")
    assert model.class_names == list(imagenet_names())


def test_other_sizes_than_the_file_was_trained_at(plain, tmp_path):
    torch.save(state_of(plain), tmp_path / "m.pth")
    model = cdam.load_model(tmp_path / "m.pth", input_size=(56, 40))
    assert model.grid == (7, 5)
    pixels = torch.randn(1, 3, 56, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain(pixels)[0]
    torch.testing.assert_close(model.logits(model.encode(pixels)), expected, rtol=1e-4, atol=1e-4)


def test_a_name_in_the_local_folder(plain, tmp_path, monkeypatch):
    torch.save(state_of(plain), tmp_path / "mine.pth")
    with pytest.raises(cdam.BadCheckpoint):
        cdam.load_model("mine.pth")
    monkeypatch.setenv("CDAM_MODELS", str(tmp_path))
    assert cdam.load_model("mine.pth").num_prefix_tokens == 1


def test_recognising_reads_no_weights(plain, tmp_path):
    state = state_of(plain)
    state["norm.weight"][0] = float("nan")
    torch.save(state, tmp_path / "m.pth")
    save_file(state, tmp_path / "m.safetensors")
    for name in ("m.pth", "m.safetensors"):
        found = checkpoints.recognise(tmp_path / name)
        assert all(value.is_meta for value in found.module.state_dict().values())
        assert found.description == (
            "ViT (patch 8 px, width 128, 2 blocks, 2 heads, 4x4 positions, 5 classes)"
        )


# ---- refusals ------------------------------------------------------------------------------------


def refusal(path, reason, sentence):
    """Loading and recognising refuse alike, in one line without the file's name."""
    for ask in (cdam.load_model, checkpoints.recognise):
        with pytest.raises(cdam.BadCheckpoint) as error:
            ask(path)
        message = str(error.value)
        assert error.value.reason == reason, message
        assert sentence in message
        assert path.name not in message
        assert str(path.parent) not in message
        assert "\n" not in message
    return message


class _Marks:
    """A pickle that creates a file when it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_run(plain, tmp_path, zipped):
    marker = tmp_path / "marker"
    content = {"state_dict": state_of(plain), "extra": _Marks(marker)}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "evil.pth", "unsafe", "posix.mkdir")
    assert "weights_only=False" in message
    assert not marker.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # it would have been
    assert marker.exists()


def test_a_bare_pickle_is_not_even_opened(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "m.pth").write_bytes(pickle.dumps(_Marks(marker)))
    refusal(tmp_path / "m.pth", "unsafe", "plain pickle")
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["namespace", "module"])
def test_the_conversion_command_makes_a_file_that_loads(plain, tmp_path, kind):
    """What DINO's training writes (argparse.Namespace), and a whole pickled module."""
    content = {"teacher": {f"backbone.{k}": v for k, v in state_of(plain).items()},
               "args": argparse.Namespace(lr=1)}  # fmt: skip
    torch.save(content if kind == "namespace" else plain, tmp_path / "FILE")
    with pytest.raises(cdam.BadCheckpoint) as error:
        cdam.load_model(tmp_path / "FILE")
    assert error.value.reason == "unsafe"
    culprit = "argparse.Namespace" if kind == "namespace" else "timm.models.vision_transformer"
    assert culprit in str(error.value)
    command = shlex.split(str(error.value).partition("made: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert_same(tmp_path / "SAFE.pth", plain)


@pytest.mark.parametrize(("content", "reason", "sentence"), [
    (b"", "unreadable", "empty"),
    (b"just some text, nothing else at all", "unreadable", "neither safetensors nor torch"),
    (b"x", "unreadable", "neither safetensors nor torch"),
    (b"\x00" * 100, "unreadable", "neither safetensors nor torch"),
    (b"PK\x03\x04" + b"\x00" * 40, "damaged", "truncated or damaged"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "damaged", "truncated or damaged"),
    (b"\xff" * 7 + b"\x7f{" + b"a" * 50, "damaged", "do not fit"),
])  # fmt: skip
def test_files_that_are_no_weights(tmp_path, content, reason, sentence):
    (tmp_path / "m.pth").write_bytes(content)
    refusal(tmp_path / "m.pth", reason, sentence)


def test_a_folder_and_a_missing_file(tmp_path):
    refusal(tmp_path, "unreadable", "A folder arrived")
    with pytest.raises(cdam.BadCheckpoint) as error:
        cdam.load_model(tmp_path / "missing.pth")
    assert error.value.reason == "unknown-model"
    for source in ("", "a" * 5000, "nul\0", "."):
        with pytest.raises(cdam.BadCheckpoint):
            cdam.load_model(source)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pth", "safetensors", "old"])
def test_truncated_files(plain, tmp_path, kind, share):
    path = tmp_path / "m.weights"
    if kind == "safetensors":
        save_file(state_of(plain), path)
    else:
        torch.save(state_of(plain), path, _use_new_zipfile_serialization=kind == "pth")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(cdam.BadCheckpoint) as error:
        cdam.load_model(path)
    assert error.value.reason == "damaged"
    assert "export the file again" in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(plain, tmp_path, value):
    state = state_of(plain)
    state["blocks.1.mlp.fc1.weight"][3, 4] = value
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(cdam.BadCheckpoint, match=r"blocks\.1\.mlp\.fc1\.weight") as error:
        cdam.load_model(tmp_path / "m.safetensors")
    assert error.value.reason == "damaged"


def test_archives_of_something_else(plain, tmp_path):
    np.savez(tmp_path / "m.npz", a=np.zeros(3))
    refusal(tmp_path / "m.npz", "unsupported", "archive of other files")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    refusal(tmp_path / "script.pt", "unsupported", "TorchScript")


@pytest.mark.parametrize("content", [
    [torch.zeros(3)], torch.zeros(3), {"epoch": 3}, {"state_dict": {}}, {1: torch.zeros(2)}, "text",
], ids=str)  # fmt: skip
def test_torch_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "m.pth")
    refusal(tmp_path / "m.pth", "unsupported", "no dictionary of tensors")


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


CHANGES = {
    "missing_key": (lambda s: without(s, "blocks.1.norm1.bias"), "mismatch",
                    "missing blocks.1.norm1.bias"),
    "missing_block": (lambda s: {k: v for k, v in s.items() if not k.startswith("blocks.0.n")},
                      "mismatch", "missing blocks.0.norm1"),
    "unexpected_key": (lambda s: s | {"decoder.weight": torch.zeros(3)}, "mismatch",
                       "unexpected decoder.weight"),
    "unexpected_in_block": (lambda s: s | {"blocks.0.adapter.weight": torch.zeros(3)}, "mismatch",
                            "unexpected blocks.0.adapter.weight"),
    "hostile_name": (lambda s: s | {"<b>x\n</b>": torch.zeros(3)}, "mismatch", "unexpected bxb"),
    "wrong_shape": (lambda s: s | {"blocks.1.attn.qkv.weight": torch.zeros(100, WIDTH)},
                    "mismatch", "is 100 x 128, expected 384 x 128"),
    "no_blocks": (lambda s: {k: v for k, v in s.items() if "blocks" not in k}, "mismatch",
                  "no MLP"),
    "huge_depth": (lambda s: s | {"blocks.9999.norm1.bias": torch.zeros(3)}, "mismatch",
                   "unexpected blocks.9999.norm1.bias"),
    "flat_positions": (lambda s: s | {"pos_embed": torch.zeros(17 * WIDTH)}, "mismatch",
                       "pos_embed has the shape"),
    "token_of_other_width": (
        lambda s: s | {"cls_token": torch.zeros(1, 1, 7), "register_tokens": torch.zeros(1, 2, 7)},
        "mismatch", "cls_token has the shape 1 x 1 x 7"),
    "no_positions_at_all": (lambda s: s | {"pos_embed": torch.zeros(1, 0, WIDTH)}, "mismatch",
                            "without a single number"),
    "no_patch": (lambda s: s | {"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 0, 0)},
                 "mismatch", "without a single number"),
    "odd_grid": (lambda s: s | {"pos_embed": torch.zeros(1, 13, WIDTH)}, "mismatch",
                 "13 positions"),
    "gray": (lambda s: s | {"patch_embed.proj.weight": torch.zeros(WIDTH, 1, 8, 8)}, "unsupported",
             "colour images"),
    "no_class_token": (lambda s: without(s, "cls_token"), "unsupported", "no cls_token"),
    "no_positions": (lambda s: without(s, "pos_embed"), "unsupported", "no pos_embed"),
    "averaged": (lambda s: {k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v
                            for k, v in s.items()}, "unsupported", "averages its patches"),
    "wide_head": (lambda s: s | {"head.weight": torch.zeros(5, 2 * WIDTH)}, "mismatch",
                  "5 x 256"),
    "two_heads": (lambda s: s | {"linear.weight": torch.zeros(5, WIDTH)}, "unsupported",
                  "two linear heads"),
    "two_networks": (lambda s: {f"{a}.{k}": v for k, v in s.items() for a in ("one", "two")},
                     "unsupported", "2 Vision Transformers"),
    "distilled": (lambda s: s | {"dist_token": torch.zeros(1, 1, WIDTH)}, "unsupported",
                  "distillation"),
    "gated": (lambda s: s | {"blocks.0.mlp.fc2.weight": torch.zeros(WIDTH, 192)}, "unsupported",
              "gated"),
    "odd_width": (lambda s: s | {"patch_embed.proj.weight": torch.zeros(100, 3, 8, 8)},
                  "unsupported", "num_heads"),
    "integers": (lambda s: s | {"norm.weight": torch.zeros(WIDTH, dtype=torch.int8)},
                 "unsupported", "without quantisation"),
    "only_a_head": (lambda s: {"linear.weight": torch.zeros(5, 8), "linear.bias": torch.zeros(5)},
                    "unsupported", "linear head without"),
    "late": (lambda s: {"late_cls_token": torch.zeros(1, 1, 8)}, "unsupported", "the card"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("format", ["pth", "safetensors"])
def test_names_and_shapes_that_do_not_fit(plain, tmp_path, change, format):
    make, reason, sentence = CHANGES[change]
    state = {k: v.clone() for k, v in make(state_of(plain)).items()}
    path = tmp_path / f"weights.{format}"
    save_file(state, path) if format == "safetensors" else torch.save(state, path)
    refusal(path, reason, sentence)


def test_query_key_and_value_of_different_shapes(tmp_path):
    state = hugging_face(vit(), "vit.", VIT_BLOCK, REST)
    for value in (torch.tensor(1.0), torch.zeros(7)):
        state["vit.encoder.layer.0.attention.attention.key.bias"] = value
        save_file(state, tmp_path / "hf.safetensors")
        refusal(tmp_path / "hf.safetensors", "mismatch", "unexpected blocks.0.attn.")


def test_a_network_that_timm_cannot_build(plain, tmp_path, monkeypatch):
    def build(_):
        raise ZeroDivisionError

    monkeypatch.setattr("cdam_core.layouts.Architecture.build", build)
    save_file(state_of(plain), tmp_path / "m.safetensors")
    refusal(tmp_path / "m.safetensors", "mismatch", "timm cannot build")


def test_a_resnet(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    refusal(tmp_path / "resnet.pth", "unsupported", "a convolutional network such as a ResNet")


def test_tensors_larger_than_their_file(plain, tmp_path):
    """A view repeats one number for ever; it must be refused before it is copied."""
    state = state_of(plain) | {"norm.weight": torch.zeros(1).expand(10**12)}
    torch.save(state, tmp_path / "bomb.pth")
    refusal(tmp_path / "bomb.pth", "damaged", "more numbers than the file can hold")


@pytest.mark.parametrize(("entry", "value"), [
    ("class_names", "cat"), ("class_names", [1, 2, 3, 4, 5]), ("class_names", ["x" * 500] * 5),
    ("mean", [1, 2]), ("std", [0, 0, 0]), ("std", ["a", "b", "c"]), ("num_heads", -1),
    ("num_heads", "many"), ("num_heads", True), ("input_size", [10**9, 8]),
    ("layer_norm_eps", 5),
], ids=str)  # fmt: skip
def test_metadata_that_makes_no_sense(plain, tmp_path, entry, value):
    save_with_metadata(plain, tmp_path / "m.safetensors", **{entry: value})
    refusal(tmp_path / "m.safetensors", "damaged", f"The entry {entry} of the file's metadata")


def test_an_architecture_is_never_fetched(plain, tmp_path, monkeypatch):
    """Names that timm would look up elsewhere are ignored, and heads that do not fit refused."""
    save_with_metadata(plain, tmp_path / "m.safetensors", architecture="hf-hub:someone/else")
    assert_same(tmp_path / "m.safetensors", plain)
    save_with_metadata(plain, tmp_path / "m.safetensors", num_heads=3)
    refusal(tmp_path / "m.safetensors", "unsupported", "3 heads")
