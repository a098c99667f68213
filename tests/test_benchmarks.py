"""Measures: exact numbers on a linear model, a second implementation with loops, known limits."""

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import cdam_core as cdam
from cdam_core import benchmarks
from cdam_core.benchmarks import sight
from tests.conftest import SIZE, tiny_module, tiny_vit

N = 24  # patches of the 4 x 6 grid


# ---- a linear model with known drops -------------------------------------------------------------


class WeighedSum(nn.Module):
    """Adds the patch tokens' first feature, weighed by their second, to the class token."""

    def __init__(self):
        super().__init__()
        self.norm1 = nn.Identity()

    def forward(self, x):
        patches = self.norm1(x)[:, 1:]
        total = (patches[..., :1] * patches[..., 1:]).sum(1, keepdim=True)
        return torch.cat([x[:, :1] + total, x[:, 1:]], dim=1)


def linear_model(weights):
    """Value = sum over patches of weight times mean pixel of the patch; class 1 is its negative."""
    module = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=2, depth=1, num_heads=1,
                               num_classes=2, norm_layer=nn.Identity).double()  # fmt: skip
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.patch_embed.proj.weight[0] = 1 / (3 * 64)
        module.pos_embed[0, 1:, 1] = torch.as_tensor(weights)
        module.head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    module.blocks[0] = WeighedSum()
    return cdam.wrap(module.eval())


def patch_means(pixels):
    return pixels[0].reshape(3, 4, 8, 6, 8).mean((0, 2, 4)).numpy()


@pytest.fixture
def known(pixels):
    """(model, scores): blurring patch i costs exactly scores[i]: 1 to 24 in some order."""
    drops = np.random.default_rng(0).permutation(N).reshape(4, 6) + 1.0
    lost = patch_means(pixels) - patch_means(sight.blur(pixels, 14.0))
    return linear_model((drops / lost).ravel()), drops


def test_fidelity_of_a_linear_model_in_closed_form(known, pixels):
    """After k of N patches with drops 1..N, LIF - MIF is k (N - k): area 100 (N^2 - 1) / 6."""
    model, scores = known
    found = benchmarks.fidelity(model, pixels, scores, 0, steps=N)
    value = float(model.module(pixels)[0, 0])
    k = np.arange(N + 1)
    np.testing.assert_allclose(found.fractions, k / N)
    np.testing.assert_allclose(found.mif, value - (k * N - k * (k - 1) / 2), atol=1e-8)
    np.testing.assert_allclose(found.lif, value - k * (k + 1) / 2, atol=1e-8)
    assert found.area == pytest.approx(100 * (N**2 - 1) / 6)
    assert found.area_lif - found.area_mif == pytest.approx(found.area)
    assert found.protocol.value == pytest.approx(value)
    opposite = benchmarks.fidelity(model, pixels, -scores, 0, steps=N)
    assert opposite.area == pytest.approx(-found.area)
    np.testing.assert_allclose(opposite.mif, found.lif)


def test_pixel_maps_are_perturbed_by_pixels(known, pixels):
    model, scores = known
    lost = (pixels - sight.blur(pixels, 14.0))[0].mean(0).numpy()
    means = patch_means(pixels) - patch_means(sight.blur(pixels, 14.0))
    drops = np.kron(scores / means, np.ones((8, 8))) * lost / 64
    found = benchmarks.fidelity(model, pixels, drops, 0, steps=16)
    assert found.protocol.unit == "pixel"
    falling = np.concatenate([[0], np.cumsum(np.sort(drops.ravel())[::-1])])
    counts = [round(k / 16 * drops.size) for k in range(17)]
    np.testing.assert_allclose(found.mif, found.protocol.value - falling[counts], atol=1e-8)
    rising = np.concatenate([[0], np.cumsum(np.sort(drops.ravel()))])
    np.testing.assert_allclose(found.lif, found.protocol.value - rising[counts], atol=1e-8)


def test_box_sensitivity_of_exact_scores_is_one(known, pixels):
    """Sizes 1, 2, 3 of a 4 x 6 grid: correlation 1 at each, so the area is 2."""
    model, scores = known
    found = benchmarks.box_sensitivity(model, pixels, scores, 0)
    np.testing.assert_array_equal(found.sizes, [1, 2, 3])
    np.testing.assert_allclose(found.correlation, 1)
    assert found.area == pytest.approx(2)
    assert benchmarks.box_sensitivity(model, pixels, -scores, 0).area == pytest.approx(-2)
    assert benchmarks.box_sensitivity(model, pixels, scores, 1).area == pytest.approx(-2)
    flat = benchmarks.box_sensitivity(model, pixels, np.ones((4, 6)), 0)
    np.testing.assert_array_equal(flat.correlation, 0)
    spread = np.kron(scores, np.ones((8, 8)) / 64)  # the same evidence, pixel by pixel
    np.testing.assert_allclose(benchmarks.box_sensitivity(model, pixels, spread, 0).correlation, 1)


