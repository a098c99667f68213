"""Every family of architectures: the place is found, and the maps are those of plain autograd."""

import dataclasses
import importlib.util
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer

import cdam_core as cdam
from cdam_core import architectures
from tests import zoo
from tests.conftest import tiny_module, tiny_vit

# One architecture of every family that reads its answer from a class token -> whether the closed
# form must apply, tokens before the patches, grid of the small one.
FAMILIES = {
    "vit_base_patch16_clip_224": (True, 1, (4, 4)),
    "vit_small_patch14_reg4_dinov2": (True, 5, (4, 4)),
    "deit3_small_patch16_224": (True, 1, (4, 4)),
    "deit_tiny_distilled_patch16_224": (False, 2, (4, 4)),
    "vit_small_patch16_18x2_224": (False, 1, (4, 4)),
    "vit_relpos_base_patch16_cls_224": (False, 1, (4, 4)),
    "eva02_base_patch16_clip_224": (False, 1, (4, 4)),
    "eva02_enormous_patch14_clip_224": (False, 1, (4, 4)),
    "vit_base_patch16_rope_224": (False, 1, (4, 4)),
    "vit_base_patch16_rope_mixed_224": (False, 1, (4, 4)),
    "cait_xxs24_224": (False, 1, (4, 4)),
    "xcit_nano_12_p16_224": (False, 1, (4, 4)),
    "xcit_tiny_12_p8_224": (False, 1, (4, 4)),
    "volo_d1_224": (False, 1, (4, 4)),
    "pit_s_224": (False, 1, (4, 4)),
    "pit_s_distilled_224": (False, 2, (4, 4)),
    "mvitv2_base_cls": (False, 1, (2, 2)),
    "coat_lite_tiny": (False, 1, (4, 4)),
    "tnt_s_patch16_224": (False, 1, (4, 4)),
    "tnt_s_legacy_patch16_224": (False, 1, (4, 4)),
    "convit_tiny": (False, 1, (4, 4)),
    "naflexvit_base_patch16_radio_v3": (False, 8, (4, 4)),
}


ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location(
    "report_architectures", ROOT / "scripts" / "report_architectures.py"
)
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)


