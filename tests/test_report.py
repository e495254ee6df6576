import os
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser

import pytest
from conftest import replace_line, run
from recorded import baseline, journal, record, text

from ideator_rl.diagnostics import report, safe_text
from ideator_rl.diagnostics.records import NoRun, read_run
from ideator_rl.diagnostics.report import ReportError, write_report
from ideator_rl.experiment import FINAL
from ideator_rl.journal import Journal

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    "</details></pre></svg></title></script><script>document.title='pwned'</script>"
    "<img src=x onerror=\"document.title='pwned'\"><a href='javascript:alert(1)'>x</a>"
    "<svg onload=\"document.title='pwned'\"><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>"
    "<meta http-equiv=refresh content='0;url=https://example.org'>"
    "{{ 7 * 7 }}{% raw %} ]]> --> \u202eevil\u2066 \x1b[31mred\x00"
)


class Page(HTMLParser):
    """Tags, attributes and plain text of a page; every tag must close."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.text += data


def page_of(*folders, out=None):
    out = out or folders[0] / "report.html"
    write_report(list(folders), out)
    return out.read_text()


def words_of(html):
    return re.sub(r"\s+", " ", Page(html).text)


@pytest.fixture
def two_steps(tmp_path):
    good = record("a", value=4.25, patch="@@ -1 +1 @@\n-lr = 1\n+lr = 3")
    bad = record("c", "failed", error={"kind": "failed", "message": "boom"})
    best = record("e", value=1.5, log="loss 1.5", seconds={"run": 8.25, "cpu": 3.0})
    steps = [[good, bad], [best, record("d", "lost"), good]]
    folder = journal(tmp_path, steps, [baseline(0, 3.0), baseline(1, 5.0)])
    (folder / "recipe.yaml").write_text("env: toy\nimplementer: rules\nmax_steps: 2\nseed: 7\nhub_token: hf_abc\n")
    return folder


def test_the_figures_of_the_report_are_those_of_the_records(two_steps):
    words = words_of(page_of(two_steps))
    run = read_run(two_steps)
    assert f"Baseline height{run.baseline:.4f}± 1.4 (standard deviation), 3.0000 to 5.0000 over 2 runs" in words
    assert "Best idea1.5000" in words and "Gain on the baseline2.50001.8 × the baseline’s standard deviation" in words
    assert "Success rate50% → 100%step 1 → step 2" in words and "Distinct experiments3for 5 ideas proposed" in words
    assert "3 succeeded, 1 failed, 1 lost" in words
    assert "1. 1.5000" in words and "2. 4.2500" in words
    for step in run.by_step():
        assert f"{step.mean:.4f}{step.best:.4f}{step.reward:.4f}" in words
    assert "toy, preset cpu" in words and "implementer: rules" in words and "isolation: bwrap" in words


def test_every_experiment_is_a_row_with_its_idea_error_times_and_log(two_steps):
    html = page_of(two_steps)
    ids = re.findall(r'data-id="([^"]+)"', html)
    assert sorted(ids) == sorted(read_run(two_steps).experiments) and len(ids) == 6
    words = words_of(html)
    assert "failed: boom" in words and "run 8.25 s · cpu 3.00 s" in words and "loss 1.5" in words
    assert "Thought: A thought." in words and "proposed in step 1, 2" in words and "the unchanged baseline" in words
    assert '<span class="add">+lr = 3' in html and '<span class="del">-lr = 1' in html


def test_a_secret_of_the_recipe_stays_out(two_steps):
    html = page_of(two_steps)
    assert "hf_abc" not in html and "hub_token: (hidden)" in html


def test_a_real_run_of_every_way_in_is_shown(toy_buffer, tmp_path):
    run(toy_buffer.baseline())
    good = run(toy_buffer.score_patch(replace_line("x = 4.0", "x = 1.0")))
    run(toy_buffer.score(["no idea at all"], step=0))
    words = words_of(page_of(tmp_path))
    assert f"Best idea{good.metric['value']:.4f}" in words and "(a patch written by hand)" in words
    assert "+x = 1.0" in words and "malformed: This text holds no idea" in words
    assert "one run: its spread is unknown" in words


def test_an_empty_run_says_that_nothing_is_there_yet(tmp_path):
    words = words_of(page_of(journal(tmp_path, [])))
    assert "No idea succeeded." in words and "None yet." in words and "none was run" in words


def test_a_run_without_a_success_still_shows_its_outcomes(tmp_path):
    steps = [[record("a", "failed"), record("b", "timed_out")], [record("c", "rejected"), record("d", "lost")]]
    html = page_of(journal(tmp_path, steps, [baseline(0, 3.0)]))
    words = words_of(html)
    assert "No idea succeeded." in words and "0% → 0%" in words and "1 timed_out" in words
    assert "Outcomes by step" in words and "so far" not in words
    assert "Ideas lost by our own fault (machine, bucket, endpoint): 1." in words


def test_a_run_under_way_says_so_and_shows_what_is_known(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, [text("x"), text("y")])
    book.settle(0, 0, record("a", value=2.0))
    words = words_of(page_of(tmp_path))
    assert "Ideas without an outcome yet: 1." in words and "2.0000" in words and "running" in words
    assert "Gain on the baseline–not known" in words
    book.close()


def test_a_run_of_a_recipe_is_under_way_until_it_wrote_its_timings(two_steps):
    assert "Ideas without an outcome yet: 0. The run is under way" in words_of(page_of(two_steps))
    (two_steps / "timings.json").write_text('{"total": 12.5}')
    words = words_of(page_of(two_steps))
    assert "under way" not in words and "wall secondstotal 12.5" in words


def test_every_status_has_a_colour_and_a_place_in_the_legend(tmp_path):
    records = [record(status, status, value=2.0 if status in ("succeeded", "invalid") else None) for status in FINAL]
    html = page_of(journal(tmp_path, [[*records, record("lost", "lost"), None]]))
    legend = re.findall(r'<i style="background:var\(--(status-\d)\)"></i>(\w+)', html)
    assert [status for _, status in legend] == [*FINAL, "lost", "running"]
    assert all(f"--{colour}:" in html for colour, _ in legend)


def test_runs_without_isolation_are_marked(tmp_path):
    html = page_of(journal(tmp_path, [[record("a", value=1.0, isolation="none")]]))
    assert "ran without a sandbox" in html and "not isolated" in html


def test_several_runs_share_one_chart_and_keep_their_own_sections(tmp_path):
    folders = [tmp_path / "one" / "run", tmp_path / "two" / "run", tmp_path / "other"]
    for i, folder in enumerate(folders):
        folder.mkdir(parents=True)
        environment = "elsewhere" if i == 2 else "toy"
        ones = [record(f"{i}{k}", value=3.0 - k / 7 - i, environment=environment) for k in range(4)]
        journal(folder, [ones], [baseline(0, 3.0)] if i < 2 else ())
    html = page_of(*folders, out=tmp_path / "all" / "report.html")
    words = words_of(html)
    assert words.count("run against run") == 1 and html.count("<section") == 3
    assert f"{folders[0]}" in words and f"{folders[1]}" in words
    assert html.count("Best so far, ") == 3


def test_charts_hold_text_alternatives_and_no_name_twice(two_steps):
    page = Page(page_of(two_steps))
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(pictures) == 6 and len(ids) == len(set(ids))
    assert all(set(one["aria-labelledby"].split()) <= set(ids) and one["viewbox"] for one in pictures)


def test_the_report_asks_nobody_for_anything_and_forbids_scripts(two_steps):
    html = page_of(two_steps)
    assert "default-src 'none'" in html and "<script" not in html
    outside = [value for _, attributes in Page(html).tags for name, value in attributes.items()
               if name in ("src", "href", "xlink:href", "action", "srcset")]  # fmt: skip
    assert all(value.startswith(("#", "data:")) for value in outside)
    assert re.sub(r'xmlns(:xlink)?="[^"]*"', "", html).count("http") == html.count("http-equiv")


@pytest.fixture
def hostile(tmp_path):
    (tmp_path / "<b>run").mkdir()
    book = Journal(tmp_path / "<b>run" / "buffer.sqlite")
    book.propose(0, [HOSTILE + text(HOSTILE), HOSTILE])
    fields = {"idea": HOSTILE, "patch": f"@@ {HOSTILE}\n+{HOSTILE}\n-{HOSTILE}", "log": HOSTILE, "hardware": HOSTILE}
    book.settle(0, 0, record("<i>x", value=2.0, environment=HOSTILE, implementer=HOSTILE, **fields))
    book.settle(0, 1, record("b", "failed", error={"kind": HOSTILE, "message": HOSTILE}, **fields))
    book.close()
    recipe = "model_name_or_path: </dd><script>document.title='pwned'</script>\n"
    (tmp_path / "<b>run" / "recipe.yaml").write_text(recipe)
    return tmp_path / "<b>run"


def test_text_of_ideas_patches_and_logs_stays_text(hostile):
    html = page_of(hostile)
    page = Page(html)
    known = {"html", "head", "meta", "link", "title", "style", "body", "main", "section", "h1", "h3", "p", "ul", "li",
             "span", "b", "small", "dl", "dt", "dd", "code", "details", "summary", "pre", "div", "figure", "figcaption",
             "svg", "desc", "g", "path", "text", "defs", "clippath", "rect", "use", "i", "table", "tr", "th", "td",
             "ol"}  # fmt: skip
    assert {tag for tag, _ in page.tags} <= known
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "⟨U+202E⟩evil⟨U+2066⟩" in page.text and not set("\u202e\u2066\x1b\x00") & set(html)
    assert "{{ 7 * 7 }}" in page.text


def browse(page, folder):
    """The page's tree after it was opened in a browser, and what the console said."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", f"--user-data-dir={folder}", "--enable-logging=stderr",
               "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run([BROWSER, *options], capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine: the page is not opened for real")