def test_class_discrimination_of_a_linear_model(known, pixels):
    """The wrong class's exact map is the negative: both differences are twice the right one's."""
    model, scores = known
    fidelity = benchmarks.fidelity_discrimination(model, pixels, scores, -scores, 0, steps=N)
    assert fidelity.area == pytest.approx(2 * 100 * (N**2 - 1) / 6)
    boxes = benchmarks.box_discrimination(model, pixels, scores, -scores, 0)
    assert boxes.area == pytest.approx(4)


def test_token_ablation_of_a_linear_model(known, pixels):
    """Leaving patch i out costs its weight times its mean; a map of just that agrees fully."""
    model, _ = known
    e = cdam.explain(model, pixels, [0, 1], "token_ablation")
    weights = model.module.pos_embed[0, 1:, 1].numpy().reshape(4, 6)
    exact = weights * patch_means(pixels)
    np.testing.assert_allclose(e.scores, [exact, -exact], rtol=1e-5)
    found = benchmarks.ablation_correlation(exact, e.scores[0])
    assert found.pooled == pytest.approx(1, abs=1e-6)


# ---- random orders and ties ----------------------------------------------------------------------


def test_random_band_and_a_random_map_inside_it(known, pixels):
    model, _ = known
    draw = np.random.default_rng(5)
    found = benchmarks.fidelity(model, pixels, draw.normal(size=(4, 6)), 0, steps=12, band=40)
    band = found.band
    line = found.mif[0] + (found.mif[-1] - found.mif[0]) * found.fractions
    tolerance = 4 * band.sd / math.sqrt(40) + 1e-9
    assert (np.abs(band.mean - line) <= tolerance).all()
    assert (np.abs(found.mif - band.mean) <= 3.5 * band.sd + 1e-9).all()
    assert abs(found.area_mif - band.area_mean) < 3 * band.area_sd
    assert abs(found.area_lif - band.area_mean) < 3 * band.area_sd
    alone = benchmarks.random_band(model, pixels, 0, steps=12, rankings=40)
    np.testing.assert_allclose(alone.mean, band.mean)
    np.testing.assert_allclose(alone.sd, band.sd)
    given = benchmarks.fidelity(model, pixels, draw.normal(size=(4, 6)), 0, steps=12, band=alone)
    assert given.band is alone


def test_a_good_map_leaves_the_band(known, pixels):
    model, scores = known
    found = benchmarks.fidelity(model, pixels, scores, 0, steps=12, band=10)
    assert (found.mif[1:-1] < found.band.mean[1:-1] - 2 * found.band.sd[1:-1]).all()
    assert found.area_mif < found.band.area_mean - 3 * found.band.area_sd


def test_ties_are_taken_in_one_seeded_random_order():
    scores = np.array([[1.0, 3.0, 1.0, 1.0], [0.0, 3.0, 1.0, 0.0]])
    order = benchmarks.ranking(scores, seed=3)
    assert (np.diff(scores.ravel()[order]) <= 0).all()
    np.testing.assert_array_equal(order, benchmarks.ranking(scores, seed=3))
    orders = {tuple(benchmarks.ranking(scores, seed=s)) for s in range(20)}
    assert len(orders) > 10
    first = [benchmarks.ranking(np.zeros(50), seed=s)[0] for s in range(200)]
    assert len(set(first)) > 35


def test_fractions_are_those_really_perturbed(model, pixels):
    found = benchmarks.fidelity(model, pixels, np.arange(24.0).reshape(4, 6), 0, steps=100)
    np.testing.assert_allclose(found.fractions, [round(k / 100 * 24) / 24 for k in range(101)])
    assert found.mif.shape == found.lif.shape == (101,)
    # both ends are the whole and the wholly blurred image
    assert found.mif[0] == found.lif[0]
    assert found.mif[-1] == found.lif[-1]


# ---- a second implementation, from the paper's text ----------------------------------------------


def own_blur(channel, sigma):
    """Separable, cut at four sigmas, reflected at the edges with the edge pixel repeated."""
    radius = int(4 * sigma + 0.5)
    kernel = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-radius, radius + 1)]
    kernel = [weight / sum(kernel) for weight in kernel]

    def along(line):
        reflected = [*line, *line[::-1]]
        return [
            sum(
                weight * reflected[(i + offset) % len(reflected)]
                for weight, offset in zip(kernel, range(-radius, radius + 1), strict=True)
            )
            for i in range(len(line))
        ]

    rows = [along(list(row)) for row in channel]
    columns = [along(list(column)) for column in zip(*rows, strict=True)]
    return np.array(columns).T


