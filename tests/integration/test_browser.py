"""The page of `ffruntime serve` in a real browser: drawn on, taught, started again after a lost power supply."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ffruntime.core.shipped import MODEL

if find_spec("playwright") is None or find_spec("uvicorn") is None:
    pytest.skip("needs the extra test: playwright and uvicorn", allow_module_level=True)

from browser import DIGITS, ZIGZAG, Server, browser, chromium, draw, opened, shifted
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.posix,
    pytest.mark.skipif(chromium() is None, reason="no Chromium here (apt-get install chromium)"),
]
PHONE = {"width": 360, "height": 740}
LONG = 120_000  # ms, on a busy machine


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Starts a server of the model that comes with ffruntime; the state stays from one to the next."""
    shutil.copytree(MODEL, tmp_path / "digits.ff")
    running: list[Server] = []

    def serve() -> Server:
        running.append(Server(tmp_path / "digits.ff", tmp_path / "digits.state"))
        return running[-1]

    yield serve
    for server in running:
        if server.process.poll() is None:
            server.kill()


def says(page: Page, label: str) -> None:
    expect(page.locator("#verdict")).to_have_text(label, timeout=LONG)


def test_a_symbol_never_seen_is_taught_and_survives_a_lost_power_supply(
    chrome: Browser, start: Callable[[], Server]
) -> None:
    """On a phone: a three is a three; five zigzags make a class; the update after it is cut off by a kill."""
    server = start()
    page = chrome.new_context(viewport=PHONE, has_touch=True, is_mobile=True).new_page()
    complaints = opened(page, server.address)
    draw(page, DIGITS["3"])
    says(page, "3")
    page.locator("#why").click()
    expect(page.locator("#evidence img").first).to_be_visible(timeout=LONG)

    for number in range(5):
        draw(page, [shifted(ZIGZAG, number)])
        if number < 4:
            page.locator("#keep").click()
            expect(page.locator("#tray li")).to_have_count(number + 1)
    page.locator("#name").fill("<b>zig & zag</b>")
    page.locator("#learn").click()
    expect(page.locator("#doing")).to_contain_text("done, 5 stored safely", timeout=LONG)
    expect(page.locator("#examples img")).to_have_count(5, timeout=LONG)
    draw(page, [shifted(ZIGZAG, 5)])
    says(page, "<b>zig & zag</b>")
    for digit, strokes in DIGITS.items():
        draw(page, strokes)
        says(page, digit)

    page.locator("#rehearse").click()
    expect(page.locator("#progress")).to_be_visible(timeout=LONG)
    server.kill()
    server = start()
    again = opened(page, server.address)
    expect(page.locator("#examples img")).to_have_count(5, timeout=LONG)
    draw(page, [shifted(ZIGZAG, 6)])
    says(page, "<b>zig & zag</b>")

    page.locator("#reset").click()
    expect(page.locator("#sure")).to_contain_text("5 examples", timeout=LONG)
    page.locator("#sure button").first.click()
    expect(page.locator("#examples img")).to_have_count(0, timeout=LONG)
    expect(page.locator("#status")).to_contain_text("0 taught here", timeout=LONG)
    assert [line for line in complaints + again if "ERR_" not in line] == []  # the connection that was lost
    assert server.end() == 143


def test_keyboard_alone_and_a_narrow_page(chrome: Browser, start: Callable[[], Server]) -> None:
    """A seven without a mouse; every control has a name; nothing is wider than the phone, in the dark, too."""
    page = chrome.new_context(viewport=PHONE, color_scheme="dark").new_page()
    complaints = opened(page, start().address)
    page.locator("#paper").focus()
    for key, times in ((" ", 1), ("ArrowRight", 6), ("ArrowDown", 4), ("ArrowLeft", 1), ("ArrowDown", 7), (" ", 1)):
        for _ in range(times):
            page.keyboard.press(key)
    says(page, "7")
    name = "e => (e.getAttribute('aria-label') || e.innerText || e.labels?.[0]?.innerText || '').trim()"
    for control in page.locator("button:visible, input:visible, a:visible").all():
        assert control.evaluate(name)
    assert page.locator("html").evaluate("e => e.scrollWidth") <= PHONE["width"]
    background = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert background == "rgb(20, 23, 27)"
    assert complaints == []
