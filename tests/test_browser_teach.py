"""The page "Teach it" in a real browser: from files to a model in the comparison and in a file."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

import cdam_core as cdam
from tests import test_browser
from tests.test_pages import png

pytestmark = pytest.mark.browser

base, browser, visit, settle = (
    test_browser.base, test_browser.browser, test_browser.visit, test_browser.settle
)  # fmt: skip
LONG = 120_000  # milliseconds: pictures are embedded


@pytest.fixture(autouse=True)
def deep_links(monkeypatch):
    """Streamlit's page first looks for its server below the path of a deep link."""
    address = (r"404 \(Not Found\)", r"/teach/_stcore/(health|host-config)$")
    monkeypatch.setattr(test_browser, "ALLOWED", (*test_browser.ALLOWED, address))


def picture(colour: int, seed: int) -> dict:
    """Noise around a colour, with a name that must not be shown."""
    noise = np.random.default_rng(seed).normal(0, 30, (80, 100, 3)) + 200 * np.eye(3)[colour]
    content = png(noise.clip(0, 255).astype(np.uint8))
    return {"name": f"Mrs Jones {seed}.png", "mimeType": "image/png", "buffer": content}


def give(page, name: str, colour: int) -> None:
    """Name the class that is chosen, and hand it three pictures and a broken one."""
    page.get_by_role("textbox", name="Name of the class").fill(name)
    page.keyboard.press("Enter")
    expect(card(page, name)).to_be_visible(timeout=LONG)
    settle(page)
    files = [picture(colour, seed) for seed in range(3)]
    files.append({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.locator("input[type=file]").first.set_input_files(files)
    pictures = page.get_by_role("group", name=f"Pictures of {name}", exact=True).locator("img")
    expect(pictures).to_have_count(3, timeout=LONG)
    expect(page.get_by_test_id("stAlert")).to_contain_text("File 4: This is not a readable image")
    settle(page)


def card(page, name: str):
    return page.get_by_role("radiogroup", name="Classes").get_by_role("radio", name=name)


def test_two_classes_of_files_are_taught_compared_and_taken_home(visit, tmp_path):
    page = visit("/teach", wait=False, width=1280, height=800)
    expect(page.get_by_text("Class 1 needs 3 more pictures.")).to_be_visible(timeout=LONG)
    settle(page)
    give(page, "red", 0)
    card(page, "Class 2").focus()
    page.keyboard.press("Enter")  # by keyboard
    expect(card(page, "Class 2")).to_have_attribute("aria-checked", "true", timeout=LONG)
    settle(page)
    expect(page.get_by_role("textbox", name="Name of the class")).to_have_value("Class 2")
    give(page, "green <b>", 1)
    page.get_by_role("button", name="Teach", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="It can be asked")).to_be_visible(timeout=LONG)
    settle(page)
    expect(page.get_by_text("of 6 pictures:")).to_be_visible()
    assert "Jones" not in page.content()
    with page.expect_download(timeout=LONG) as waiting:
        page.get_by_role("button", name="Download the model").click()
    assert waiting.value.suggested_filename == "taught_red_green-b.safetensors"
    path = tmp_path / "mine.safetensors"
    path.write_bytes(Path(waiting.value.path()).read_bytes())
    model = cdam.load_model(path)
    assert model.class_names == ["red", "green <b>"]
    page.get_by_role("button", name="Open in Compare classes").click()
    expect(page.locator(".maps .picture")).to_have_count(4, timeout=LONG)
    settle(page)
    image = cdam.open_image(next(iter(test_browser.samples().values())).file)
    logits = dict(zip(model.class_names, model.logits(model.encode_image(image)).tolist(),
                      strict=True))  # fmt: skip
    a, b = sorted(logits, key=logits.get, reverse=True)
    expect(test_browser.heading(page)).to_have_text(f"Why {a} rather than {b}?")
    expect(page.locator(".maps .note").nth(1)).to_contain_text(f"{abs(logits[a]):.2f}")
    # Nobody else sees it, whatever they put into the address.
    other = visit("/compare?model=taught")
    expect(test_browser.heading(other)).to_have_text(re.compile("zebra"))
    other.get_by_role("combobox", name="Model", exact=True).click()
    expect(other.get_by_role("option", name="Everyday objects")).to_be_visible(timeout=LONG)
    expect(other.get_by_role("option", name="Taught")).to_have_count(0)
