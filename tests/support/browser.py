"""A person with a browser at `ffruntime serve`: Chromium through Playwright, and a hand that draws with strokes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

Stroke = Sequence[tuple[float, float]]  # points, in hundredths of the paper

DIGITS: dict[str, Sequence[Stroke]] = {
    "0": [[(50, 14), (32, 24), (26, 50), (33, 76), (50, 86), (67, 76), (74, 50), (68, 24), (50, 14)]],
    "1": [[(52, 12), (50, 50), (48, 88)]],
    "2": [[(28, 30), (38, 16), (58, 15), (70, 28), (64, 46), (30, 84), (50, 80), (76, 84)]],
    "3": [[(30, 22), (45, 14), (62, 20), (64, 34), (46, 46), (64, 56), (66, 72), (48, 86), (28, 78)]],
    "4": [[(34, 14), (28, 50), (70, 50)], [(66, 14), (64, 88)]],
    "6": [[(60, 12), (38, 32), (28, 62), (38, 84), (58, 84), (68, 68), (56, 54), (34, 62)]],
    "7": [[(26, 18), (74, 16), (60, 48), (46, 88)]],
}
ZIGZAG: Stroke = [(20, 20), (80, 26), (20, 42), (80, 54), (20, 68), (80, 82)]  # no digit


def chromium() -> str | None:
    """Where Chromium is, if it is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser, headless. Without its sandbox where root runs it, who may not have one."""
    root = os.name == "posix" and os.geteuid() == 0
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"] if root else [], timeout=120_000
        )
        try:
            yield found
        finally:
            found.close()


class Server:
    """`ffruntime serve` in a process of its own, which can be killed as by a lost power supply."""

    def __init__(self, model: Path, state: Path) -> None:
        command = [sys.executable, "-m", "ffruntime", "serve", "--port", "0", "--json"]
        self.process = subprocess.Popen(
            [*command, "--model", str(model), "--state", str(state)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address: str = json.loads(self.process.stdout.readline())["address"]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        """Ends it in order; its exit code."""
        self.process.terminate()
        return self.process.wait(60)


def opened(page: Page, address: str) -> list[str]:
    """The page, ready; what it complains about is collected in the list."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.locator("#rooms").wait_for(timeout=60_000)
    return complaints


def draw(page: Page, strokes: Sequence[Stroke]) -> None:
    """Draws on the empty paper."""
    paper = page.locator("#paper")
    page.locator("#clear").click()
    paper.scroll_into_view_if_needed()
    box: Any = paper.bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"] / 100, box["y"] + y * box["height"] / 100) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=3)
        page.mouse.up()


def shifted(stroke: Stroke, number: int) -> Stroke:
    """The same by another hand: a little moved and askew."""
    return [(x + number - 2 + 0.03 * number * (y - 50), y + 2 - number) for x, y in stroke]
