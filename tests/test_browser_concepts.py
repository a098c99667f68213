"""The page "Concepts" in a real browser: drawing, dropping, keeping and opening concepts."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

import cdam_core as cdam
from cdam_core.images import fit_mask
from cdam_core.maps import coverage
from pages import _concepts_desk as desk
from pages._concepts_samples import scenes, series
from tests import test_browser

pytestmark = pytest.mark.browser

base, browser, visit, settle = (
    test_browser.base, test_browser.browser, test_browser.visit, test_browser.settle
)  # fmt: skip
LONG = 90_000  # milliseconds: the first visit embeds the sample pictures
NEW = len([row for row in series().values() if row.ready])
THING = next(row.name for row in series().values() if not row.ready)


@pytest.fixture(scope="module", autouse=True)
def shared_folder(tmp_path_factory):
    """Every server of this module has a shared folder."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDAM_CONCEPTS", str(folder))
        address = (r"404 \(Not Found\)", r"/concepts/_stcore/(health|host-config)$")
        patch.setattr(test_browser, "ALLOWED", (*test_browser.ALLOWED, address))
        yield folder


@pytest.fixture
def concepts(visit):
    """Open the page in a fresh visit."""

    def open_page(**options):
        page = visit("/concepts", wait=False, **options)
        expect(page.locator(".maps .picture")).to_have_count(4, timeout=LONG)
        settle(page)
        return page

    return open_page


@pytest.fixture(scope="module")
def model():
    return cdam.load_model("scenes")


class Clicks:
    """Counts what a person does with the mouse."""

    def __init__(self, page):
        self.page, self.count = page, 0

    def on(self, locator) -> None:
        locator.click()
        self.count += 1
        settle(self.page)

    def draw(self, left, top, right, bottom) -> None:
        frame = self.page.locator(".crop .frame")
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        mouse, (x, y) = self.page.mouse, (box["x"], box["y"])
        mouse.move(x + left * box["width"], y + top * box["height"])
        mouse.down()
        mouse.move(x + right * box["width"], y + bottom * box["height"], steps=3)
        mouse.up()
        self.count += 1
        settle(self.page)


def examples(page):
    return page.get_by_role("group", name="Examples", exact=True).locator("img")


def card(page, name: str):
    return page.get_by_role("radiogroup", name="Concepts").get_by_role("radio", name=name)


def value(page, panel: int) -> str:
    return page.locator(".maps .note").nth(panel).inner_text().split()[-1]


def around(scene, name: str) -> tuple[float, float, float, float]:
    """The box around an object, as fractions of the picture, a little wider."""
    mask = scene.read_mask() == 1 + scene.objects.index(name)
    (rows, cols), (height, width) = np.where(mask), mask.shape
    edges = (cols.min() / width - 0.02, rows.min() / height - 0.02,
             cols.max() / width + 0.02, rows.max() / height + 0.02)  # fmt: skip
    return tuple(float(np.clip(edge, 0.01, 0.99)) for edge in edges)


def test_a_newcomer_builds_a_concept_of_five_regions_in_ten_clicks(concepts, model):
    page = concepts()
    clicks = Clicks(page)
    found = [(i, scene) for i, scene in enumerate(scenes().values()) if THING in scene.objects][:5]
    assert len(found) == 5
    clicks.on(page.locator(".gallery .choice").nth(found[0][0]))
    for round_, (position, scene) in enumerate(found):
        if round_:
            sources = page.get_by_role("radiogroup", name="Pictures to draw on")
            clicks.on(sources.get_by_role("radio").nth(position))
        clicks.draw(*around(scene, THING))
        expect(examples(page)).to_have_count(round_ + 1, timeout=LONG)
    assert clicks.count <= 10
    expect(page.locator(".maps .title").nth(1)).to_have_text(f"Concept {NEW + 1}")
    expect(page.get_by_text("5 examples (at most")).to_be_visible()
    alt = page.locator(".maps .picture").nth(1).get_attribute("alt")
    row, col = (int(number) - 1 for number in re.search(r"row (\d+), column (\d+)", alt).groups())
    scene = found[0][1]
    mask = fit_mask(scene.read_mask(), (448, 448)) == 1 + scene.objects.index(THING)
    assert coverage(mask, model.grid)[row, col] >= 0.25  # the strongest patch is on the thing
    # Remove one, and take that back.
    page.get_by_role("button", name="Remove example 2").click()
    expect(examples(page)).to_have_count(4, timeout=LONG)
    settle(page)
    page.get_by_role("button", name="Undo").click()
    expect(examples(page)).to_have_count(5, timeout=LONG)
    # Name it, with markup that must stay text.
    page.get_by_role("textbox", name="Name").fill("**my** <b>camel</b>")
    page.keyboard.press("Enter")
    expect(page.locator(".maps .title").nth(1)).to_have_text("**my** <b>camel</b>", timeout=LONG)
    expect(page.get_by_role("heading", level=1)).to_contain_text("**my** <b>camel</b>")


