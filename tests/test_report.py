"""The report: one page whatever comes, every number from the maps, readable without colours."""

import io

import numpy as np
import pypdfium2
import pytest
from PIL import Image

import cdam_core as cdam
from cdam_core import pictures
from cdam_core.report import MAX_MAPS, NOT_TOLD, report
from tests.conftest import tiny_vit

LONG = "a very long name of a class " * 12
NAMES = ["zebra", "elephant", LONG, "日本 <b>&amp; اب \U0001f98a</b>", "$x$"]


@pytest.fixture(scope="module")
def model():
    return cdam.wrap(tiny_vit(), NAMES, simulated=True)


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    return cdam.open_image(pictures.png(Image.fromarray(pixels)))


def read(content):
    """Pages, text and a grey rendering of the first page."""
    with pypdfium2.PdfDocument(content) as document:
        page = document[0]
        text = page.get_textpage().get_text_bounded()
        grey = np.asarray(page.render(scale=2).to_pil().convert("L"))
        return len(document), " ".join(text.split()), grey


@pytest.fixture(scope="module")
def usual(model, image):
    e = cdam.explain(model, image, ["zebra", "elephant", cdam.Contrast("zebra", "elephant")])
    regions = [cdam.Region("box", ((0.0, 0.0), (0.5, 0.5)))]
    return e, report(model, image, [e], regions=regions), regions


def test_it_says_what_was_asked_found_and_not_found(model, image, usual):
    e, content, (region,) = usual
    pages, text, _ = read(content)
    assert pages == 1
    assert "Why zebra rather than elephant?" in text
    assert "SIMULATED DATA" in text
    logits = model.logits(model.encode_image(image)).tolist()
    for name, logit in zip(NAMES[:2], logits, strict=False):
        assert f"{name} {logit:+.2f}".replace("-", "−") in text
    scores = e.scores[0][e.content]
    for number in (e.values[0], scores[scores > 0].sum(), scores[scores < 0].sum()):
        assert f"{number:+.2f}".replace("-", "−") in text
    words = cdam.regions.summary_words("zebra", e.scores[0], e.content)
    assert words in text
    inside = cdam.regions.shares(e.scores[0], region.coverage(e.grid), e.content)
    assert f"{100 * inside.positive:.0f} % of the evidence for zebra and" in text
    assert "box over rows 1–2, columns 1–3" in text
    assert "compactness" in text
    assert NOT_TOLD[0][:40] in text
    assert "No limits are recorded for this model" in text
    for fact in (model.weights_sha256, cdam.images.digest(image), "heads all, path both", "torch"):
        assert fact in text
    assert report(model, image, [e], regions=[region]) == content


@pytest.mark.parametrize("page", ["A4", "Letter"])
def test_it_is_one_page_whatever_comes(model, image, page):
    many = [cdam.explain(model, image, [2, 3, cdam.Contrast(2, 3), 4], method, fit="crop")
            for method in ("attention", "input_x_gradient", "cdam")]  # fmt: skip
    regions = [cdam.Region("lasso", ((0, 0), (0.9, 0.1), (0.2, 0.8)))] * 5
    content = report(model, image, many, fit="crop", regions=regions, page=page,
                     measures={LONG: [0.5] * 12, "fidelity": [float("nan")] * 12})  # fmt: skip
    pages, text, grey = read(content)
    assert pages == 1
    assert f"The first {MAX_MAPS} of 12 maps are shown." in text
    assert "a very long name of a class" in text
    assert "□□ <b>&amp;" in text
    width = {"A4": 595, "Letter": 612}[page]
    assert grey.shape[1] // 2 in (width, width + 1)
    margin = 2 * 36 - 8
    assert (grey[:, :margin] == 255).all()
    assert (grey[:, -margin:] == 255).all()
    assert (grey[-margin:] == 255).all()


def test_a_real_scan_in_grey_tells_for_from_against(usual, model, image):
    """Opposite scores are equally dark; only the marks tell them apart without colours."""
    e = usual[0]
    flipped = cdam.explain(model, image, ["zebra", "elephant", cdam.Contrast("zebra", "elephant")])
    flipped.scores[:] = -flipped.scores  # what a wrong sign would print
    one, two = (read(report(model, image, [each]))[2].astype(int) for each in (e, flipped))
    maps = slice(2 * 280, 2 * 430)
    assert np.abs(one[maps] - two[maps]).max() > 100


def test_marks_are_on_patches_against_and_nowhere_else():
    scores = np.array([[1.0, -1.0, 0.0], [-0.02, 0.5, -0.5]])
    plain = Image.fromarray(np.full((40, 60, 3), 90, np.uint8))
    marked = np.asarray(pictures.mark_negative(plain, scores, 1.0))
    changed = (marked != 90).any(-1).reshape(2, 20, 3, 20).any((1, 3))
    np.testing.assert_array_equal(changed, [[False, True, False], [False, False, True]])
    assert (marked[10, 30] == 255).all()  # white on dark
    light = pictures.mark_negative(Image.new("RGB", (60, 40), (240,) * 3), scores, 1.0)
    assert light.getpixel((30, 10)) == (0, 0, 0)
    padded = pictures.mark_negative(plain, scores, 1.0, np.zeros((2, 3), bool))
    assert (np.asarray(padded) == 90).all()


def test_a_grid_of_tiny_patches_still_gets_its_marks():
    scores = -np.ones((61, 61))
    marked = np.asarray(pictures.mark_negative(Image.new("RGB", (244, 244)), scores, 1.0))
    assert (marked == 255).any(-1).reshape(61, 4, 61, 4).any((1, 3)).all()


def test_a_region_is_outlined_where_it_is():
    plain = Image.new("RGB", (100, 80), (90, 90, 90))
    region = cdam.Region("box", ((0.25, 0.5), (0.75, 1.0)))
    drawn = np.asarray(pictures.outline_region(plain, region)).astype(int)
    changed = np.abs(drawn - 90).sum(-1) > 0
    rows, cols = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert abs(rows[0] - 20) < 5
    assert abs(rows[-1] - 60) < 5
    assert abs(cols[0] - 50) < 5
    assert cols[-1] == 99
    assert not changed[35:45, 60:90].any()


def test_concepts_of_a_model_without_classes(image):
    backbone = cdam.wrap(tiny_vit(num_classes=0))
    concept = cdam.build_concept(backbone, [image.rotate(90)], "fox")
    e = cdam.explain(backbone, image, concept)
    pages, text, _ = read(report(backbone, image, [e]))
    assert pages == 1
    assert "What speaks for fox?" in text
    assert "Strongest answers" not in text
    assert "SIMULATED" not in text


def test_png_of_the_page_shows_the_picture(model, image, usual):
    with pypdfium2.PdfDocument(usual[1]) as document:
        shown = np.asarray(document[0].render(scale=2).to_pil().convert("RGB")).astype(int)
    colourful = (np.ptp(shown, axis=-1) > 60).any(0)
    assert colourful[2 * 36 : 2 * 186].mean() > 0.9
    assert io.BytesIO(usual[1]).read(5) == b"%PDF-"
