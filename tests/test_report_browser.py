"""The report in a real headless Chromium: what a person does with it, and what hostile texts cannot do to it."""

import re
from collections import Counter

import pytest
from browser import Tab, chromium
from recorded import baseline, journal, record, text
from report_page import HOSTILE, page_of

from ideator_rl.storage.journal import Journal
from ideator_rl.storage.records import read_run
from ideator_rl.text import number

PATCH = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n lr\n-x = 1\n+x = {}\n"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A run of 6 steps of 20 ideas, with lineage, a re-run, failures of three kinds, and its report."""
    folder = tmp_path_factory.mktemp("lab")
    statuses = ("succeeded", "succeeded", "failed", "succeeded", "timed_out")
    steps = []
    for step in range(6):
        made = []
        for i in range(20):
            status = statuses[i % 5]
            value = 4.0 - step / 3 + (i * 7 % 20) / 20 if status == "succeeded" else None
            error = None if value else {"kind": status, "message": f"Traceback\nout of {'memory' if i % 2 else 'time'}"}
            made.append(record(f"{step:02x}{i:02x}", status, value=value, error=error, patch=PATCH.format(i),
                               idea=f"[Experiment] Idea {i} of step {step}. [Code Changes] x = {i} [End]",
                               log=f"loss {value}\n" * 3, seconds={"run": 3.0 + i, "score": 0.5}))  # fmt: skip
        steps.append(made)
    again = record("again", value=2.3433, tree="tree-0500", replicate=100, idea="x", patch=PATCH.format(0))
    journal(folder, steps, [baseline(0, 4.0), baseline(1, 4.2), again])
    book = Journal(folder / "buffer.sqlite")
    book.descend("0403", ("0000", "0103"), 4)
    book.descend("0500", ("0403",), 5)
    book.close()
    page_of(folder)
    return folder


@pytest.fixture
def tab(browser, lab):
    made = Tab(browser, lab / "report.html")
    yield made
    assert made.said == []
    made.context.close()


def test_the_table_shows_the_numbers_of_the_records(tab, lab):
    run = read_run(lab)
    tab.asked(f"{len(run.experiments)} experiments.")
    shown = {}
    while True:
        for row in tab.tab.locator("#rows tbody tr").all():
            cells = row.locator("td").all_inner_texts()
            shown[row.locator("a").get_attribute("href").removeprefix("#idea=0:")] = cells
        if tab.tab.locator("#next").is_disabled():
            break
        tab.tab.click("#next")
    assert sorted(shown) == sorted(run.experiments)
    for id, one in run.experiments.items():
        own = one.implementer == "baseline" or one.replicate >= 100
        values = run.values(one) if one.metric and not own else [one.metric["value"]] if one.metric else []
        assert shown[id][1] == one.status
        assert shown[id][2] == number(sum(values) / len(values) if values else None)


def test_heads_sort_both_ways_by_number_and_the_missing_come_last(tab, lab):
    tab.tab.click("#rows th button >> text=height")
    assert tab.tab.get_attribute("#rows th:nth-child(3)", "aria-sort") == "ascending"
    first = [float(value) for value in tab.column(3)]
    assert first == sorted(first) and first[0] == pytest.approx(
        min(e.metric["value"] for e in read_run(lab).ranked), 0.02
    )
    tab.tab.click("#rows th button >> text=height")
    assert tab.tab.get_attribute("#rows th:nth-child(3)", "aria-sort") == "descending"
    second = [float(value) for value in tab.column(3)]
    assert second == sorted(second, reverse=True) and second[0] > first[0]
    tab.tab.click("#next")
    tab.tab.click("#next")
    assert set(tab.column(3)) == {"–"} | set(tab.column(3)) and tab.column(3)[-1] == "–"
    tab.tab.click("#rows th button >> text=status")
    assert tab.tab.get_attribute("#rows th:nth-child(3)", "aria-sort") == "none"


def test_the_form_filters_by_words_status_step_metric_and_kind_of_change(tab, lab):
    run = read_run(lab)
    counts = Counter(e.status for e in run.experiments.values())
    tab.tab.select_option("#f-status", label=f"failed ({counts['failed']})")
    tab.asked(f"{counts['failed']} of {len(run.experiments)} experiments.")
    assert set(tab.column(2)) == {"failed"}
    tab.tab.select_option("#f-status", value="failures")
    tab.asked(f"{counts['failed'] + counts['timed_out']} of ")
    tab.tab.fill("#f-text", "out of MEMORY")
    with_words = sum("memory" in (e.error or {}).get("message", "") for e in run.experiments.values())
    tab.asked(f"{with_words} of ")
    tab.tab.click("text=Show all")
    tab.asked(f"{len(run.experiments)} experiments.")
    tab.tab.fill("#f-step0", "2")
    tab.tab.fill("#f-step1", "3")
    tab.asked("40 of ")
    tab.tab.fill("#f-metric1", "3,8")
    low = sum(row.metric is not None and row.metric <= 3.8 for row in run.rollouts if row.step in (1, 2))
    tab.asked(f"{low} of ")
    tab.tab.click("text=Show all")
    tab.tab.fill("#f-metric0", "2.338")
    tab.tab.fill("#f-metric1", "2.3385")
    tab.asked("1 of ")
    assert tab.column(3) == ["2.3383"], "what is filtered by is the mean that is shown"
    tab.tab.click("text=Show all")
    tab.tab.fill("#f-cell", "train.py:x")
    tab.asked("121 of ")