def own_value(module, pixels, target):
    with torch.no_grad():
        return float(module(pixels)[0, target])


@pytest.fixture(scope="module")
def blurred():
    x = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)).double()
    return torch.tensor(np.stack([own_blur(channel, 5.0) for channel in x[0].numpy()]))


def own_curve(module, pixels, blurred, order, target, cells):
    """Perturb cell after cell; ``cells`` gives the pixels (slices) of a cell."""
    steps, values, fractions = 8, [], []
    for k in range(steps + 1):
        count = round(k / steps * len(order))
        moved = pixels.clone()
        for cell in order[:count]:
            rows, cols = cells(cell)
            moved[0, :, rows, cols] = blurred[:, rows, cols]
        values.append(own_value(module, moved, target))
        fractions.append(count / len(order))
    area = sum(
        100 * (fractions[k + 1] - fractions[k]) * (values[k + 1] + values[k]) / 2
        for k in range(steps)
    )
    return values, area


def patch_cells(cell):
    row, col = divmod(cell, 6)
    return slice(8 * row, 8 * row + 8), slice(8 * col, 8 * col + 8)


def pixel_cells(cell):
    row, col = divmod(cell, 48)
    return slice(row, row + 1), slice(col, col + 1)


@pytest.mark.parametrize(("shape", "cells"), [((4, 6), patch_cells), (SIZE, pixel_cells)])
@pytest.mark.parametrize("name", ["plain", "qk_norm", "late", "distilled"])
def test_fidelity_equals_the_papers_text_in_loops(name, shape, cells, pixels, blurred):
    module = tiny_module(name)
    scores = np.random.default_rng(2).normal(size=shape)
    found = benchmarks.fidelity(cdam.wrap(module), pixels, scores, 3, steps=8, blur_sigma=5.0)
    flat = list(scores.ravel())
    order = sorted(range(len(flat)), key=lambda cell: flat[cell], reverse=True)
    mif, area_mif = own_curve(module, pixels, blurred, order, 3, cells)
    lif, area_lif = own_curve(module, pixels, blurred, order[::-1], 3, cells)
    np.testing.assert_allclose(found.mif, mif, atol=1e-6)
    np.testing.assert_allclose(found.lif, lif, atol=1e-6)
    assert found.area_mif == pytest.approx(area_mif, abs=1e-4)
    assert found.area == pytest.approx(area_lif - area_mif, abs=1e-4)


@pytest.mark.parametrize("name", ["plain", "late"])
def test_box_sensitivity_equals_the_papers_text_in_loops(name, pixels, blurred):
    module = tiny_module(name)
    model = cdam.wrap(module)
    scores = np.random.default_rng(2).normal(size=(4, 6))
    drops = benchmarks.box_drops(model, pixels, 3, n_boxes=12, blur_sigma=5.0, seed=4)
    found = benchmarks.box_sensitivity(model, pixels, scores, 3, drops=drops)
    whole = own_value(module, pixels, 3)
    correlations = []
    for size, corners in zip(drops.sizes, drops.corners, strict=True):
        sums, lost = [], []
        for row, col in corners:
            assert 0 <= row <= 4 - size
            assert 0 <= col <= 6 - size
            moved, total = pixels.clone(), 0
            for r, c in itertools.product(range(row, row + size), range(col, col + size)):
                rows, cols = patch_cells(6 * r + c)
                moved[0, :, rows, cols] = blurred[:, rows, cols]
                total += scores[r, c]
            sums.append(total)
            lost.append(whole - own_value(module, moved, 3))
        correlations.append(np.corrcoef(sums, lost)[0, 1])
    np.testing.assert_allclose(found.correlation, correlations, atol=1e-6)
    area = sum((correlations[i] + correlations[i + 1]) / 2 for i in range(2))
    assert found.area == pytest.approx(area, abs=1e-6)


def test_boxes_are_shared_and_reach_every_place():
    one = sight_corners = benchmarks.boxes.random_corners((4, 6), 3, 100, seed=0)
    np.testing.assert_array_equal(one, benchmarks.boxes.random_corners((4, 6), 3, 100, seed=0))
    assert {tuple(corner) for corner in sight_corners} == set(itertools.product(range(2), range(4)))
    other = benchmarks.boxes.random_corners((4, 6), 3, 100, seed=1)
    assert (one != other).any()


