"""Regions, files and links in a real browser: drawn, downloaded, and checked outside the app."""

import io
import re
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from PIL import Image
from playwright.sync_api import expect

import cdam_core as cdam
from cdam_core import archive
from cdam_core.__main__ import main
from tests import test_browser

pytestmark = pytest.mark.browser

base, browser, visit, settle = (
    test_browser.base, test_browser.browser, test_browser.visit, test_browser.settle
)  # fmt: skip
LONG = 120_000  # milliseconds; generous, for a busy machine


@pytest.fixture(scope="module", autouse=True)
def this_page_is_allowed_to_probe():
    with pytest.MonkeyPatch.context() as patch:
        address = (r"404 \(Not Found\)", r"/several/_stcore/(health|host-config)$")
        patch.setattr(test_browser, "ALLOWED", (*test_browser.ALLOWED, address))
        yield


def at(page, panel: int, row: float, col: float) -> tuple[float, float]:
    """Where a place in a panel is, (row, col) fractions."""
    box = page.locator(".maps .frame").nth(panel).bounding_box()
    return box["x"] + col * box["width"], box["y"] + row * box["height"]


def drag(page, panel: int, places) -> None:
    page.mouse.move(*at(page, panel, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*at(page, panel, *place), steps=5)
    page.mouse.up()
    settle(page)


def outline(page) -> list[tuple[float, float]]:
    """(row, col) corners of the region as the browser draws it."""
    text = page.locator(".maps .region .line").first.get_attribute("points") or ""
    return [tuple(map(float, pair.split(",")))[::-1] for pair in text.split()]


def take(page, name: str, folder: Path) -> Path:
    with page.expect_download(timeout=LONG) as waiting:
        page.get_by_role("button", name=name).click()
    place = folder / waiting.value.suggested_filename
    waiting.value.save_as(place)
    return place


def told(page):
    return page.get_by_text(re.compile(r"In the region \("))


def test_a_drawn_region_is_told_and_goes_into_report_and_zip(visit, tmp_path, capsys):
    page = visit("/?sample=elephant-zebra&class=zebra&class=elephant")
    page.get_by_role("button", name="Draw a box").click()
    drag(page, 1, [(0.5, 0.375), (0.75, 0.6), (1.0, 1.0)])
    expect(told(page)).to_contain_text("rows 13–24, columns 10–24", timeout=LONG)
    expect(told(page)).to_contain_text("of the evidence for zebra")
    assert outline(page)[0] == pytest.approx((0.5, 0.375), abs=0.01)

    report = take(page, "Report (PDF)", tmp_path)
    assert report.name == "cdam_scenes_zebra_elephant_simulated.pdf"
    with pypdfium2.PdfDocument(report) as document:
        assert len(document) == 1
        text = " ".join(document[0].get_textpage().get_text_bounded().split())
    assert "Why zebra rather than elephant?" in text
    assert "Region 1 (box over rows 13–24, columns 10–24)" in text

    zipped = take(page, "All of it", tmp_path)
    assert main(["replay", str(zipped)]) == 0
    assert capsys.readouterr().out.startswith("identical")

    page.get_by_role("button", name="Draw a lasso").click()
    drag(page, 2, [(0.1, 0.1), (0.1, 0.6), (0.5, 0.6), (0.5, 0.1)])
    expect(told(page)).to_contain_text("lasso over rows 3–12, columns 3–15", timeout=LONG)
    page.get_by_role("button", name="Inspect a patch").click()
    page.mouse.click(*at(page, 1, 0.2, 0.3))
    settle(page)
    assert page.get_by_role("spinbutton", name="Row").input_value() == "5"
    expect(told(page)).to_contain_text("lasso")


def test_a_region_is_drawn_by_keyboard_and_given_up_by_escape(visit):
    page = visit()
    page.get_by_role("button", name="Draw a box").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Draw a box")).to_have_attribute("aria-pressed", "true")
    page.locator(".maps .panels").focus()
    start = [int(page.get_by_role("spinbutton", name=name).input_value())
             for name in ("Row", "Column")]  # fmt: skip
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert len(outline(page)) == 4
    page.keyboard.press("Escape")
    assert outline(page) == []
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    row, col = start[0] - 1, start[1] - 1  # where the arrows had led before Escape
    expect(told(page)).to_contain_text(f"rows {row}–{row + 1}, column {col})", timeout=LONG)


def test_a_small_drag_is_no_region_and_a_finger_can_draw(visit):
    page = visit(width=390, color_scheme="dark")
    page.get_by_role("button", name="Draw a box").click()
    drag(page, 0, [(0.5, 0.5), (0.502, 0.502)])
    assert outline(page) == []
    drag(page, 0, [(0.25, 0.25), (0.75, 0.5)])
    expect(told(page)).to_contain_text("rows 7–18, columns 7–12", timeout=LONG)


def test_the_code_and_the_link_of_a_view(visit, base):
    page = visit("/compare?sample=dog-cat&class=cat&class=dog&method=integrated_cdam")
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.get_by_test_id("stCode")).to_contain_text("cdam.Contrast('cat', 'dog')",
                                                          timeout=LONG)  # fmt: skip
    code = page.get_by_test_id("stCode").inner_text()
    names = {}
    exec(code, names)
    assert names["e"].labels == ("cat", "dog", "cat − dog")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Permalink").click()
    expect(page.get_by_test_id("stCode").last).to_contain_text("?sample=dog-cat", timeout=LONG)
    link = page.get_by_test_id("stCode").last.inner_text().strip()
    assert link.startswith(f"{base}/compare?")
    other = visit(link.removeprefix(base))
    expect(test_browser.heading(other)).to_have_text("Why cat rather than dog?")


def test_several_pictures_come_home_as_one_file(visit, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    files = []
    for number, pixels in enumerate(noise):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append({"name": f"Mrs Jones {number}.png", "mimeType": "image/png",
                      "buffer": buffer.getvalue()})  # fmt: skip
    page = visit("/several", wait=False)
    expect(page.get_by_role("heading", name="Several pictures")).to_be_visible(timeout=LONG)
    page.locator("input[type=file]").set_input_files(files)
    expect(page.get_by_text("2 pictures here")).to_be_visible(timeout=LONG)
    assert "Jones" not in page.locator("body").inner_text()
    page.get_by_role("button", name="Explain all").click()
    expect(page.get_by_role("button", name="All of it")).to_be_visible(timeout=LONG)
    settle(page)
    assert "Jones" not in page.locator("body").inner_text()
    content = archive.unpack(take(page, "All of it", tmp_path))
    assert sorted(content) == ["Mrs-Jones-0-simulated.zip", "Mrs-Jones-1-simulated.zip",
                               "table.csv"]  # fmt: skip
    for number, file in enumerate(files):
        one = content[f"Mrs-Jones-{number}-simulated.zip"]
        assert cdam.replay(one, file["buffer"]).is_identical
    assert "Jones" not in page.url
