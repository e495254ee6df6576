"""A report that follows its run: served on this machine, or a file that is written again."""

import http.client
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Tab, chromium
from conftest import sentence
from recorded import baseline, journal, record
from report_page import HOSTILE, Page

from ideator_rl.report.page import Live, write_report
from ideator_rl.report.serve import LivePage, ReportServer
from ideator_rl.storage.journal import Journal


@pytest.fixture
def folder(tmp_path):
    """A run that has begun: one outcome is missing."""
    steps = [[record("a", value=3.0, idea=HOSTILE), record("b", value=2.5)], [None, None]]
    return journal(tmp_path, steps, [baseline(0, 4.0), baseline(1, 4.1)])


class Fixed:
    """A page that costs nothing to make."""

    def page(self):
        return "<p>the page</p>"

    def version(self):
        return "1"


@contextmanager
def served(page):
    """The page, and the URL that it is served at."""
    server = ReportServer(page)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield page, server.url
    finally:
        server.close()
        thread.join()


def get(url, path=None, host=None, method="GET"):
    """Status, headers and text of one request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.request(method, parts.path if path is None else path, headers={"Host": host or parts.netloc})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def settle(folder, step, position, experiment):
    book = Journal(folder / "buffer.sqlite")
    book.settle(step, position, experiment)
    book.close()


def test_the_served_page_is_new_when_the_run_has_news_and_final_when_it_has_ended(folder, monkeypatch):
    monkeypatch.setattr("ideator_rl.report.serve.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("ideator_rl.report.serve.RENDER_SHARE", 1e9)
    with served(LivePage([folder])) as (_, url):
        assert url.startswith("http://127.0.0.1:")
        status, headers, first = get(url)
        assert status == 200 and headers["Cache-Control"] == "no-store" and headers["X-Frame-Options"] == "DENY"
        assert 'data-live="poll"' in first and "connect-src 'self'" in first
        version = get(url + "version")[2]
        assert f'data-version="{version}"' in first and get(url)[2] == first
        for position in range(2):
            settle(folder, 1, position, record(f"new{position}", value=1.5 - position))
        assert get(url + "version")[2] != version
        second = get(url)[2]
        assert len(Page(second).table["rows"]["n"]) == 6 and "data-live" not in second, "no outcome is missing any more"


def test_a_request_needs_the_token_and_a_host_of_this_machine():
    with served(Fixed()) as (_, url):
        parts = urlsplit(url)
        for path in (
            "/",
            "/version",
            "//version",
            "/x" + parts.path,
            parts.path.lower().swapcase(),
            "/%2e%2e/",
            "http://a/",
        ):
            status, _, body = get(url, path)
            assert status == 403 and "<" not in body, path
        for host in ("evil.example", f"evil.example:{parts.port}", "127.0.0.1.evil.example", f"0.0.0.0:{parts.port}"):
            assert get(url, host=host)[0] == 403, host
        for host in ("localhost", "localhost:9999", f"127.0.0.1:{parts.port}"):
            assert get(url + "version", host=host)[0] == 200, host
        assert get(url, parts.path + "buffer.sqlite")[0] == 404 and get(url, parts.path + "../")[0] == 404
        assert get(url, method="POST")[0] == 501
        assert parts.path.strip("/") not in str(get(url)[1]) + get(url)[2], "the page does not hold its own token"


class Slow(Fixed):
    """A page whose second request waits, or fails."""

    def __init__(self, error=None):
        self.asked, self.go_on, self.error, self.count = threading.Event(), threading.Event(), error, 0

    def page(self):
        self.count += 1
        if self.count > 1:  # the server asks once before it begins
            self.asked.set()
            assert self.go_on.wait(60)
            if self.error:
                raise self.error
        return super().page()


def test_a_tab_that_is_closed_while_its_page_is_made_leaves_no_traceback(capsys):
    page, ended = Slow(), threading.Event()
    server = ReportServer(page)
    shutdown_request = server._server.shutdown_request
    server._server.shutdown_request = lambda request: (shutdown_request(request), ended.set())
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port)) as tab:
            tab.sendall(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
            assert page.asked.wait(60)
            tab.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at once
        page.go_on.set()
        assert ended.wait(60)
    finally:
        server.close()
        thread.join()
    assert capsys.readouterr().err == ""


def test_a_report_that_cannot_be_made_is_an_answer_with_the_reason(capsys):
    page = Slow(ValueError("not a number"))
    page.go_on.set()
    with served(page) as (_, url):
        status, _, body = get(url)
    assert (status, body) == (500, "The report cannot be made (ValueError: not a number).\n")
    assert capsys.readouterr().err == ""


def test_every_server_has_a_token_of_its_own():
    tokens = set()
    for _ in range(2):
        server = ReportServer(Fixed())
        tokens.add(urlsplit(server.url).path)
        server._server.server_close()
    assert len(tokens) == 2 and all(len(token) > 30 for token in tokens)


def test_a_port_that_is_taken_and_options_that_do_not_go_together_are_refused(call, folder):
    server = ReportServer(Fixed())
    port = urlsplit(server.url).port
    assert f"{port} cannot be used" in sentence(*call("report", folder, "--serve", "--port", port)[::2])
    server._server.server_close()
    assert "--serve too" in sentence(*call("report", folder, "--port", "8000")[::2])
    assert "Leave --watch out" in sentence(*call("report", folder, "--serve", "--watch")[::2])
    assert "holds no run" in sentence(*call("report", folder / "nothing", "--serve")[::2])


@pytest.mark.slow
def test_a_watched_page_loads_itself_again_until_the_run_has_ended(call, folder, monkeypatch, tmp_path):
    out, pages = tmp_path / "live.html", []
    monkeypatch.setattr("ideator_rl.cli.report.find_trainer", lambda _: None if len(pages) > 1 else object())
    monkeypatch.setattr("ideator_rl.cli.report.time.sleep", lambda _: pages.append(out.read_text()))
    assert call("report", folder, "--watch", "--out", out)[0] == 0
    assert len(pages) == 2 and all('data-live="reload"' in page and "connect-src" not in page for page in pages)
    assert all('http-equiv="refresh"' in page for page in pages), "without scripts, the browser reloads it"
    assert "data-live" not in out.read_text() and 'http-equiv="refresh"' not in out.read_text()


@pytest.mark.slow
def test_ctrl_c_ends_the_server_and_leaves_the_run(folder):
    script = Path(sys.executable).with_name("ideator-rl")
    command = [str(script), "report", str(folder), "--serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().strip()
        assert get(url)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and "nothing was changed" in process.stderr.read()
        with pytest.raises(ConnectionRefusedError):
            get(url)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_in_a_browser_the_page_follows_the_run_and_the_reader_keeps_the_place(folder, monkeypatch):
    monkeypatch.setattr("ideator_rl.report.serve.LOOK_SECONDS", 0.3)
    monkeypatch.setattr("ideator_rl.report.serve.RENDER_SHARE", 1e9)
    with chromium() as browser, served(LivePage([folder])) as (_, url):
        tab = Tab(browser, url, viewport={"width": 700, "height": 500})
        tab.page.select_option("#f-status", label="succeeded (4)")
        tab.wait_for_count("4 of 6")
        tab.page.click("#rows th button >> text=height")
        tab.page.evaluate("document.activeElement.blur(); scrollTo(0, 900)")
        settle(folder, 1, 0, record("c", value=1.0))
        tab.wait_for_count("5 of 6")
        assert tab.page.get_attribute("#rows th:nth-child(3)", "aria-sort") == "ascending"
        tab.page.wait_for_function("scrollY === 900")
        assert tab.console == []
        # On an experiment's own page, too; and it stops when no outcome is missing any more.
        tab.page.wait_for_function("location.hash = '#idea=0:a'")  # the page may be loading itself again
        tab.page.locator("#idea-view h1").wait_for()
        settle(folder, 1, 1, record("d", "failed", error={"kind": "x", "message": HOSTILE}))
        tab.page.wait_for_selector("html:not([data-live])", state="attached")
        tab.page.locator("#idea-view h1").wait_for()
        assert "#idea=0:a" in tab.page.url and tab.console == []
        tab.context.close()


@pytest.mark.slow
def test_a_file_that_is_written_again_shows_the_news(tmp_path):
    folder = journal(tmp_path, [[record("a", value=3.0)], [None]], [baseline(0, 4.0)])
    out = tmp_path / "live.html"
    write_report([folder], out, live=Live("reload", 0.3))
    with chromium() as browser:
        tab = Tab(browser, out)
        tab.wait_for_count("3 experiments.")
        settle(folder, 1, 0, record("b", value=1.0))
        write_report([folder], out)
        tab.page.wait_for_selector("html:not([data-live])", state="attached")
        started = tab.page.evaluate("performance.timeOrigin")
        time.sleep(1.5)
        assert tab.page.evaluate("performance.timeOrigin") == started, "the last page does not load itself again"
        assert re.search("1.0000", tab.page.locator("#rows").inner_text()) and tab.console == []
        tab.context.close()