# ---- discrimination, compactness, ablation -------------------------------------------------------


def test_attention_does_not_discriminate(model, pixels):
    """The same map for both classes: the difference is exactly zero."""
    right, wrong = cdam.explain(model, pixels, [0, 1], "attention").scores
    for measure, settings in (
        (benchmarks.fidelity_discrimination, {"steps": 6}),
        (benchmarks.box_discrimination, {"n_boxes": 8}),
    ):
        found = measure(model, pixels, right, wrong, 0, **settings)
        assert found.area == 0
        assert (found.difference == 0).all()


def test_compactness_by_hand():
    scores = np.array([[1.0, 0.05, -0.05], [-0.5, 0.051, 0.0]])
    assert benchmarks.compactness(scores) == pytest.approx(3 / 6)
    assert benchmarks.compactness(scores, threshold=0.6) == pytest.approx(5 / 6)
    assert math.isnan(benchmarks.compactness(-np.abs(scores)))
    assert math.isnan(benchmarks.compactness(np.zeros((2, 2))))


def test_ablation_correlation_pooled_and_per_image():
    draw = np.random.default_rng(0)
    ablations = [draw.normal(size=(4, 6)), 10 * draw.normal(size=(4, 6))]
    maps = [ablations[0], -ablations[1]]
    found = benchmarks.ablation_correlation(maps, ablations)
    np.testing.assert_allclose(found.per_image, [1, -1])
    assert found.mean == pytest.approx(0)
    expected = np.corrcoef(np.ravel(maps), np.ravel(ablations))[0, 1]
    assert found.pooled == pytest.approx(expected)
    assert found.pooled < -0.9  # the image with large values decides
    assert benchmarks.ablation_correlation(maps[0], ablations[0]).pooled == pytest.approx(1)
    pixels = np.kron(maps[0], np.ones((8, 8)) / 64)
    assert benchmarks.ablation_correlation(pixels, ablations[0]).pooled == pytest.approx(1)


def test_pixel_scores_summed_to_patches():
    scores = np.arange(32 * 48.0).reshape(SIZE)
    summed = benchmarks.to_patches(scores, (4, 6))
    assert summed[1, 2] == scores[8:16, 16:24].sum()
    assert summed.sum() == scores.sum()
    np.testing.assert_array_equal(benchmarks.to_patches(summed, (4, 6)), summed)
    with pytest.raises(cdam.BadTarget, match="whole patches"):
        benchmarks.to_patches(scores, (5, 6))


# ---- honest results ------------------------------------------------------------------------------


def test_results_say_how_they_were_measured(model, pixels):
    found = benchmarks.fidelity(
        model, pixels, np.eye(4, 6), cdam.Contrast(0, 2), steps=3, blur_sigma=8.0, seed=5
    )
    assert json.loads(json.dumps(asdict(found.protocol))) == {
        "target": {
            "kind": "contrast",
            "a": {"kind": "class", "index": 0, "name": "class 0"},
            "b": {"kind": "class", "index": 2, "name": "class 2"},
        },
        "label": "class 0 − class 2",
        "value": found.protocol.value,
        "model_id": "custom",
        "unit": "patch",
        "fill": "gaussian blur",
        "blur_sigma": 8.0,
        "blur_sigma_relative": 0.25,
        "seed": 5,
    }
    assert found.protocol.value == pytest.approx(found.mif[0])


def test_every_perturbed_image_is_run_once(model, pixels, monkeypatch):
    """20 steps from both ends: 19 inner images each, and the two ends once."""
    sizes = []
    original = sight.values_of_pixels

    def count(model, pixels, targets):
        sizes.append(len(pixels))
        return original(model, pixels, targets)

    monkeypatch.setattr(sight, "values_of_pixels", count)
    scores = np.random.default_rng(0).normal(size=(4, 6))
    benchmarks.fidelity(model, pixels, scores, 0, steps=20)
    assert sum(sizes) == 2 * 19 + 2
    sizes.clear()
    benchmarks.box_sensitivity(model, pixels, scores, 0)
    assert sum(sizes) <= 1 + 24 + 15 + 8  # no box twice, however many are drawn


