"""The page of `ffruntime serve` as people see it: docs/pictures/serve-phone.png, and in the dark serve-dark.png.

    python benchmarks/serve_page.py

A phone's screen, a three drawn with a finger; then a zigzag that it was taught by five drawings. Needs Chromium,
and the extras `serve` and `test`.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from ffruntime.core.shipped import MODEL

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import DIGITS, ZIGZAG, Server, browser, draw, opened, shifted  # noqa: E402

SCREEN = {"width": 360, "height": 780}
COLOURS = 64


def photograph(page: Page, name: str) -> None:
    """What is on the screen, from the top of the page, in few colours."""
    page.locator("h1").evaluate("e => window.scrollTo(0, 0)")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS)
    picture.save(ROOT / "docs" / "pictures" / name, optimize=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        model = Path(shutil.copytree(MODEL, Path(folder) / "digits.ff"))
        server = Server(model, Path(folder) / "digits.state")
        for scheme, name in (("light", "serve-phone.png"), ("dark", "serve-dark.png")):
            page = chromium.new_context(
                viewport=SCREEN, color_scheme=scheme, device_scale_factor=2, has_touch=True, is_mobile=True
            ).new_page()
            opened(page, server.address)
            if scheme == "light":
                draw(page, DIGITS["3"])
                expect(page.locator("#verdict")).to_have_text("3")
            else:
                for number in range(5):
                    draw(page, [shifted(ZIGZAG, number)])
                    if number < 4:
                        page.locator("#keep").click()
                page.locator("#name").fill("zigzag")
                page.locator("#learn").click()
                expect(page.locator("#doing")).to_contain_text("done", timeout=60_000)
                draw(page, [shifted(ZIGZAG, 5)])
                expect(page.locator("#verdict")).to_have_text("zigzag")
            photograph(page, name)
        server.end()


if __name__ == "__main__":
    main()
