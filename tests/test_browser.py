"""The running app in a real browser: what only a browser shows.

Chromium or Chrome must be installed; nothing is downloaded. Every test also checks that the
console stays clean and that no other host is asked for anything.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

import cdam_core as cdam
from pages._frame import PAGES
from pages._samples import samples
from tests.test_checkpoints import save_with_metadata, vit

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SMALL = "small.safetensors"  # a checkpoint in the server's folder of models
WAIT = 20_000  # milliseconds; generous, for a busy machine

# Not every broken rule of the Content-Security-Policy reaches the console by itself.
TELL_BROKEN_RULES = """addEventListener("securitypolicyviolation", rule =>
    console.error(`broken rule: ${rule.violatedDirective} ${rule.blockedURI}`))"""

# (text, address) of console errors that are no faults, and why.
ALLOWED = (
    # Opened by a deep link, Streamlit's page first looks for its server below that path.
    (r"404 \(Not Found\)", r"/(compare|_state)/_stcore/(health|host-config)$"),
    # And it reports an address that is no page, besides telling the visitor.
    (r"page that you have requested does not seem to exist", r"/static/js/"),
)


# ---- server and browser --------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Address of a freshly started server."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log.txt"
    models = tmp_path_factory.mktemp("models")
    names = ["zebra", "elephant", "bee", "cat", "dog"]
    save_with_metadata(vit(), models / SMALL, class_names=names)
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port),
               "--server.headless", "true"]
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out,
                                  env=os.environ | {"CDAM_MODELS": str(models)})
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while not answers(f"{url}/_stcore/health"):
                alive = server.poll() is None and time.monotonic() < deadline
                assert alive, f"The server did not start:\n{log.read_text()}"
                time.sleep(0.3)
            yield url
        finally:
            server.terminate()
            server.wait(120)  # jobs at work are finished
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(
            "These tests need a browser: install Chromium or Chrome so that one of "
            f"{', '.join(BROWSERS)} is on the PATH, or leave them out with -m 'not browser'."
        )
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def visit(browser, base):
    """Open an address in a fresh visit; checked for noise when the test is over."""
    visits = []

    def open_page(path="/", width=1280, height=800, wait=True, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.add_init_script(TELL_BROKEN_RULES)
        page = context.new_page()
        noise, hosts = [], set()
        page.on("console", lambda message: noise.append(
            (message.type, message.text, message.location.get("url", ""))))
        page.on("pageerror", lambda error: noise.append(("error", str(error), "")))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2])
                if request.url.startswith(("http", "ws")) else None)
        page.on("websocket", lambda socket: hosts.add(socket.url.split("/")[2]))
        visits.append((context, noise, hosts))
        page.goto(base + path)
        if wait:
            expect(maps(page)).to_have_count(4, timeout=WAIT)
            settle(page)
        return page

    yield open_page
    for context, noise, hosts in visits:
        context.close()
        assert hosts == {base.split("/")[2]}
        assert [entry for entry in noise if entry[0] == "error" and not allowed(entry)] == []


def allowed(entry) -> bool:
    return any(re.search(text, entry[1]) and re.search(url, entry[2]) for text, url in ALLOWED)


def settle(page) -> None:
    """Wait until the server has nothing left to do for this page."""
    page.wait_for_timeout(300)  # until the server has heard of it
    expect(page.get_by_test_id("stApp")).to_have_attribute(
        "data-test-script-state", "notRunning", timeout=WAIT)


def maps(page):
    return page.locator(".maps .picture")


def heading(page):
    return page.get_by_role("heading", level=1)


def number(page, name: str) -> int:
    return int(page.get_by_role("spinbutton", name=name).input_value())


def patch_centre(page, panel: int, row: int, col: int, grid=(24, 24)) -> tuple[float, float]:
    box = page.locator(".maps .frame").nth(panel).bounding_box()
    return (box["x"] + box["width"] * (col + 0.5) / grid[1],
            box["y"] + box["height"] * (row + 0.5) / grid[0])


def png(seed: int, size=(300, 200)) -> dict:
    """A picture of one's own, as the upload wants it, with a name that must not be shown."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return {"name": "Mrs Jones.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def show_anyway(page) -> None:
    """A picture of noise is unlike the training data; look at its maps all the same."""
    settle(page)
    if page.get_by_text("Show the maps anyway").count():
        page.get_by_text("Show the maps anyway").click()
    expect(maps(page)).to_have_count(4, timeout=WAIT)
    settle(page)


# ---- opening -------------------------------------------------------------------------------------


