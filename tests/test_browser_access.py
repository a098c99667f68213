"""Signing in and out, and too many files, in a real browser.

python -m pytest -m long tests/test_browser_access.py
"""

import re

import pytest
from playwright.sync_api import expect

from scripts import load
from tests import test_access, test_browser

pytestmark = [pytest.mark.browser, pytest.mark.long]

browser, oidc = test_browser.browser, test_access.oidc
LONG = 120_000  # milliseconds
SMALL = "[uploads]\nfile_mb = 1\nsession_mb = 2\nminute_mb = 2"


@pytest.fixture
def page(browser):
    """A fresh visit."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


def picture(n_bytes):
    """A picture, and after its end as many zeros as are missing."""
    content = load._png(1)
    return {"name": "a.png", "mimeType": "image/png",
            "buffer": content + bytes(n_bytes - len(content))}  # fmt: skip


def test_in_and_out_and_too_many_files(tmp_path, oidc, page):
    def settings(home):
        return oidc(url=provider.url, home=home) + SMALL

    with test_access.Provider() as provider, test_access.server(tmp_path, settings) as app:
        provider.email = "eve@elsewhere.example"
        page.goto(f"{app.url}/compare")
        expect(page.get_by_text("Please sign in to use CDAM Explorer.")).to_be_visible()
        page.get_by_role("link", name="Sign in").click()
        expect(page.get_by_text("You are known here as eve@elsewhere.example")).to_be_visible()
        provider.email = "anna@clinic.example"
        page.get_by_role("link", name="Sign in as somebody else").click()
        page.get_by_role("link", name="Sign in").click()
        expect(page.get_by_text("Signed in as anna@clinic.example")).to_be_visible(timeout=LONG)
        expect(page.locator(".maps .picture").first).to_be_visible(timeout=LONG)
        # a file within bounds, and the sentence for one more in the same minute
        inputs = page.locator("input[type=file]").first
        inputs.set_input_files(picture(900_000))
        mine = page.get_by_role("button", name="Forget my picture")
        expect(mine).to_be_visible(timeout=LONG)
        for _ in range(2):
            page.wait_for_timeout(3000)
            page.locator("input[type=file]").first.set_input_files(picture(900_000))
        told = page.get_by_test_id("stAlert").filter(has_text="2 MB may be sent within a minute")
        expect(told).to_be_visible(timeout=LONG)
        # out, in every tab of this browser
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("Please sign in to use CDAM Explorer.")).to_be_visible()
        assert provider.signed_out == 2
        page.goto(f"{app.url}/compare")
        expect(page.get_by_role("link", name="Sign in")).to_have_attribute(
            "href", re.compile("auth/login$"))  # fmt: skip
