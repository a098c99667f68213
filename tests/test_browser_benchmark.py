"""The page "Benchmark" in a real browser: a finished run, its files, and a run of one's own."""

import io
import re
import shutil
import zipfile

import pytest
from playwright.sync_api import expect, sync_playwright

import cdam_core as cdam
from cdam_core.benchmarks import datasets, reading
from pages import _benchmark_runs as runs_page
from scripts.serving import App
from tests import runs
from tests.test_browser import BROWSERS, FLAGS

pytestmark = pytest.mark.browser
WAIT = 120_000  # milliseconds; generous, for a busy machine


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of runs, with one on the shipped pairs of objects."""
    folder = tmp_path_factory.mktemp("runs")
    data = datasets.open_data(cdam.load_model("scenes"), "scenes:pairs")
    about = runs.ABOUT | {"data": runs.ABOUT["data"] | {"digest": data.digest}}
    rows = runs.pairs(4, names=[item.id for item in data.items[:4]])
    runs.write(folder / "20260101-000000-abcdef", rows, about)
    return folder


@pytest.fixture(scope="module")
def app(shared, tmp_path_factory):
    app = App(tmp_path_factory.mktemp("server"),
              env={"OMP_NUM_THREADS": "1", runs_page.VARIABLE: str(shared)})  # fmt: skip
    with app:
        yield app


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"expected one of {', '.join(BROWSERS)}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        expect.set_options(timeout=WAIT)
        yield browser
        expect.set_options(timeout=None)
        browser.close()


def open_page(browser, app, width=1280, scheme="light"):
    page = browser.new_context(viewport={"width": width, "height": 900},
                               color_scheme=scheme).new_page()  # fmt: skip
    page.set_default_timeout(WAIT)
    page.bad, page.hosts = [], set()
    page.on("pageerror", lambda error: page.bad.append(str(error)))
    page.on("request", lambda request: page.hosts.add(request.url.split("/")[2])
            if request.url.startswith(("http", "ws")) else None)  # fmt: skip
    page.goto(f"{app.url}/benchmark")
    expect(page.get_by_text("Correctness: fidelity and box sensitivity")).to_be_visible()
    return page


def test_a_finished_run_is_read_taken_home_and_brought_back(browser, app, shared):
    page = open_page(browser, app)
    expect(page.get_by_test_id("stDataFrame").first).to_be_visible()
    page.get_by_role("tab", name="Curves").click()
    legend = page.locator(".st-key-benchmark\\.chart .legendtext, .legendtext")
    expect(legend.filter(has_text="Partial LRP")).to_be_visible()
    expect(legend.filter(has_text="Random order")).to_be_visible()
    page.get_by_role("tab", name="Best and worst pictures").click()
    cards = page.get_by_test_id("stImage").locator("visible=true")
    expect(cards).to_have_count(8)
    with page.expect_download() as found:
        page.get_by_role("button", name="All of it (ZIP)").click()
    assert re.fullmatch(r"benchmark_simulated_20260101-000000-abcdef\.zip",
                        found.value.suggested_filename)  # fmt: skip
    path = found.value.path()
    content = path.read_bytes()
    run, = shared.glob("20260101-*")
    assert len(reading.read_zip(content)) == len(reading.read_folder(run))
    assert "figures/fidelity.png" in zipfile.ZipFile(io.BytesIO(content)).namelist()
    page.get_by_text("Load a run from a file").click()
    page.locator("input[type=file]").first.set_input_files(
        {"name": "Mrs Jones.zip", "mimeType": "application/zip", "buffer": content})
    expect(page.get_by_role("combobox", name="Run")).to_have_value("The run that you have loaded")
    expect(page.get_by_text("Jones")).to_have_count(0)
    page.get_by_role("tab", name="Best and worst pictures").click()
    page.get_by_role("button", name="Compare", exact=True).locator("visible=true").first.click()
    expect(page.get_by_role("img", name=re.compile("^Map of ")).first).to_be_visible()
    assert "/compare" in page.url
    assert page.bad == []
    assert page.hosts == {app.url.split("/")[2]}


def test_a_run_is_started_watched_stopped_and_offered_again(browser, app, shared):
    page = open_page(browser, app, width=390, scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_text("Start a run").click()
    page.get_by_label("Pictures at most").fill("2")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("At work:")).to_be_visible()
    other = open_page_of_another(browser, app)
    expect(other.get_by_text("At work:")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    for each in (page, other):  # the other one sees it without a click
        expect(each.get_by_text("This run was stopped")).to_be_visible()
        expect(each.get_by_role("button", name="Go on")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not list(shared.glob("*/pid"))
    assert page.bad == []


def open_page_of_another(browser, app):
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{app.url}/benchmark")
    return page
