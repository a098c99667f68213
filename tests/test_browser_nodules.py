"""The page "Lung nodules" in a real browser: slices, maps and a region by mouse and by keyboard."""

import base64
import re

import pytest
from playwright.sync_api import expect

from tests import test_browser
from tests.test_nodules_own import SECRETS, ball, dicom

pytestmark = pytest.mark.browser

base, browser, visit, settle = (
    test_browser.base, test_browser.browser, test_browser.visit, test_browser.settle
)  # fmt: skip
LONG = 120_000  # milliseconds: two models are loaded


@pytest.fixture(autouse=True)
def deep_links(monkeypatch):
    """Streamlit's page first looks for its server below the path of a deep link."""
    address = (r"404 \(Not Found\)", r"/nodules/_stcore/(health|host-config)$")
    monkeypatch.setattr(test_browser, "ALLOWED", (*test_browser.ALLOWED, address))


def opened(visit):
    page = visit("/nodules", wait=False, width=1280, height=800)
    expect(page.get_by_role("group", name="Nearest training nodules")
           .locator("img")).to_have_count(10, timeout=LONG)
    settle(page)
    return page


def shown(page):
    """The pixels of the slice as the browser shows it."""
    return page.locator(".ct canvas").evaluate("canvas => canvas.toDataURL()")


def place(page):
    return page.locator(".ct .place")


def test_slices_by_mouse_and_keys_windows_and_another_slice_explained(visit):
    page = opened(visit)
    frame, slider = page.locator(".ct .frame"), page.get_by_role("slider", name="Slice")
    expect(place(page)).to_have_text("axial, 0.0 mm, slice 10 of 19")
    first, explained = shown(page), page.locator(".maps .picture").nth(1).get_attribute("src")
    frame.hover()
    page.mouse.wheel(0, -45)  # by wheel
    expect(place(page)).to_have_text("axial, +0.5 mm, slice 11 of 19")
    assert shown(page) != first
    frame.focus()
    page.keyboard.press("ArrowDown")  # by keys
    expect(place(page)).to_have_text("axial, 0.0 mm, slice 10 of 19")
    assert shown(page) == first
    page.keyboard.press("End")
    expect(place(page)).to_have_text("axial, +4.5 mm, slice 19 of 19")
    page.keyboard.press("m")
    slider.focus()
    page.keyboard.press("ArrowRight")  # by slider
    expect(place(page)).to_have_text("axial, +0.5 mm, slice 11 of 19")
    # A window changes the slice and nothing that the models say.
    before = shown(page)
    page.get_by_role("button", name="Mediastinum 40/400").click()
    assert shown(page) != before
    page.get_by_role("button", name="Own", exact=True).click()
    page.get_by_role("spinbutton", name="Width, HU").fill("300")
    settle(page)
    assert page.locator(".maps .picture").nth(1).get_attribute("src") == explained
    outlines = page.locator(".ct .lines polyline")
    count = outlines.count()
    page.get_by_role("button", name=re.compile("Each of . readers")).click()
    assert outlines.count() > count
    # Another slice is explained, by keyboard.
    frame.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("explained: axial slice at +0.5 mm")).to_be_visible(timeout=LONG)
    settle(page)
    assert page.locator(".maps .picture").nth(1).get_attribute("src") != explained
    # Another nodule by keyboard, and one of the neighbours by mouse.
    heading = page.get_by_text(re.compile(r"^Nodule \d+ of LIDC"))
    old = heading.inner_text()
    listed = page.get_by_role("radiogroup", name="Nodules to choose from")
    thumb = listed.get_by_role("radio").nth(1)
    thumb.focus()
    page.keyboard.press("Enter")
    expect(heading).not_to_have_text(old, timeout=LONG)
    settle(page)
    near = page.get_by_role("group", name="Nearest training nodules").get_by_role("button").first
    number = re.search(r"nodule (\d+)", near.get_attribute("aria-label")).group(1)
    near.click()
    expect(page.get_by_text(re.compile(f"^Nodule {number} of LIDC"))).to_be_visible(timeout=LONG)
    expect(page.get_by_text(re.compile("trained on, so the models say too much"))).to_be_visible()
    settle(page)


def test_ones_own_slice_is_opened_boxed_and_forgotten(visit):
    page = opened(visit)
    page.get_by_role("combobox", name="Pictures").click()
    page.get_by_role("option", name="Open your own").click()
    expect(page.get_by_text("Open a CT slice of your own")).to_be_visible(timeout=LONG)
    settle(page)
    page.locator("input[type=file]").first.set_input_files(
        {"name": "Jones Mary.dcm", "mimeType": "application/dicom",
         "buffer": dicom(ball(middle=(40, 80)))})
    picture = page.locator(".crop .frame")
    expect(picture).to_be_visible(timeout=LONG)
    settle(page)
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()

    def at(row, col):
        return box["x"] + box["width"] * col / 128, box["y"] + box["height"] * row / 128

    page.mouse.move(*at(30, 70))
    page.mouse.down()
    page.mouse.move(*at(50, 90), steps=5)
    page.mouse.up()
    expect(page.get_by_text("Your own crop")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Your box: 14 × 14 mm.")).to_be_visible(timeout=LONG)
    settle(page)
    left = page.get_by_role("spinbutton", name="From the left, mm")
    assert float(left.input_value()) == pytest.approx(80 * 0.7, abs=0.6)
    before = shown(page)
    left.fill("50")  # by keyboard
    page.keyboard.press("Enter")
    expect(page.get_by_text("Your box")).to_have_count(0, timeout=LONG)
    settle(page)
    assert shown(page) != before
    with page.expect_download(timeout=LONG) as waiting:
        page.get_by_role("button", name="Report: malignancy (PDF)").click()
    assert "own_research-use-only" in waiting.value.suggested_filename
    seen = page.content() + page.url + waiting.value.suggested_filename
    assert not [secret for secret in SECRETS if secret in seen]
    assert base64.b64encode(b"Jones").decode() not in seen
    page.get_by_role("button", name="Forget my files").click()
    expect(page.get_by_text("Open a CT slice of your own")).to_be_visible(timeout=LONG)
    settle(page)
