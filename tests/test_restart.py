"""A server that ends and starts again under an open tab, in a real browser.

python -m pytest -m long tests/test_restart.py
"""

import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from pages import _visits
from scripts import load
from scripts.serving import App
from tests.test_browser import BROWSERS, FLAGS, maps, settle

pytestmark = [pytest.mark.long, pytest.mark.browser]
TOLD = "Please open your pictures again"
WAIT = 120_000  # milliseconds


def sources(page) -> list[str]:
    return page.locator(".maps .picture img").evaluate_all("all => all.map(each => each.src)")


def test_an_open_tab_is_told_and_shows_no_map_of_before(tmp_path):
    picture = tmp_path / "own.png"
    picture.write_bytes(load._png(3))
    app = App(tmp_path, env={"OMP_NUM_THREADS": "1"})
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with app, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page()
        page.goto(app.url)
        expect(maps(page)).to_have_count(4, timeout=WAIT)
        before_upload = sources(page)
        page.locator("input[type=file]").first.set_input_files(picture)
        expect(page.get_by_role("button", name="Forget my picture")).to_be_visible(timeout=WAIT)
        settle(page)
        anyway = page.get_by_text("Show the maps anyway")
        if anyway.count():
            anyway.click()
        expect(maps(page)).to_have_count(4, timeout=WAIT)
        settle(page)
        own = sources(page)
        assert set(own).isdisjoint(before_upload)
        other = browser.new_page()
        other.goto(app.url + "/concepts")
        expect(other.get_by_role("heading", level=1)).to_be_visible(timeout=WAIT)

        app.stop("kill")
        # In between nothing looks alive: a dialog, and every control is switched off.
        expect(page.get_by_text("Connection error")).to_be_visible(timeout=WAIT)
        expect(page.get_by_role("button", name="Forget my picture")).to_be_disabled()

        app.start()
        for each in (page, other):  # untouched: nobody has clicked
            expect(each.get_by_text(TOLD)).to_be_visible(timeout=WAIT)
        expect(page.get_by_text("Connection error")).to_have_count(0)
        expect(maps(page)).to_have_count(4, timeout=WAIT)
        settle(page)
        assert set(sources(page)).isdisjoint(own)
        assert page.get_by_role("button", name="Forget my picture").count() == 0
        assert other.url.split("?")[0].endswith("/concepts")

        page.get_by_role("button", name="OK").click()
        expect(page.get_by_text(TOLD)).to_have_count(0, timeout=WAIT)
        browser.close()
    assert TOLD in _visits.RESET