def test_a_deep_link_works_as_the_very_first_request(visit):
    sample = list(samples())[-1]
    page = visit(f"/compare?sample={sample}&class=owl&class=cat")
    expect(heading(page)).to_have_text("Why owl rather than cat?")
    expect(page.get_by_test_id("stSidebarLogo").or_(page.get_by_test_id("stLogo")).first
           ).to_be_visible()
    expect(page.get_by_text("no medical device")).to_be_attached()
    expect(page.locator('.gallery [aria-checked="true"]')).to_have_attribute("data-id", sample)


def test_an_unlisted_file_is_no_page(visit):
    page = visit("/_state", wait=False)
    expect(page.get_by_text("Page not found")).to_be_visible(timeout=WAIT)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_maps_are_seen_without_scrolling(visit):
    page = visit()
    for index in range(4):
        box = page.locator(".maps .frame").nth(index).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 800
        assert box["width"] >= 150
    assert page.locator(".maps .low").bounding_box()["y"] < 800


def test_every_picture_has_words_and_every_control_a_name(visit):
    page = visit()
    missing = """() => {
        const found = [];
        const walk = (root) => root.querySelectorAll("*").forEach((node) => {
            if (node.tagName === "IMG" && !node.hasAttribute("alt")) found.push(node.outerHTML);
            if (node.shadowRoot) walk(node.shadowRoot);
        });
        walk(document);
        return found;
    }"""
    assert page.evaluate(missing) == []
    alts = maps(page).evaluate_all("nodes => nodes.map((node) => node.alt)")
    assert all(len(alt) > 10 for alt in alts)
    for role, names in {
        "combobox": ("Model", "A: why", "B: … rather", "More classes", "Method", "Head", "Colours"),
        "spinbutton": ("Row", "Column"), "slider": ("Opacity",),
        "radiogroup": ("Sample pictures",), "application": ("Patches of all maps",),
    }.items():
        for name in names:
            assert page.get_by_role(role, name=name).count() >= 1, (role, name)


# ---- choosing ------------------------------------------------------------------------------------


def test_a_sample_is_one_click_away(visit):
    page = visit()
    before = maps(page).first.get_attribute("src")
    page.locator(".gallery .choice").nth(1).click()
    expect(maps(page).first).not_to_have_attribute("src", before, timeout=WAIT)
    expect(page).to_have_url(re.compile(f"sample={list(samples())[1]}&"), timeout=WAIT)
    expect(page.locator(".gallery .choice").nth(1)).to_have_attribute("aria-checked", "true")
    page.locator(".gallery .choice").nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"sample={list(samples())[2]}&"), timeout=WAIT)


def test_classes_are_found_by_typing(visit):
    page = visit("/?class=zebra&class=elephant")
    expect(heading(page)).to_have_text("Why zebra rather than elephant?")
    page.get_by_role("combobox", name="B: … rather").click()
    page.keyboard.type("guit")
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("Why zebra rather than guitar?", timeout=WAIT)
    page.get_by_role("combobox", name="More classes").click()
    page.keyboard.type("lion")
    page.keyboard.press("Enter")
    expect(maps(page)).to_have_count(5, timeout=WAIT)
    expect(page).to_have_url(re.compile("class=zebra&class=guitar&class=lion"), timeout=WAIT)


def test_an_upload_is_explained_and_its_file_is_gone_from_the_server(visit, base):
    page = visit()
    page.locator("input[type=file]").first.set_input_files(png(1))
    expect(page.get_by_role("button", name="Forget my picture")).to_be_visible(timeout=WAIT)
    show_anyway(page)
    assert "?" not in page.url
    assert "Jones" not in page.content()
    time.sleep(5.5)  # the server's figures are up to five seconds old
    with urllib.request.urlopen(f"{base}/_stcore/metrics") as reply:
        metrics = reply.read().decode()
    assert "cache_memory_bytes" in metrics
    assert "UploadedFileManager" not in metrics  # listed as long as it holds any file
    page.get_by_role("button", name="Forget my picture").click()
    expect(page.get_by_role("button", name="Forget my picture")).to_have_count(0, timeout=WAIT)