def test_a_browser_runs_nothing_of_what_ideas_say_and_has_nothing_to_complain_of(hostile, tmp_path):
    page_of(hostile)
    tree, console = browse(hostile / "report.html", tmp_path / "profile")
    assert "<title>Report: &lt;b&gt;run</title>" in tree and console == []
    spoilt = (hostile / "report.html").read_text().replace("<main>", "<script>document.title='pwned'</script><main>")
    (tmp_path / "spoilt.html").write_text(spoilt)
    tree, console = browse(tmp_path / "spoilt.html", tmp_path / "profile")
    assert "<title>Report: &lt;b&gt;run</title>" in tree and "Content Security Policy" in console[0]


def test_a_thousand_experiments_with_long_logs_render_in_seconds_and_stay_small(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    for step in range(10):
        book.propose(step, [text(f"{step} {i}") for i in range(100)])
        for i in range(100):
            one = record(f"{step}-{i}", value=2.0 + i / 100, log="<&'\">" * 4000, patch="@@\n" + '+"\n-<\n' * 3000)
            book.settle(step, i, one)
    book.close()
    started = time.monotonic()
    html = page_of(tmp_path)
    assert time.monotonic() - started < 30
    assert len(html.encode()) < 15_000_000 and html.count("data-id=") == 1000
    assert "characters before it are in the records" in html and "more characters are in the records" in html


def test_clipping_keeps_the_end_of_a_log_and_the_head_of_a_patch_within_bytes():
    assert safe_text.clip("abcdef", 3) == ("abc", 3) and safe_text.clip("abcdef", 3, "tail") == ("def", 3)
    for sample in ("<" * 100, "é\u202e" * 50, "\x1b[31m" * 40, ""):
        kept, cut = safe_text.clip(sample, 50)
        assert len(kept) + cut == len(sample) and safe_text.size(kept) <= 50


def test_colouring_a_patch_keeps_its_text_or_says_how_much_was_cut():
    patch = "@@ -1 +1 @@\n+one\n+two\n-three\n" + "+<\n-<\n" * 50
    pieces, cut = safe_text.coloured(patch, 100_000)
    assert "\n".join(lines for _, lines in pieces) == patch and cut == 0
    pieces, cut = safe_text.coloured(patch, 400)
    assert len("\n".join(lines for _, lines in pieces)) + cut == len(patch)
    assert sum(safe_text.size(lines) + safe_text.TAGS for _, lines in pieces) <= 400


def test_a_removed_line_that_looks_like_a_head_is_coloured_as_removed():
    patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n--- a comment\n+++ x\ndiff --git a/y b/y\n--- a/y"
    assert [kind for kind, _ in safe_text.coloured(patch, 1000)[0]] == ["file", "hunk", "del", "add", "file"]


def test_a_report_that_cannot_be_written_leaves_the_old_one_and_says_what_to_do(two_steps, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")
    monkeypatch.setattr(report.page.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(ReportError, match="No space left on device. Give a file"):
        write_report([two_steps], out)
    assert out.read_text() == "old" and not list(tmp_path.glob(".report*"))


def test_a_report_of_nothing_is_one_clear_sentence(tmp_path):
    with pytest.raises(ReportError, match="Name at least one folder"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(NoRun):
        write_report([tmp_path], tmp_path / "report.html")
