"""Maps to pictures: zero is neutral, equal scores get equal colours, files say what they show."""

import io

import numpy as np
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import pictures
from cdam_core.maps import symmetric_scale
from cdam_core.pictures import PALETTES

SIGNED = [palette for palette in PALETTES.values() if palette.signed]


def luminance(colour):
    """Relative luminance of sRGB 0..255 (WCAG)."""
    linear = (np.asarray(colour, float) / 255) ** 2.2
    return float(linear @ [0.2126, 0.7152, 0.0722])


def as_seen(colours, kind):
    """Colours (..., 3) as seen with a colour deficiency (Vienot, Brettel, Mollon 1999)."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714],
                       [0.0299566, 0.184309, 1.46709]])  # fmt: skip
    lost = {
        "protanopia": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "deuteranopia": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
    }[kind]
    matrix = np.linalg.inv(to_lms) @ np.array(lost) @ to_lms
    return np.clip(np.asarray(colours, float) @ matrix.T, 0, 255)


def softened(image):
    """The image in the grey of reduced contrast that lies under a map."""
    grey = np.asarray(image.convert("L"), float)[..., None].repeat(3, 2)
    return np.rint(pictures.GREY_LOW + pictures.GREY_RANGE * grey)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=lambda p: p.id)
def test_zero_gets_exactly_the_neutral_colour(palette):
    colours = pictures.colourise(np.zeros((2, 3)), 1.7, palette)
    assert (colours == palette.neutral()).all()
    assert palette.neutral() in {(0, 0, 0), (247, 247, 247)}


@pytest.mark.parametrize("palette", SIGNED, ids=lambda p: p.id)
def test_signs_look_different_to_the_colour_blind_too(palette):
    for strength in (0.3, 0.6, 1.0):
        pair = pictures.colourise(np.array([[-strength, strength]]), 1.0, palette)[0]
        for kind in ("protanopia", "deuteranopia"):
            minus, plus = as_seen(pair, kind)
            assert np.abs(minus - plus).max() > 60, (strength, kind)


@pytest.mark.parametrize("palette", SIGNED, ids=lambda p: p.id)
def test_equal_strength_is_about_equally_dark_on_both_sides(palette):
    for strength in (0.25, 0.5, 0.75, 1.0):
        minus, plus = pictures.colourise(np.array([[-strength, strength]]), 1.0, palette)[0]
        assert abs(luminance(minus) - luminance(plus)) < 0.22


def test_equal_scores_get_equal_colours_across_panels():
    palette = PALETTES["blue_orange"]
    one, two = np.array([[0.5, -2.0]]), np.array([[4.0, 0.5]])
    scale = symmetric_scale([one, two])
    a, b = (pictures.colourise(each, scale, palette) for each in (one, two))
    assert (a[0, 0] == b[0, 1]).all()


def test_only_what_lies_beyond_the_scale_is_clipped():
    palette = PALETTES["blue_orange"]
    inside, beyond, end = pictures.colourise(np.array([[0.98, 5.0, 1.0]]), 1.0, palette)[0]
    assert (beyond == end).all()
    assert not (inside == end).all()


def test_an_overlay_shows_the_image_where_the_score_is_zero():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    score_map = np.zeros((16, 24))
    score_map[:, :12] = 1
    picture = np.asarray(pictures.overlay(image, score_map, 1.0, PALETTES["blue_orange"], 1.0))
    grey = softened(image)
    assert (picture[:, 12:] == grey[:, 12:]).all()
    full = pictures.colourise(np.ones((1, 1)), 1.0, PALETTES["blue_orange"])[0, 0]
    assert (picture[:, :12] == full).all()
    even = pictures.overlay(image, score_map, 1.0, PALETTES["paper"], 1.0, fade=False)
    assert (np.asarray(even)[:, 12:] == 0).all()


def test_opacity_zero_is_the_grey_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    picture = pictures.overlay(image, np.ones((16, 24)), 1.0, PALETTES["paper"], 0.0)
    assert (np.asarray(picture) == softened(image)).all()


def test_padding_is_hatched_not_coloured():
    image = Image.new("RGB", (24, 16), (10, 20, 30))
    content = np.ones((16, 24), bool)
    content[:, 12:] = False
    picture = np.asarray(
        pictures.overlay(image, np.ones((16, 24)), 1.0, PALETTES["blue_orange"], content=content)
    )
    right = picture[:, 12:]
    assert (right[..., 0] == right[..., 1]).all()
    assert len(np.unique(right)) == 2


def test_outline_surrounds_the_mask_and_leaves_its_inside():
    image = Image.new("RGB", (30, 30), (90, 90, 90))
    mask = np.zeros((30, 30), bool)
    mask[10:20, 8:18] = True
    drawn = np.asarray(pictures.outline(image, mask))
    assert (drawn[mask] == 90).all()
    assert (drawn[9, 12] == 255).all()
    assert (drawn[0, 0] == 90).all()


def test_a_bright_patch_is_drawn_in_its_place(model, pixels):
    e = cdam.explain(model, pixels, 0)
    row, col = np.unravel_index(np.abs(e.scores[0]).argmax(), e.grid)
    image = Image.new("RGB", (96, 64), (128, 128, 128))
    scale = symmetric_scale(e.scores)
    picture = np.asarray(pictures.draw(image, e, 0, scale, opacity=1.0)).astype(int)
    distance = np.abs(picture - 128).sum(-1).reshape(4, 16, 6, 16).mean((1, 3))
    assert np.unravel_index(distance.argmax(), distance.shape) == (row, col)


@pytest.mark.parametrize(
    ("file_format", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_panels_are_files_that_repeat_byte_for_byte(model, pixels, file_format, start):
    e = cdam.explain(model, pixels, [0, cdam.Contrast(0, 1)])
    image = Image.new("RGB", (96, 64), (128, 128, 128))
    one, two = (pictures.panel(image, e, 1.0, file_format=file_format) for _ in range(2))
    assert one.startswith(start)
    assert one == two


def test_a_panel_says_method_target_value_and_scale(pixels):
    from tests.conftest import tiny_vit

    model = cdam.wrap(tiny_vit(), ["co$t", "b", "c", "d", "e"], simulated=True)
    e = cdam.explain(model, pixels, ["co$t", "b"], "integrated_cdam")
    image = Image.new("RGB", (96, 64), (128, 128, 128))
    text = pictures.panel(image, e, 0.25, file_format="svg", scale_note="clipped at 99 %").decode()
    # matplotlib draws text as shapes, with the text itself in a comment before them.
    for wanted in ("Integrated CDAM", "custom", "SIMULATED DATA", "0.25", "clipped at 99 %",
                   f"value {e.values[0]:+.2f}"):  # fmt: skip
        assert wanted in text, wanted


def test_a_panel_shows_the_borders_of_objects_on_every_picture(model, pixels):
    e = cdam.explain(model, pixels, [0, 1])
    image = Image.new("RGB", (96, 64), (128, 128, 128))
    layer = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    layer.paste((255, 0, 255, 255), (40, 20, 60, 40))  # a colour that no map has
    content = pictures.panel(image, e, 1.0, outlines=layer)
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    columns = ((drawn == (255, 0, 255)).all(2)).any(0)
    assert (np.diff(columns.astype(int)) == 1).sum() == 3


def test_unsigned_methods_never_look_signed(model, pixels):
    e = cdam.explain(model, pixels, 0, "attention")
    assert pictures.palette_for(e.method, "blue_orange").signed is False


def test_png_has_no_metadata():
    data = pictures.png(Image.new("RGB", (20, 20), (1, 2, 3)))
    assert Image.open(io.BytesIO(data)).info == {}
