"""A real Chromium for tests, as Debian or Google install it; without one, tests are skipped, and CI fails."""

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
    """An open page, and the messages of its console."""

    def __init__(self, browser, file, **options):
        self.console = []
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.open(file)

    def open(self, file, fragment=""):
        self.page.goto("about:blank")
        self.page.goto((file if isinstance(file, str) else file.as_uri()) + fragment)
        self.page.wait_for_selector("html[data-ready=yes]")

    def column(self, number):
        """The texts of a column of the table."""
        return self.page.locator(f"#rows tbody td:nth-child({number})").all_inner_texts()

    def wait_for_count(self, text):
        """Wait until the line above the table has this text."""
        self.page.locator("#count", has_text=text).wait_for()

    def fits(self):
        """Nothing is wider than the screen."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
