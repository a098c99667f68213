"""The page "Attention vs CDAM" in a real browser: links both ways, keyboard, sets, many points."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

import cdam_core as cdam
from cdam_core import mechanism
from pages._samples import samples
from tests import test_browser
from tests.test_browser import number

pytestmark = pytest.mark.browser

base, browser, visit, settle = (
    test_browser.base, test_browser.browser, test_browser.visit, test_browser.settle
)  # fmt: skip
LONG = 180_000  # milliseconds; generous, for a busy machine
MARGIN = {"left": 60, "right": 12, "top": 8, "bottom": 42}  # of the plot, as in scatter.js


@pytest.fixture(scope="module", autouse=True)
def this_page_is_allowed_to_probe():
    with pytest.MonkeyPatch.context() as patch:
        address = (r"404 \(Not Found\)", r"/attention/_stcore/(health|host-config)$")
        patch.setattr(test_browser, "ALLOWED", (*test_browser.ALLOWED, address))
        patch.setattr(test_browser, "WAIT", LONG)
        yield


@pytest.fixture(scope="module")
def found():
    """The library's answer for the first sample."""
    model = cdam.load_model("scenes")
    image = cdam.open_image(next(iter(samples().values())).file)
    return mechanism.patches_of(model, model.encode_image(image))


@pytest.fixture
def attention(visit):
    def open_page(**options):
        page = visit("/attention", wait=False, **options)
        expect(page.locator(".scatter .points")).to_be_visible(timeout=LONG)
        expect(page.locator(".heads .card").last).to_be_visible(timeout=LONG)
        settle(page)
        return page

    return open_page