def test_a_picture_of_ones_own_survives_going_to_another_page(visit):
    page = visit()
    page.locator("input[type=file]").first.set_input_files(png(2))
    expect(page.get_by_role("button", name="Forget my picture")).to_be_visible(timeout=WAIT)
    show_anyway(page)
    page.get_by_role("combobox", name="A: why").click()
    page.keyboard.type("umbrel")
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text(re.compile("Why umbrella"), timeout=WAIT)
    page.get_by_role("spinbutton", name="Row").fill("7")
    page.keyboard.press("Enter")
    expect(page.locator(".maps .selected").first).to_have_attribute(
        "style", re.compile(r"top: 25%"), timeout=WAIT)
    before, question = maps(page).first.get_attribute("src"), heading(page).inner_text()
    page.get_by_role("link", name=PAGES[1].title).click()
    expect(page).to_have_url(re.compile(PAGES[1].url_path), timeout=WAIT)
    expect(heading(page)).not_to_have_text(question, timeout=WAIT)
    page.get_by_role("link", name=PAGES[0].title).click()
    show_anyway(page)
    assert maps(page).first.get_attribute("src") == before
    assert heading(page).inner_text() == question
    assert number(page, "Row") == 7


def test_a_bad_file_gets_one_clear_sentence(visit):
    page = visit()
    before = maps(page).first.get_attribute("src")
    bad = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator("input[type=file]").first.set_input_files(bad)
    expect(page.get_by_test_id("stAlert")).to_have_text(
        re.compile(r"^This is not a readable image; please use a PNG, .* file\.$"), timeout=WAIT)
    settle(page)
    assert maps(page).first.get_attribute("src") == before
    expect(page.get_by_test_id("stException")).to_have_count(0)


# ---- patches -------------------------------------------------------------------------------------


def test_a_click_on_a_patch_inspects_it(visit):
    page = visit()
    page.mouse.click(*patch_centre(page, 2, row=4, col=6))
    expect(page.get_by_role("spinbutton", name="Row")).to_have_value("5", timeout=WAIT)
    expect(page.get_by_role("spinbutton", name="Column")).to_have_value("7", timeout=WAIT)
    expect(page.locator(".maps .selected:visible")).to_have_count(4)
    settle(page)
    lists = page.locator(".bars").filter(has_text="Speaks most").all_inner_texts()
    assert len(lists) == 2
    model, sample = cdam.load_model("scenes"), next(iter(samples().values()))
    scores = cdam.explain(model, cdam.open_image(sample.file), cdam.ALL).scores[:, 4, 6]
    assert lists[0].split("\n")[1] == model.class_names[int(scores.argmax())]
    assert lists[1].split("\n")[1] == model.class_names[int(scores.argmin())]


def test_a_patch_can_be_chosen_by_keyboard(visit):
    page = visit()
    row, col = number(page, "Row"), number(page, "Column")
    page.locator(".maps .panels").focus()
    step = "ArrowLeft" if col > 8 else "ArrowRight"
    down = "ArrowUp" if row > 8 else "ArrowDown"
    for key in (step, step, down):
        page.keyboard.press(key)
    assert "Row" in page.locator(".maps .live").inner_text()
    page.keyboard.press("Enter")
    wanted = (row + (1 if down == "ArrowDown" else -1), col + (2 if step == "ArrowRight" else -2))
    expect(page.get_by_role("spinbutton", name="Row")).to_have_value(str(wanted[0]), timeout=WAIT)
    expect(page.get_by_role("spinbutton", name="Column")).to_have_value(str(wanted[1]))
    page.get_by_role("spinbutton", name="Row").fill("2")
    page.keyboard.press("Enter")
    expect(page.locator(".maps .selected").first).to_have_attribute(
        "style", re.compile(r"top: 4\.16667%"), timeout=WAIT)


def test_hovering_shows_values_and_asks_the_server_nothing(visit):
    sent = []
    page = visit(wait=False)
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.reload()
    expect(maps(page)).to_have_count(4, timeout=WAIT)
    settle(page)
    assert sent
    sent.clear()
    for row, col in ((3, 3), (4, 6), (10, 12)):
        page.mouse.move(*patch_centre(page, 1, row, col))
        expect(page.locator(".tip")).to_contain_text(f"Row {row + 1}, column {col + 1}")
        expect(page.locator(".maps .hover:visible")).to_have_count(4)
    page.mouse.move(5, 5)
    expect(page.locator(".tip")).to_be_hidden()
    assert not sent


# ---- two models ----------------------------------------------------------------------------------


