"""The page "Methods" in a real browser: cards one by one, cancel, change of mind, downloads."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import cdam_core as cdam
from pages._samples import samples
from tests import test_browser

pytestmark = pytest.mark.browser

base, browser, visit, settle = (
    test_browser.base, test_browser.browser, test_browser.visit, test_browser.settle
)  # fmt: skip
LONG = 60_000  # milliseconds; generous, for a busy machine


@pytest.fixture(scope="module", autouse=True)
def this_page_is_allowed_to_probe():
    with pytest.MonkeyPatch.context() as patch:
        address = (r"404 \(Not Found\)", r"/methods/_stcore/(health|host-config)$")
        patch.setattr(test_browser, "ALLOWED", (*test_browser.ALLOWED, address))
        yield


@pytest.fixture
def methods(visit):
    """Open the page in a fresh visit with some methods and classes."""

    def open_page(names=("cdam", "attention"), classes=("zebra", "elephant"), **options):
        asked = [f"method={name}" for name in names] + [f"class={name}" for name in classes]
        page = visit(f"/methods?{'&'.join(asked)}", wait=False, **options)
        if names:
            expect(cards(page)).to_have_count(len(names), timeout=LONG)
            settle(page)
        return page

    return open_page


def cards(page):
    return page.locator(".card")




def button(page, key: str):
    return page.locator(f".st-key-{key} button")


def test_cards_come_one_by_one_and_the_pointer_reads_them(visit):
    page = visit("/methods", wait=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("Which map may I trust?",
                                                              timeout=LONG)
    expect(cards(page).first).to_be_visible(timeout=LONG)
    expect(page.get_by_role("progressbar").first).to_be_attached()
    expect(cards(page)).to_have_count(10, timeout=LONG)
    settle(page)
    expect(button(page, "stop-methods")).to_have_count(0)
    box = page.locator(".card .frame").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 4.5 / 24, box["y"] + box["height"] * 6.5 / 24)
    tip = page.locator(".tip:visible")
    expect(tip).to_contain_text("Row 7, column 5")
    model, image = cdam.load_model("scenes"), cdam.open_image(next(iter(samples().values())).file)
    strongest = np.argsort(-model.logits(model.encode_image(image)).numpy())[:2].tolist()
    scores = cdam.explain(model, image, strongest).scores[:, 6, 4]
    shown = [float(text.replace("−", "-")) for text in tip.locator(".tip-value").all_inner_texts()]
    np.testing.assert_allclose(shown, scores, atol=0.006)


def test_a_change_of_mind_while_computing_wins(methods):
    page = methods(names=("cdam", "relevance_propagation"), classes=("zebra",))
    page.get_by_role("combobox", name="Classes to explain").click()
    for name in ("owl", "lion"):  # the second while the first is being computed
        page.keyboard.type(name)
        page.keyboard.press("Enter")
    settle(page)
    for card in cards(page).all():
        expect(card.locator(".title")).to_have_text(["zebra", "owl", "lion"], timeout=LONG)
    assert "class=zebra&class=owl&class=lion" in page.url


def test_a_card_leads_to_the_comparison(methods):
    page = methods(names=("integrated_cdam", "attention"), classes=("owl", "cat"))
    button(page, "compare-integrated_cdam").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Why owl rather than cat?",
                                                              timeout=LONG)
    settle(page)
    assert "method=integrated_cdam" in page.url
    page.get_by_role("link", name="Methods").click()
    expect(cards(page)).to_have_count(2, timeout=LONG)  # as it was left
    settle(page)
    expect(cards(page).first.locator(".title")).to_have_text(["owl", "cat"])


def test_maps_from_pixels_are_taken_to_the_comparison_under_their_own_names(methods):
    page = methods(names=("rollout", "input_x_gradient"), classes=("owl", "cat"))
    button(page, "compare-rollout").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Where does the model look?",
                                                              timeout=LONG)
    settle(page)
    expect(page.locator(".maps .title")).to_have_text(["What the model saw", "Attention rollout"])
    expect(page.locator(".maps .note").last).to_have_text("the same for every class")
    expect(page.locator(".maps .low")).to_have_text("0")
    expect(page.locator(".maps .zero")).to_have_text("")
    expect(page.get_by_text("Speaks most")).to_have_count(0)
    assert "class=owl&class=cat&method=rollout" in page.url
    page.get_by_role("link", name="Methods").click()
    expect(cards(page)).to_have_count(2, timeout=LONG)
    settle(page)
    button(page, "compare-input_x_gradient").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Why owl rather than cat?",
                                                              timeout=LONG)
    settle(page)
    expect(page.locator(".maps .badge:visible")).to_have_text(["A", "B", "A − B"])
    expect(page.locator(".scale-note")).to_contain_text("Score per pixel, in logits.")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Picture (PNG)").click()
    assert waiting.value.suggested_filename.startswith("cdam_scenes_input_x_gradient_owl_cat")


def test_a_slow_map_of_the_comparison_can_be_cancelled(visit):
    page = visit("/?class=zebra&class=elephant")
    page.get_by_role("combobox", name="Method").click()
    page.keyboard.type("SmoothG")
    page.keyboard.press("Enter")
    button(page, "stop-compare").click(timeout=LONG)
    expect(page.get_by_text("left out: SmoothGrad")).to_be_visible(timeout=LONG)
    settle(page)
    expect(page.locator(".maps")).to_have_count(0)
    expect(page.get_by_text("One patch")).to_have_count(0)  # nothing of the map before is left
    page.get_by_role("combobox", name="Method").click()
    page.keyboard.type("Integrated CD")
    page.keyboard.press("Enter")
    expect(page.locator(".maps .badge:visible")).to_have_text(["A", "B", "A − B"], timeout=LONG)
    settle(page)


def test_the_sanity_check_and_the_sheet(methods):
    page = methods()
    button(page, "sanity-one").click()
    expect(page.get_by_text("depends on what the model learned")).to_be_visible(timeout=LONG)
    settle(page)
    expect(cards(page).last.locator(".picture")).to_have_count(4)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="All maps (PNG)").click()
    assert re.fullmatch(r"methods_scenes_zebra_elephant(_simulated)?\.png",
                        waiting.value.suggested_filename)
    picture = Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes()))
    assert picture.height > picture.width * 0.7


def test_a_phone_shows_two_maps_beside_each_other(methods):
    page = methods(width=390, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    left, right = (page.locator(".card .frame").nth(index).bounding_box() for index in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] >= 0
    assert right["x"] + right["width"] <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(methods, scheme):
    page = methods(names=("cdam",), color_scheme=scheme)
    paper = page.get_by_test_id("stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    for place in (".card .title", ".card .low"):
        ink = page.locator(place).first.evaluate("node => getComputedStyle(node).color")
        light, dark = sorted(map(test_browser.luminance, (ink, paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, place


def test_cancel_keeps_what_is_done(methods):
    page = methods()
    page.get_by_role("button", name=re.compile("^SmoothGrad")).click()
    button(page, "stop-methods").click(timeout=LONG)
    expect(page.get_by_text("left out: SmoothGrad")).to_be_visible(timeout=LONG)
    settle(page)
    expect(cards(page)).to_have_count(2)
    expect(button(page, "go-on-methods")).to_be_visible()
    page.get_by_role("button", name=re.compile("^SmoothGrad")).click()
    settle(page)
    expect(page.get_by_text("left out")).to_have_count(0)
    expect(cards(page)).to_have_count(2)