def wrapped(module, pixels, **extra):
    return cdam.wrap(module, input_size=tuple(pixels.shape[-2:]), **extra)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_with_plain_autograd_on_the_whole_model(name):
    closed, prefix, grid = FAMILIES[name]
    module = zoo.shrunk(name)
    pixels = zoo.pixels_for(module)
    model = wrapped(module, pixels)
    assert (model.closed_form, model.num_prefix_tokens, model.grid) == (closed, prefix, grid)
    encoding = model.encode(pixels)
    asked = {3: lambda f: f[0, 3], cdam.Contrast(0, 2): lambda f: f[0, 0] - f[0, 2]}
    for target, value in asked.items():
        expected, logits = zoo.oracle(module, pixels, value)
        torch.testing.assert_close(model.logits(encoding), logits, rtol=1e-9, atol=1e-9)
        e = cdam.explain(model, encoding, target)
        scale = float(expected.abs().max())
        patches = expected[prefix:].reshape(grid)
        np.testing.assert_allclose(e.scores[0], patches, atol=2e-6 * scale)
        np.testing.assert_allclose(e.rest[0], float(expected[:prefix].sum()), atol=2e-5 * scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_answers_or_says_why_not(name):
    """No family makes a method fail with anything but one sentence, and values are the model's."""
    module = zoo.shrunk(name)
    pixels = zoo.pixels_for(module)
    model = wrapped(module, pixels)
    value = float(module(pixels).detach()[0, 1])
    quick = {"smooth_cdam": {"n": 2}, "integrated_cdam": {"steps": 2}, "smoothgrad": {"n": 2},
             "integrated_gradients": {"steps": 2}}  # fmt: skip
    answered = set()
    for method in cdam.METHODS:
        try:
            e = cdam.explain(model, pixels, 1, method, **quick.get(method, {}))
        except cdam.BadTarget:
            continue
        answered.add(method)
        assert np.isfinite(e.scores).all()
        np.testing.assert_allclose(e.values[0], value, rtol=1e-5)
    assert {"cdam", "smooth_cdam", "integrated_cdam", "grad_cam", "input_x_gradient", "smoothgrad",
            "integrated_gradients"} <= answered  # fmt: skip


@pytest.mark.parametrize("name", ["cait_xxs24_224", "eva02_base_patch16_clip_224", "volo_d1_224",
                                  "deit_tiny_distilled_patch16_224"])  # fmt: skip
def test_all_classes_at_once_are_the_classes_one_by_one(name):
    """More classes than features: by the latent's features where the head allows it."""
    module = zoo.shrunk(name, num_classes=40)
    pixels = zoo.pixels_for(module)
    model = wrapped(module, pixels)
    encoding = model.encode(pixels)
    every = cdam.explain(model, encoding, cdam.ALL)
    assert every.scores.shape[0] == 40 > model.embed(pixels).shape[1]
    for index in (0, 17, 39):
        alone = cdam.explain(model, encoding, index)
        scale = np.abs(alone.scores).max()
        np.testing.assert_allclose(every.scores[index], alone.scores[0], atol=1e-6 * scale)
        np.testing.assert_allclose(every.rest[index], alone.rest[0], atol=1e-5 * scale)
        np.testing.assert_allclose(every.values[index], alone.values[0], rtol=1e-6)


def test_smooth_and_integrated_at_zero_noise_and_the_end_are_plain_cdam():
    """Known limits on a family with autograd: no noise, and the last of many steps."""
    module = zoo.shrunk("cait_xxs24_224")
    pixels = zoo.pixels_for(module)
    model = wrapped(module, pixels)
    plain = cdam.explain(model, pixels, 0).scores
    for at in ("tokens", "block_input"):
        smooth = cdam.explain(model, pixels, 0, "smooth_cdam", n=1, sigma=0.0, at=at).scores
        np.testing.assert_allclose(smooth, plain, rtol=1e-5, atol=1e-6 * np.abs(plain).max())


# ---- the place is found --------------------------------------------------------------------------


def test_blocks_after_the_last_attention_to_patches_would_be_noticed():
    """Were the first of CaiT's two class-attention blocks taken, the second would still read."""
    module = zoo.shrunk("cait_xxs24_224")
    pixels = zoo.pixels_for(module)

    class Averaging(torch.nn.Module):
        """A final norm that lets every token see the average of all."""

        def forward(self, x):
            return x + x.mean(1, keepdim=True)

    plain = tiny_vit()
    plain.norm = Averaging().double()
    with pytest.raises(cdam.BadCheckpoint, match="reads patches after its last attention"):
        cdam.wrap(plain)
    assert architectures.find(module).block == "blocks_token_only.1"
    assert wrapped(module, pixels).closed_form is False


def test_a_class_token_that_reads_nothing_is_refused():
    class Deaf(Block):
        """Attention among the patches alone."""

        def forward(self, x, **_):
            patches = x[:, 1:] + self.attn(self.norm1(x))[:, 1:]
            return torch.cat([x[:, :1], patches], 1)

    with pytest.raises(cdam.BadCheckpoint, match="reads patches nowhere"):
        cdam.wrap(tiny_vit(block_fn=Deaf))


def test_a_shallow_copy_shares_everything_else():
    module = tiny_vit()
    state = {name: sorted(vars(part)) for name, part in module.named_modules()}
    new = torch.nn.Identity()
    twin = architectures.with_parts(module, {"blocks.1.norm1": new, "norm": new})
    assert twin.blocks[1].norm1 is new
    assert twin.norm is new
    assert twin.blocks[0] is module.blocks[0]
    assert twin.blocks[1].attn is module.blocks[1].attn
    assert module.blocks[1].norm1 is not new
    assert module.norm is not new
    assert state == {name: sorted(vars(part)) for name, part in module.named_modules()}


def test_eight_threads_encode_on_one_module():
    module = zoo.shrunk("xcit_nano_12_p16_224")
    pixels = [zoo.pixels_for(module, seed) for seed in range(8)]
    model = wrapped(module, pixels[0])
    expected = [cdam.explain(model, x, 0).scores for x in pixels]
    wrong = []

    def work(i):
        for _ in range(3):
            if not np.allclose(cdam.explain(model, pixels[i], 0).scores, expected[i], rtol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", ["plain", "late", "qk_norm"])
def test_structure_without_numbers_is_the_real_structure(name):
    """What is found on the meta device is what is found on the module."""
    module = tiny_module(name)
    assert architectures.find(module).block == f"blocks.{len(module.blocks) - 1}"
    with architectures.structure_only():
        outline = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    assert all(value.is_meta for value in outline.state_dict().values())
    real = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    shapes = {name: value.shape for name, value in real.state_dict().items()}
    assert shapes == {name: value.shape for name, value in outline.state_dict().items()}
    assert architectures.find(outline) == architectures.find(real)


def test_networks_that_lack_parts_are_refused_by_one_sentence():
    pruned = zoo.shrunk("cait_xxs24_224")
    pruned.blocks_token_only = None
    bare = zoo.shrunk("volo_d1_224")
    bare.pretrained_cfg = None
    for module, words in ((pruned, "no blocks in blocks_token_only"), (bare, "give input_size"),
                          (None, "A NoneType arrived")):  # fmt: skip
        with pytest.raises(cdam.BadCheckpoint, match=words) as error:
            cdam.wrap(module)
        assert error.value.reason == "unsupported"


def test_a_size_that_a_network_was_not_built_for_is_refused():
    module = zoo.shrunk("cait_xxs24_224")
    with pytest.raises(cdam.BadCheckpoint, match="does not run on images of 96 x 96 pixels"):
        cdam.wrap(module, input_size=(96, 96))


# ---- pooling -------------------------------------------------------------------------------------


def test_a_headless_backbone_that_averages_is_read_by_its_class_token_on_demand():
    """DINOv3's way: the class token is there, and no head was trained on anything else."""
    module = zoo.shrunk("vit_small_patch16_dinov3", num_classes=0)
    pixels = zoo.pixels_for(module)
    with pytest.raises(cdam.BadCheckpoint, match="pool='token'"):
        wrapped(module, pixels)
    model = wrapped(module, pixels, pool="token")
    assert module.global_pool == "avg"
    expected = module.forward_features(pixels)[:, 0]
    torch.testing.assert_close(model.embed(pixels), expected.detach(), rtol=1e-9, atol=1e-9)
    concept = cdam.build_concept(
        dataclasses.replace(model), [pixels_as_image(seed) for seed in range(3)], name="thing"
    )
    assert np.abs(cdam.explain(model, pixels, concept).scores).max() > 0


def pixels_as_image(seed):
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    return Image.fromarray(noise)


def test_a_head_trained_on_averages_is_not_read_by_the_class_token():
    module = zoo.shrunk("beit_base_patch16_224")
    with pytest.raises(cdam.BadCheckpoint, match="trained on averaged patches"):
        wrapped(module, zoo.pixels_for(module), pool="token")
    with pytest.raises(cdam.BadCheckpoint, match="does not average"):
        cdam.wrap(tiny_vit(), pool="avg")
    with pytest.raises(cdam.BadCheckpoint, match="expected one of token, avg"):
        cdam.wrap(tiny_vit(), pool="max")


@pytest.mark.parametrize(("name", "words"), [
    ("crossvit_9_240", "two class tokens over two grids"),
    ("coat_mini", "three class tokens over three grids"),
    ("vit_base_patch16_siglip_224", "pools its patches by attention"),
    ("vit_medium_patch16_gap_240", "averages its patches and has no class token"),
    ("beit_base_patch16_224", "trained on averaged patches"),
    ("resnet18", "A ResNet arrived"),
    ("swin_tiny_patch4_window7_224", "no class token that reads patches"),
    ("no_such_model", "does not know"),
])  # fmt: skip
def test_what_is_not_supported_has_one_sentence(name, words):
    reason = architectures.why_not_by_name(name)
    assert words in reason
    assert reason.endswith(".")
    assert "\n" not in reason


# ---- the committed report ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return {row.architecture: row for row in report.read_report()}


def test_the_report_is_about_the_installed_timm(rows):
    assert report.timm_of_report() == timm.__version__
    assert list(rows) == sorted(timm.list_models())
    assert {row.support for row in rows.values()} == set(report.SUPPORT)


def test_the_reports_tables_are_current(rows):
    page = report.PAGE.read_text("utf-8")
    assert report.with_tables(page, list(rows.values())) == page


@pytest.mark.parametrize("name", [*FAMILIES, "beit_base_patch16_224", "vit_small_patch16_dinov3",
                                  "crossvit_9_240", "coat_mini", "resnet18", "mvitv2_tiny",
                                  "vit_base_patch16_siglip_224"])  # fmt: skip
def test_the_report_says_what_is_found_now(rows, name):
    """The structure at full size, and the comparison with autograd in small."""
    assert report.examined(name) == rows[name]


def test_a_disagreement_stops_the_report(monkeypatch):
    right = zoo.oracle

    def wrong(*arguments, **options):
        scores, logits = right(*arguments, **options)
        return scores * 1.001, logits

    monkeypatch.setattr(zoo, "oracle", wrong)
    with pytest.raises(SystemExit, match="disagrees"):
        report.checked("cait_xxs24_224", None)


def test_every_row_is_one_sentence_or_a_place(rows):
    for row in rows.values():
        by_name = row.support in (report.CLOSED, report.AUTOGRAD)
        assert bool(row.reason) != by_name
        assert bool(row.block) == (row.support != report.NOT)
        assert not row.reason or (row.reason.endswith(".") and "\n" not in row.reason)


@pytest.mark.slow
def test_a_sample_of_the_whole_report_again(rows):
    """Every twentieth that is supported; all of them are the script's business."""
    supported = [name for name, row in rows.items() if row.support != report.NOT]
    for name in supported[::20]:
        assert report.examined(name) == rows[name], name