def test_two_models_stand_side_by_side_and_stack_on_a_phone(visit):
    page = visit("/?sample=elephant-zebra&class=zebra&class=elephant")
    page.get_by_role("combobox", name="Second model").click()
    page.keyboard.type(SMALL[:5])
    page.keyboard.press("Enter")
    expect(maps(page)).to_have_count(6, timeout=WAIT)
    settle(page)
    boxes = [page.locator(".maps .frame").nth(index).bounding_box() for index in range(6)]
    for first, second in zip(boxes[::2], boxes[1::2], strict=True):
        assert first["y"] == second["y"]
        assert first["x"] + first["width"] < second["x"]
        assert first["width"] == second["width"] > 200
    ends = page.locator(".maps .high").all_inner_texts()
    assert ends[0::2] == [ends[0]] * 3  # a model's maps share its scale
    assert ends[1::2] == [ends[1]] * 3
    assert ends[0] != ends[1]

    page.mouse.click(*patch_centre(page, 1, row=3, col=2, grid=(4, 4)))
    rows, cols = cdam.load_model("scenes").grid
    row, col = int(rows * 3.5 / 4) + 1, int(cols * 2.5 / 4) + 1  # where the clicked one's middle is
    expect(page.get_by_role("spinbutton", name="Row")).to_have_value(str(row), timeout=WAIT)
    expect(page.get_by_role("spinbutton", name="Column")).to_have_value(str(col))
    expect(page.get_by_text(f"{SMALL}, row 4, column 3")).to_be_visible(timeout=WAIT)
    settle(page)
    name, content = download(page, "Scores (NPZ)")
    assert name.startswith("cdam_scenes_small-safetensors_zebra_elephant")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        shapes = [arrays[f"{model}.scores"].shape for model in ("scenes", "small-safetensors")]
    assert shapes == [(3, rows, cols), (3, 4, 4)]

    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()  # the address brings both models back
    expect(maps(page)).to_have_count(6, timeout=WAIT)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(".maps .frame").nth(index).bounding_box() for index in range(6)]
    assert len({box["x"] for box in boxes}) == 1
    tops, ends = ([box["y"] + part * box["height"] for box in boxes] for part in (0, 1))
    assert all(end < top for end, top in zip(ends[:-1], tops[1:], strict=True))


# ---- downloads -----------------------------------------------------------------------------------


def download(page, name: str):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_downloads_hold_the_picture_and_the_very_scores(visit):
    sample = next(iter(samples().values()))
    page = visit(f"/?sample={sample.id}&class=zebra&class=elephant")
    name, content = download(page, "Picture (PNG)")
    assert re.fullmatch(r"cdam_scenes_zebra_elephant(_simulated)?\.png", name)
    picture = Image.open(io.BytesIO(content))
    assert picture.width > 1500
    assert picture.width > 2 * picture.height

    model = cdam.load_model("scenes")
    targets = ["zebra", "elephant", cdam.Contrast("zebra", "elephant")]
    expected = cdam.explain(model, cdam.open_image(sample.file), targets)
    name, content = download(page, "Scores (NPZ)")
    assert name.endswith(".npz")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["scores"], expected.scores, atol=1e-4)
        np.testing.assert_allclose(arrays["values"], expected.values, atol=1e-4)
        made = json.loads(str(arrays["provenance"]))
    assert (made["model"], made["method"]) == ("scenes", "cdam")
    assert [target["kind"] for target in made["targets"]] == ["class", "class", "contrast"]

    _, content = download(page, "Scores (CSV)")
    lines = content.decode().splitlines()
    assert json.loads(lines[0].removeprefix("# "))["model"] == "scenes"
    assert len(lines) == 2 + expected.scores.size
    assert float(lines[2].split(",")[-1]) == pytest.approx(expected.scores[0, 0, 0], abs=1e-4)


# ---- other screens -------------------------------------------------------------------------------


def test_a_phone_shows_the_maps_and_finds_the_pictures(visit):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(".maps .frame").nth(index).bounding_box() for index in range(4)]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"]  # two and two
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    page.touchscreen.tap(*patch_centre(page, 0, row=2, col=3))
    expect(page.get_by_role("spinbutton", name="Row")).to_have_value("3", timeout=WAIT)
    page.get_by_test_id("stExpandSidebarButton").click()
    expect(page.locator(".gallery .choice").first).to_be_visible()


def luminance(colour: str) -> float:
    channels = [int(float(number)) / 255 for number in re.findall(r"[\d.]+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(visit, scheme):
    page = visit(color_scheme=scheme)
    paper = page.get_by_test_id("stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    assert (luminance(paper) < 0.1) == (scheme == "dark")
    for place in (".maps .title", ".maps .low", ".bars .name", ".gallery"):
        ink = page.locator(place).first.evaluate("node => getComputedStyle(node).color")
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, place
