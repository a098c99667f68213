"""Larger inputs and 16 bits: the same model, its costs, and how far its scores move."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import cdam_core as cdam
from cdam_core import sizes
from cdam_core.models import MAX_PATCHES
from tests import zoo
from tests.conftest import tiny_vit


@pytest.fixture(scope="module")
def scenes():
    return cdam.load_model("scenes")


def test_another_size_is_the_same_model_loaded_for_it(scenes):
    larger = scenes.at_size((392, 280))
    assert larger.grid == (28, 20)
    assert larger.module is scenes.module
    assert scenes.input_size == (336, 336)
    image = cdam.open_image("docs/screenshot.png")
    expected = cdam.explain(cdam.load_model("scenes", (392, 280)), image, "zebra")
    np.testing.assert_array_equal(cdam.explain(larger, image, "zebra").scores, expected.scores)


@pytest.mark.parametrize("size", [(225, 224), (0, 224), (-14, 14), (224, 7)])
def test_sizes_that_the_patches_do_not_divide_are_refused(scenes, size):
    with pytest.raises(cdam.BadImage) as error:
        scenes.at_size(size)
    assert error.value.reason == "wrong-shape"


def test_memory_is_bounded_by_a_largest_grid(scenes):
    side = 14 * (int(MAX_PATCHES**0.5) + 1)
    with pytest.raises(cdam.BadImage, match="smaller size") as error:
        scenes.at_size((side, side))
    assert error.value.reason == "too-many-pixels"
    with pytest.raises(cdam.BadImage, match="smaller size"):
        scenes.encode(torch.zeros(1, 3, side, side))
    assert scenes.at_size((61 * 14, 61 * 14)).grid == (61, 61)  # the paper's finest maps


def test_sizes_are_the_own_one_and_near_multiples_of_the_patch(scenes):
    assert sizes.sizes_for(scenes) == [(224, 224), (336, 336), (490, 490)]
    eight = cdam.wrap(tiny_vit(img_size=64))
    assert sizes.sizes_for(eight) == [(64, 64), (224, 224), (336, 336), (488, 488)]
    fixed = cdam.wrap(tiny_vit(dynamic_img_size=False))
    assert sizes.sizes_for(fixed) == [(32, 48)]
    module = zoo.shrunk("xcit_nano_12_p16_224").float()
    assert (336, 336) in sizes.sizes_for(cdam.wrap(module))


def test_work_grows_as_the_counted_operations_do():
    """Every multiplication of the blocks, counted by torch, at both sizes."""
    model = cdam.wrap(tiny_vit(embed_dim=96, img_size=64, depth=3).float())

    def counted(size):
        tokens = torch.zeros(1, model.num_prefix_tokens + size[0] * size[1] // 64, 96)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.module.blocks(tokens)
        return counter.get_total_flops()

    own = counted((64, 64))
    for size in ((128, 128), (256, 192)):
        cost = sizes.cost_of(model, size)
        assert cost.times == pytest.approx(counted(size) / own, rel=1e-6)
        assert cost.grid == (size[0] // 8, size[1] // 8)
    assert sizes.cost_of(model, (64, 64)).times == 1


def test_sixteen_bits_stay_within_the_stated_tolerance(scenes):
    """As docs/models.md says: 10 % of the strongest score; here also nearly the same shape."""
    image = cdam.open_image("docs/screenshot.png")
    half = scenes.on("cpu", half=True)
    exact = cdam.explain(scenes, image, cdam.ALL)
    rough = cdam.explain(half, image, cdam.ALL)
    best = int(exact.values.argmax())
    assert int(rough.values.argmax()) == best
    assert rough.scores.dtype == np.float32
    one, other = exact.scores[best], rough.scores[best]
    difference = np.abs(one - other).max()
    assert 0 < difference < 0.1 * np.abs(one).max()
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


def test_on_the_same_device_in_full_precision_nothing_changes(scenes):
    copy = scenes.on("cpu")
    assert next(copy.module.parameters()).data_ptr() == next(scenes.module.parameters()).data_ptr()
    x = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    expected = cdam.explain(scenes, x, 3).scores
    np.testing.assert_array_equal(cdam.explain(copy, x, 3).scores, expected)
