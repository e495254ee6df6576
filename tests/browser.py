"""A real Chromium for tests: found where Debian or Google put it; where there is none, tests say so, and CI fails."""

import os
import shutil
from contextlib import contextmanager

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "no chromium or chrome on this machine: the page is not opened for real (Debian: apt-get install chromium)"


@contextmanager
def chromium():
    """Raises in CI where there is none, so that these tests cannot vanish there; skips elsewhere."""
    if PROGRAM is None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=options)
        yield browser
        browser.close()


class Tab:
    """One page that was opened, and everything that its console said."""

    def __init__(self, browser, page, **options):
        self.said = []
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(30_000)
        self.tab = self.context.new_page()
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.open(page)

    def open(self, page, fragment=""):
        self.tab.goto("about:blank")
        self.tab.goto(page.as_uri() + fragment)
        self.tab.wait_for_selector("html[data-ready=yes]")

    def column(self, place):
        """The words of a column of the table, as shown."""
        return self.tab.locator(f"#rows tbody td:nth-child({place})").all_inner_texts()

    def asked(self, words):
        """Wait until the line above the table says this."""
        self.tab.locator("#count", has_text=words).wait_for()

    def fits(self):
        """Nothing is wider than the screen."""
        return self.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