def test_a_region_by_numbers_is_the_librarys_concept(concepts, model):
    page = concepts()
    page.get_by_text("Give the box by numbers").click()
    settle(page)
    for name, number in (("Left %", 10), ("Top %", 20), ("Width %", 60), ("Height %", 50)):
        page.get_by_role("spinbutton", name=name).fill(str(number))
        page.keyboard.press("Enter")
        settle(page)
    page.get_by_role("button", name="Add this box").click()
    expect(examples(page)).to_have_count(1, timeout=LONG)
    settle(page)
    image = cdam.open_image(next(iter(scenes().values())).file)
    region = desk.crop(image, (0.1, 0.2, 0.7, 0.7))
    expected = cdam.explain(model, image, cdam.build_concept(model, [region])).values[0]
    assert abs(float(value(page, 1).replace("−", "-")) - expected) <= 2e-3 * abs(expected)
    expect(page.get_by_text("Only 1 example")).to_be_visible()


def test_sample_pictures_are_one_click_each_and_files_come_many_at_once(concepts):
    page = concepts()
    page.get_by_test_id("stButtonGroup").get_by_text("Sample pictures").click()
    settle(page)
    for number in (1, 2):
        page.get_by_role("button", name=f"Add {THING}, sample {number}", exact=True).click()
        expect(examples(page)).to_have_count(number, timeout=LONG)
        settle(page)
    page.get_by_text("Your own files").click()
    settle(page)
    bad = {"name": "Mrs Jones.png", "mimeType": "image/png", "buffer": b"no picture"}
    files = [test_browser.png(1), bad, test_browser.png(2)]
    page.locator("input[type=file]").nth(1).set_input_files(files)
    expect(examples(page)).to_have_count(4, timeout=LONG)
    expect(page.get_by_test_id("stAlert")).to_contain_text("File 2: This is not a readable image")
    settle(page)
    assert "Jones" not in page.content()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def open_keep(page) -> None:
    page.get_by_text("Keep concepts", exact=True).click()
    expect(page.get_by_role("button", name="This concept")).to_be_visible(timeout=LONG)
    settle(page)


def give(page, content: bytes) -> None:
    """Hand a concept file to the page."""
    file = {"name": "a.safetensors", "mimeType": "application/octet-stream", "buffer": content}
    page.locator("input[type=file]").last.set_input_files(file)


def test_concepts_are_saved_opened_and_refused(concepts, model):
    page = concepts()
    open_keep(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="This concept").click()
    content = Path(waiting.value.path()).read_bytes()
    saved = cdam.load_concept(content, model)
    assert waiting.value.suggested_filename == f"concept_scenes_{saved.name}.safetensors"
    row = next(row for row in series().values() if row.name == saved.name)
    expected = cdam.build_concept(model, row.files, row.name)
    np.testing.assert_allclose(saved.vector, expected.vector, atol=1e-4)
    assert saved.digests == expected.digests
    before = value(page, 1)

    give(page, content)
    expect(card(page, f"{saved.name} (2)")).to_be_visible(timeout=LONG)
    settle(page)
    expect(page.locator(".maps .title").nth(1)).to_have_text(f"{saved.name} (2)")
    assert value(page, 1) == before

    give(page, replace(saved, weights_sha256="0" * 64, model_id="another").to_bytes())
    expect(page.get_by_test_id("stAlert").last).to_contain_text("built with model another",
                                                                timeout=LONG)  # fmt: skip
    settle(page)
    give(page, content[: len(content) // 2])
    expect(page.get_by_test_id("stAlert").last).to_contain_text("no readable concept",
                                                                timeout=LONG)  # fmt: skip
    assert card(page, saved.name).count() == 2
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_shared_concept_reaches_another_visitor(concepts, shared_folder):
    page = concepts()
    open_keep(page)
    page.get_by_role("button", name="Save to the shared folder").click()
    settle(page)
    files = list(shared_folder.iterdir())
    assert len(files) == 1
    name = cdam.load_concept(files[0]).name
    other = concepts()
    open_keep(other)
    other.get_by_role("button", name="Use it").click()
    expect(card(other, f"{name} (2)")).to_be_visible(timeout=LONG)


def draw_by_finger(page) -> None:
    """Drag one finger over the picture to draw on."""
    frame = page.locator(".crop .frame")
    frame.scroll_into_view_if_needed()
    settle(page)
    box = frame.bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8)):
        point = {"x": box["x"] + share * box["width"], "y": box["y"] + share * box["height"]}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_in_its_width(concepts, scheme):
    page = concepts(width=390, height=844, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".crop .frame").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    draw_by_finger(page)
    expect(examples(page)).to_have_count(1, timeout=LONG)
    paper = page.get_by_test_id("stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    for place in (".thumbs .text", ".thumbs .note"):
        ink = page.locator(place).first.evaluate("node => getComputedStyle(node).color")
        pair = sorted((test_browser.luminance(ink), test_browser.luminance(paper)), reverse=True)
        assert (pair[0] + 0.05) / (pair[1] + 0.05) >= 4.5, place


def test_every_picture_has_words(concepts):
    page = concepts()
    missing = page.evaluate("""() => {
        const found = [];
        const walk = (root) => root.querySelectorAll("*").forEach((node) => {
            if (node.tagName === "IMG" && !node.hasAttribute("alt")) found.push(node.outerHTML);
            if (node.tagName === "BUTTON" && !node.textContent && !node.ariaLabel)
                found.push(node.outerHTML);
            if (node.shadowRoot) walk(node.shadowRoot);
        });
        walk(document);
        return found;
    }""")
    assert missing == []