def test_an_idea_opens_with_all_that_is_known_of_it_and_the_back_button_returns(tab):
    best = tab.tab.locator(".short a").first
    best.click()
    page = tab.tab.locator("#idea-view")
    page.locator("h1").wait_for()
    words = page.inner_text()
    assert "height 2.3383 ± 0.007 (2 runs)" in words and "Idea 0 of step 5." in words and "A thought." in words
    assert (
        page.locator(".add").inner_text().strip() == "+x = 0" and page.locator(".del").inner_text().strip() == "-x = 1"
    )
    assert "loss 2.33" in page.locator("pre.log").inner_text()
    assert "seed 0, replicate 0" in words and "run 3.00 s" in words
    assert not tab.tab.locator("#report-view").is_visible() and "#idea=0:0500" in tab.tab.url
    parent = page.locator(".links a").first
    assert parent.inner_text() == "Experiment 87"
    parent.click()
    tab.tab.wait_for_url("**#idea=0:0403")
    page.locator("h1", has_text="Experiment 87").wait_for()
    assert page.locator(".family a").count() == 3, "two parents and a child are drawn, each a link"
    assert [link.split(" ")[1] for link in page.locator(".links a").all_inner_texts()] == ["4", "27", "104"]
    tab.tab.go_back()
    page.locator("h1", has_text="Experiment 104").wait_for()
    tab.tab.go_back()
    tab.tab.locator("#report-view").wait_for()
    assert not page.is_visible() and best.evaluate("link => link === document.activeElement")


def test_an_address_opens_its_experiment_and_an_unknown_one_the_report(tab, lab):
    tab.open(lab / "report.html", "#idea=0:0102")
    tab.tab.locator("#idea-view h1", has_text="failed").wait_for()
    assert "out of time" in tab.tab.locator("#idea-view .error").inner_text()
    tab.open(lab / "report.html", "#idea=0:nothing%")
    assert tab.tab.locator("#report-view").is_visible()