def position(page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the plot is on the screen."""
    stage = page.locator(".scatter .stage")
    x0, x1, y0, y1 = stage.evaluate("node => node.closest('.scatter').view.data.range")
    box = stage.bounding_box()
    width = box["width"] - MARGIN["left"] - MARGIN["right"]
    height = box["height"] - MARGIN["top"] - MARGIN["bottom"]
    return (box["x"] + MARGIN["left"] + width * (x - x0) / (x1 - x0),
            box["y"] + MARGIN["top"] + height * (y1 - y) / (y1 - y0))


def drag(page, corners) -> None:
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=5)
    page.mouse.up()


def lit(page, panel: int) -> set[int]:
    """Patches of a picture that no veil covers."""
    alpha = page.locator(".scatter .veil").nth(panel).evaluate(
        "node => [...node.getContext('2d').getImageData(0, 0, node.width, node.height).data]"
        ".filter((_, i) => i % 4 === 3)")
    return {i for i, value in enumerate(alpha) if value == 0}


def rings(page) -> int:
    return page.locator(".scatter .ring:not(.under)").count()


def choose(page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()
    settle(page)


def test_the_first_picture_is_seen_without_scrolling(attention):
    page = attention()
    expect(page.get_by_role("heading", level=1)).to_have_text("What does CDAM make of attention?")
    stage = page.locator(".scatter .stage").bounding_box()
    assert stage["y"] + stage["height"] <= 800
    panel = page.locator(".scatter .frame").last.bounding_box()
    assert panel["y"] + panel["height"] <= 800


def test_a_box_lights_the_patches_of_its_points(attention, found):
    page = attention()
    x, y = found.attention, found.scores["cdam"]
    bound = float(np.sort(y)[-9] + np.sort(y)[-8]) / 2
    _, _, _, top = page.locator(".scatter").evaluate("node => node.view.data.range")
    drag(page, [position(page, -0.001, bound), position(page, float(x.max()) * 1.03, top * 0.999)])
    settle(page)
    chosen = set(np.flatnonzero(y > bound).tolist())
    assert lit(page, 0) == lit(page, 1) == chosen
    expect(page.get_by_text(f"8 of {len(x)} patches are selected.")).to_be_visible(timeout=LONG)
    expect(page.locator(".scatter .count")).to_have_text(f"8 of {len(x)} points")
    page.get_by_role("button", name="Clear selection").click()
    settle(page)
    expect(page.get_by_text("patches are selected.")).to_have_count(0)


def test_a_lasso_lights_the_patches_inside_it(attention, found):
    page = attention()
    strongest = int(found.scores["cdam"].argmax())
    x, y = position(page, float(found.attention[strongest]), float(found.scores["cdam"].max()))
    page.get_by_role("button", name="Lasso").click()
    drag(page, [(x - 8, y - 8), (x + 8, y - 8), (x + 8, y + 8), (x - 8, y + 8), (x - 8, y - 6)])
    settle(page)
    assert lit(page, 0) == {strongest}


def test_a_click_on_a_patch_rings_its_point_and_the_other_way_round(attention, found):
    page = attention()
    strongest = int(found.scores["cdam"].argmax())
    row, col = divmod(strongest, found.grid[1])
    frame = page.locator(".scatter .frame").nth(1).bounding_box()
    page.mouse.click(frame["x"] + frame["width"] * (col + 0.5) / found.grid[1],
                     frame["y"] + frame["height"] * (row + 0.5) / found.grid[0])
    settle(page)
    assert rings(page) == 1
    ring = page.locator(".scatter .ring:not(.under)").bounding_box()
    x, y = position(page, float(found.attention[strongest]), float(found.scores["cdam"].max()))
    assert ring["x"] + ring["width"] / 2 == pytest.approx(x, abs=1.5)
    assert ring["y"] + ring["height"] / 2 == pytest.approx(y, abs=1.5)
    words = page.get_by_text(f"Row {row + 1}, column {col + 1}: attention")
    expect(words).to_be_visible(timeout=LONG)
    weakest = int(found.scores["cdam"].argmin())
    page.mouse.click(*position(page, float(found.attention[weakest]),
                               float(found.scores["cdam"].min())))
    settle(page)
    row, col = divmod(weakest, found.grid[1])
    expect(page.get_by_text(f"Row {row + 1}, column {col + 1}: attention")).to_be_visible(
        timeout=LONG)
    expect(page.locator(".heads .mark").first).to_be_visible()  # the heads follow
    expect(page.get_by_text(f"Row {row + 1}, column {col + 1}: in every head")).to_be_visible()


def test_everything_goes_by_keyboard(attention, found):
    page = attention()
    page.locator(".scatter .stage").focus()
    for key in ["ArrowUp"] * 2 + ["Shift+ArrowUp"] * 22 + ["Shift+ArrowRight"] * 24 + ["Enter"]:
        page.keyboard.press(key)
    settle(page)
    box = page.locator(".scatter").evaluate("node => node.view.selection.box")
    x, y = found.attention, found.scores["cdam"]
    inside = (x >= box[0]) & (x <= box[1]) & (y >= box[2]) & (y <= box[3])
    assert lit(page, 0) == set(np.flatnonzero(inside).tolist())
    page.keyboard.press("Escape")
    page.locator(".scatter .panels").focus()
    for key in ["ArrowDown", "ArrowRight", "ArrowRight", "Enter"]:
        page.keyboard.press(key)
    settle(page)
    expect(page.get_by_text("Row 2, column 3: attention")).to_be_visible(timeout=LONG)
    assert rings(page) == 1


def test_hovering_over_a_head_multiplies_out_a_patch(attention, found):
    page = attention()
    frame = page.locator(".heads .frame").nth(1)
    frame.scroll_into_view_if_needed()
    frame.hover(position={"x": 30, "y": 30})
    tip = page.locator(".heads .tip")
    expect(tip).to_contain_text("Sum")
    texts = [t.replace("−", "-").lstrip("×= ") for t in tip.locator(".sum span").all_inner_texts()]
    heads = len(found.head_attention)
    evidence = [float(texts[4 * line + 3]) for line in range(1, heads + 2)]
    assert sum(evidence[:-1]) == pytest.approx(evidence[-1], abs=0.006 * heads)
    place = re.search(r"Row (\d+), column (\d+)", tip.inner_text())
    patch = (int(place[1]) - 1) * found.grid[1] + int(place[2]) - 1
    assert evidence[-1] == pytest.approx(float(found.scores["cdam"][patch]), abs=0.006)


def test_a_set_is_pooled_and_a_selection_finds_its_pictures(attention):
    page = attention()
    choose(page, "Patches of", "All samples")
    expect(page.locator(".scatter .count")).not_to_have_text(re.compile("^256"), timeout=LONG)
    settle(page)
    expect(page.locator(".scatter .panel")).to_have_count(4, timeout=LONG)
    count = len(samples())
    _, x1, _, y1 = page.locator(".scatter").evaluate("node => node.view.data.range")
    drag(page, [position(page, 0.4 * x1, 0.999 * y1), position(page, 0.999 * x1, 0.02 * y1)])
    settle(page)
    expect(page.get_by_text(re.compile(rf"in \d+ of {count} pictures\."))).to_be_visible(
        timeout=LONG)
    assert lit(page, 0)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Numbers (JSON)").click()
    written = json.loads(Path(waiting.value.path()).read_text("utf-8"))
    assert written["pictures"] == count
    assert re.fullmatch(r"attention-cdam_scenes_.*simulated\.json",
                        waiting.value.suggested_filename)


def test_many_points_stay_responsive(attention):
    """160 000 points, handed to the component as the server would; drawing is timed in ratio."""
    page = attention()
    times = page.locator(".scatter").evaluate("""node => {
      const view = node.view, n = 160000;
      const fill = (Kind, top) => Kind.from({ length: n }, () => Math.random() * top);
      const few = performance.now(); view.paint(); const one = performance.now() - few;
      Object.assign(view, { n, x: fill(Float64Array, 0.04), y: fill(Float64Array, 5),
        picture: new Uint16Array(n), patch: fill(Uint16Array, 256),
        group: fill(Uint8Array, 3) });
      view.layout();
      const start = performance.now(); view.paint(); const painted = performance.now() - start;
      view.selection = { kind: "box", box: [0.01, 0.02, 1, 3] };
      const again = performance.now(); view.choosePoints(); view.paint();
      const chosen = performance.now() - again;
      const hover = performance.now();
      for (let i = 0; i < 10; i += 1) view.nearest([200 + i, 150]);
      return { one, painted, chosen, hovered: (performance.now() - hover) / 10 };
    }""")
    # A second is a generous bound for a busy machine; one that falls back to a shape per point, or
    # builds a node per point, takes many times as long.
    assert times["painted"] < 1000, times
    assert times["chosen"] < 1000, times
    assert times["hovered"] < 100, times
    ink = page.locator(".scatter .points").evaluate(
        "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data"
        ".filter((value, i) => i % 4 === 3 && value > 0).length")
    assert ink > 5000


def test_a_phone_shows_all_of_it_in_its_width(attention):
    page = attention(width=390, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for place in (".scatter .stage", ".scatter .panels", ".heads .cards"):
        box = page.locator(place).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(attention, scheme):
    page = attention(color_scheme=scheme)
    paper = page.get_by_test_id("stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    for place, colour in ((".scatter .title", "color"), (".scatter .tick", "fill"),
                          (".scatter .entry", "color"), (".heads .title", "color")):
        ink = page.locator(place).first.evaluate(
            "(node, name) => getComputedStyle(node)[name]", colour)
        light, dark = sorted(map(test_browser.luminance, (ink, paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, place


def test_a_patch_found_by_numbers_is_ringed(attention):
    page = attention()
    page.get_by_text("Select by numbers").click()
    page.get_by_role("spinbutton", name="Row").fill("5")
    page.get_by_role("spinbutton", name="Column").fill("6")
    page.get_by_role("button", name="Find this patch").click()
    settle(page)
    expect(page.get_by_text("Row 5, column 6: attention")).to_be_visible(timeout=LONG)
    assert rings(page) == 1
    assert number(page, "Row") == 5
