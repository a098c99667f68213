"""Take the README's picture from the running app.

Start the app in one terminal (``streamlit run app.py``) and this script in another.
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TARGET = Path(__file__).parent.parent / "docs" / "screenshot.png"
WINDOW = {"width": 1280, "height": 800}


def take(url: str) -> Image.Image:
    """The page at ``url`` once its maps are drawn, in the light theme."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit("Install Chromium or Chrome first; this script needs a browser.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_context(viewport=WINDOW, color_scheme="light").new_page()
        page.goto(url)
        page.locator(".maps .picture").nth(3).wait_for()
        page.wait_for_timeout(1500)  # fonts and fading in
        content = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(content)).convert("RGB")


def main() -> None:
    """Read the arguments, take the picture, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="the running app")
    parser.add_argument("--sample", default="", help="id of a sample; empty: the first one")
    parser.add_argument("--out", type=Path, default=TARGET, help="PNG to write")
    options = parser.parse_args()
    picture = take(f"{options.url}/?sample={options.sample}")
    picture.save(options.out, optimize=True)  # all colours: a palette would change the maps
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