def test_all_of_it_can_be_done_with_the_keyboard(tab):
    tab.tab.keyboard.press("Tab")
    assert tab.tab.evaluate("document.activeElement.textContent") == "Skip to the report"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.tab.evaluate(outline) == "solid"
    tab.tab.keyboard.press("Enter")
    assert tab.tab.evaluate("document.activeElement.id") == "main"
    tab.tab.locator("#rows th button >> text=height").focus()
    tab.tab.keyboard.press("Enter")
    assert tab.tab.get_attribute("#rows th:nth-child(3)", "aria-sort") == "ascending"
    for _ in range(20):
        tab.tab.keyboard.press("Tab")
        if tab.tab.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    tab.tab.keyboard.press("Enter")
    tab.tab.locator("#idea-view h1").wait_for()
    assert tab.tab.evaluate("document.activeElement.id") == "idea-title"
    tab.tab.locator("#back").focus()
    tab.tab.keyboard.press("Enter")
    tab.tab.locator("#report-view").wait_for()
    assert tab.tab.evaluate("document.activeElement.closest('tbody') !== null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_words_stand_out(browser, lab, scheme):
    made = Tab(browser, lab / "report.html", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert made.fits()
    paper = made.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 384) == (scheme == "dark")
    for name in ("ink", "ink-soft", "accent", "good", "bad", "warn", "baseline"):
        for ground in ("paper", "card"):
            assert contrast(made.tab, name, ground) >= 4.5, (name, ground)
    drawn = [*(f"series-{i}" for i in range(8)), *(f"status-{i}" for i in range(9)), "dot", "baseline"]
    assert {name: ratio for name in drawn if (ratio := contrast(made.tab, name, "card")) < 3} == {}
    assert contrast(made.tab, "good", "add") >= 4.5 and contrast(made.tab, "bad", "del") >= 4.5
    size = "Math.min(...[...document.querySelectorAll('SVG text')].map((one) => one.getBoundingClientRect().height))"
    assert made.tab.evaluate(size.replace("SVG", "figure svg")) >= 11, "charts shrink with the screen, their words less"
    rows = made.tab.locator("details:has(> summary:text-is('Failures by kind')) tbody tr").all()
    assert rows and all(row.bounding_box()["height"] < 130 for row in rows), "words have a column they can be read in"
    made.open(lab / "report.html", "#idea=0:0500")
    made.tab.locator("#idea-view h1").wait_for()
    assert made.tab.evaluate(size.replace("SVG", ".strip svg")) >= 13
    assert made.fits() and made.said == []
    made.context.close()


def contrast(tab, name, ground):
    """Of two colours of the page, by WCAG 2."""
    values = [
        tab.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{one}').trim()")
        for one in (name, ground)
    ]
    light = []
    for value in values:
        digits = value[1:] if len(value) == 7 else "".join(2 * letter for letter in value[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_without_scripts_the_answers_and_charts_can_be_read(browser, lab):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto((lab / "report.html").as_uri())
    assert plain.locator("text=What was the best idea?").is_visible() and plain.locator("figure svg").first.is_visible()
    assert plain.locator("noscript p").is_visible() and not plain.locator("#rows").is_visible()
    context.close()


def test_several_runs_can_be_told_apart_and_filtered_by_run(browser, tmp_path):
    for name, shift in (("one", 0.0), ("two", 0.5)):
        (tmp_path / name).mkdir()
        ones = [
            [record(f"{name}{step}{i}", value=3.0 + shift + i / 9 - step / 9) for i in range(4)] for step in range(3)
        ]
        journal(tmp_path / name, ones, [baseline(0, 3.2)])
    page_of(tmp_path / "one", tmp_path / "two", out=tmp_path / "both.html")
    made = Tab(browser, tmp_path / "both.html")
    made.asked("26 experiments.")
    made.tab.select_option("#f-run", label="two")
    made.asked("13 of 26 experiments.")
    assert set(made.column(1)) == {"two"}
    made.tab.locator("#rows a", has_text="idea two00").click()
    made.tab.locator("#idea-view h1").wait_for()
    assert "two" in made.tab.locator("#idea-view .facts").inner_text() and made.said == []
    made.context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose every text tries to act; its ideas lead to one another."""
    folder = tmp_path_factory.mktemp("hostile") / "<b>run"
    folder.mkdir()
    book = Journal(folder / "buffer.sqlite")
    book.propose(0, [HOSTILE + text(HOSTILE), HOSTILE])
    fields = {"idea": HOSTILE, "patch": f"@@ {HOSTILE}\n+{HOSTILE}\n-{HOSTILE}", "log": HOSTILE, "hardware": HOSTILE}
    book.settle(0, 0, record("<i>x", value=2.0, environment=HOSTILE, implementer=HOSTILE, **fields))
    book.settle(0, 1, record("b", "failed", error={"kind": HOSTILE, "message": HOSTILE}, **fields))
    book.descend("b", ("<i>x",), 0)
    book.close()
    (folder / "recipe.yaml").write_text("model_name_or_path: </dd><script>document.title='pwned'</script>\n")
    page_of(folder)
    return folder


def test_a_browser_runs_nothing_of_what_ideas_say_on_any_page(browser, hostile):
    made = Tab(browser, hostile / "report.html")
    assert made.tab.title() == "Report: <b>run"
    made.tab.fill("#f-text", "<script>")
    made.asked("2 experiments.")
    for place in range(2):
        made.tab.locator("#rows tbody a").nth(place).click()
        made.tab.locator("#idea-view h1").wait_for()
        assert "<script>document.title='pwned'</script>" in made.tab.locator("#idea-view .log").inner_text()
        assert "⟨U+202E⟩evil⟨U+2066⟩" in made.tab.locator("#idea-view .patch").inner_text()
        assert made.tab.locator("#idea-view :is(img, script, iframe, meta, a[href^=javascript])").count() == 0
        assert made.tab.title() == f"Experiment {place + 1} · <b>run"
        made.tab.go_back()
        made.tab.locator("#idea-view").wait_for(state="hidden")
    assert made.said == []
    made.context.close()


def test_the_policy_stops_a_script_that_is_not_the_pages_own(browser, hostile, tmp_path):
    spoilt = (hostile / "report.html").read_text().replace("<main", "<script>document.title='pwned'</script><main")
    (tmp_path / "spoilt.html").write_text(spoilt)
    made = Tab(browser, tmp_path / "spoilt.html")
    assert made.tab.title() == "Report: <b>run"
    assert len(made.said) == 1 and "Content Security Policy" in made.said[0]
    with pytest.raises(Exception, match="TrustedHTML"):
        made.tab.evaluate("document.body.innerHTML = '<b>x</b>'")
    made.context.close()