def test_batches_progress_and_cancelling(model, pixels, monkeypatch):
    scores = np.random.default_rng(0).normal(size=(4, 6))
    whole = benchmarks.fidelity(model, pixels, scores, 0, steps=6)
    boxes = benchmarks.box_sensitivity(model, pixels, scores, 0, n_boxes=5)
    monkeypatch.setattr(sight, "images_per_batch", lambda *_, **__: 1)
    seen = []
    single = benchmarks.fidelity(
        model, pixels, scores, 0, steps=6, on_step=lambda *step: seen.append(step)
    )
    np.testing.assert_allclose(single.mif, whole.mif, rtol=1e-9)
    assert seen == [(k, 12) for k in range(1, 13)]
    again = benchmarks.box_sensitivity(model, pixels, scores, 0, n_boxes=5)
    np.testing.assert_allclose(again.correlation, boxes.correlation, rtol=1e-6)

    def stop(done, _):
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        benchmarks.fidelity(model, pixels, scores, 0, steps=6, on_step=stop)


def test_bad_questions_get_one_sentence(model, pixels):
    flat = np.zeros((4, 6))
    for call, reason in (
        (lambda: benchmarks.fidelity(model, pixels, np.zeros((3, 3)), 0), "wrong-type"),
        (lambda: benchmarks.fidelity(model, pixels, flat + np.nan, 0), "wrong-type"),
        (lambda: benchmarks.fidelity(model, pixels, flat, [0, 1]), "wrong-type"),
        (lambda: benchmarks.fidelity(model, pixels, flat, 0, steps=0), "bad-setting"),
        (lambda: benchmarks.box_sensitivity(model, pixels, flat, 0, sizes=[5]), "bad-setting"),
        (lambda: benchmarks.box_sensitivity(model, pixels, flat, 0, sizes=[]), "bad-setting"),
    ):
        with pytest.raises(cdam.BadTarget) as caught:
            call()
        assert caught.value.reason == reason
    with pytest.raises(cdam.BadImage):
        benchmarks.fidelity(model, pixels[..., :-3], flat, 0)


def test_every_measure_of_the_table(pixels):
    """Each row's function gives a finite number and the curve it names."""
    model = cdam.wrap(tiny_vit())
    right, wrong = cdam.explain(model, pixels, [0, 1]).scores
    ablation = cdam.explain(model, pixels, 0, "token_ablation").scores[0]
    calls = {
        benchmarks.fidelity: lambda f: f(model, pixels, right, 0, steps=4),
        benchmarks.box_sensitivity: lambda f: f(model, pixels, right, 0, n_boxes=4),
        benchmarks.fidelity_discrimination: lambda f: f(model, pixels, right, wrong, 0, steps=4),
        benchmarks.box_discrimination: lambda f: f(model, pixels, right, wrong, 0, n_boxes=4),
        benchmarks.compactness: lambda f: f(right),
        benchmarks.ablation_correlation: lambda f: f(right, ablation),
    }
    for name, measure in benchmarks.MEASURES.items():
        assert measure.id == name
        assert measure.better in ("higher", "lower")
        assert measure.summary.endswith(".")
        result = calls[measure.function](measure.function)
        assert math.isfinite(measure.of(result))
        lengths = {len(getattr(result, part)) for part in measure.curve}
        assert len(lengths) <= 1


# ---- several targets at the price of one ---------------------------------------------------------


def test_several_targets_share_perturbed_images_and_get_the_same_numbers(model, pixels):
    """Bit by bit what each target gets alone, from half as many images."""
    scores = np.random.default_rng(3).normal(size=(4, 6))
    both = benchmarks.Sight(model, pixels, [3, 1], 5.0, seed=2)
    done = []
    found = benchmarks.fidelities(both, scores, 8, [4, 0], lambda at, total: done.append(total))
    bands = benchmarks.random_bands(both, 8, 4)
    drops = benchmarks.box_drops_of(both, [1, 3], 9)
    for index, target in enumerate((3, 1)):
        alone = benchmarks.fidelity(model, pixels, scores, target, 8, 5.0, 2, band=4)
        np.testing.assert_array_equal(found[index].mif, alone.mif)
        np.testing.assert_array_equal(found[index].lif, alone.lif)
        assert asdict(found[index].protocol) == asdict(alone.protocol)
        np.testing.assert_allclose(bands[index].mean, alone.band.mean, rtol=1e-12)  # other batches
        lost = benchmarks.box_drops(model, pixels, target, [1, 3], 9, 5.0, 2)
        np.testing.assert_array_equal(drops[index].drops, lost.drops)
        judged = benchmarks.box_sensitivity(model, pixels, scores, target, drops=lost)
        again = benchmarks.correlate(drops[index], scores, (4, 6))
        np.testing.assert_array_equal(again.correlation, judged.correlation)
    np.testing.assert_allclose(found[0].band.mean, bands[0].mean, rtol=1e-12)
    assert found[1].band is None
    assert set(done) == {2 + 6 * 7}  # both ends, and seven images of six orders
