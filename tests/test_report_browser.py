"""The report in a real headless Chromium: what a person does with it, and what hostile texts cannot do to it."""

import re
from collections import Counter

import pytest
from browser import Tab, chromium
from recorded import baseline, journal, record, text
from report_page import HOSTILE, page_of

from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import read_run
from ideator_rl.text.display import number

PATCH = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n lr\n-x = 1\n+x = {}\n"


@pytest.fixture(scope="module")
def browser():
    with chromium() as program:
        yield program


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A run of 6 steps of 20 ideas, with lineage, a re-run, failures of three kinds, and its report."""
    folder = tmp_path_factory.mktemp("lab")
    statuses = ("succeeded", "succeeded", "failed", "succeeded", "timed_out")
    steps = []
    for step in range(6):
        records = []
        for i in range(20):
            status = statuses[i % 5]
            value = 4.0 - step / 3 + (i * 7 % 20) / 20 if status == "succeeded" else None
            error = None if value else {"kind": status, "message": f"Traceback\nout of {'memory' if i % 2 else 'time'}"}
            records.append(record(f"{step:02x}{i:02x}", status, value=value, error=error, patch=PATCH.format(i),
                               idea=f"[Experiment] Idea {i} of step {step}. [Code Changes] x = {i} [End]",
                               log=f"loss {value}\n" * 3, seconds={"run": 3.0 + i, "score": 0.5}))  # fmt: skip
        steps.append(records)
    rerun = record("again", value=2.3433, tree="tree-0500", replicate=100, idea="x", patch=PATCH.format(0))
    journal(folder, steps, [baseline(0, 4.0), baseline(1, 4.2), rerun])
    book = Journal(folder / "buffer.sqlite")
    book.descend("0403", ("0000", "0103"), 4)
    book.descend("0500", ("0403",), 5)
    book.close()
    page_of(folder)
    return folder


@pytest.fixture
def tab(browser, lab):
    tab = Tab(browser, lab / "report.html")
    yield tab
    assert tab.console == []
    tab.context.close()


def test_the_table_shows_the_numbers_of_the_records(tab, lab):
    run = read_run(lab)
    tab.wait_for_count(f"{len(run.experiments)} experiments.")
    cells_by_id = {}
    while True:
        for row in tab.page.locator("#rows tbody tr").all():
            cells = row.locator("td").all_inner_texts()
            cells_by_id[row.locator("a").get_attribute("href").removeprefix("#idea=0:")] = cells
        if tab.page.locator("#next").is_disabled():
            break
        tab.page.click("#next")
    assert sorted(cells_by_id) == sorted(run.experiments)
    for id, experiment in run.experiments.items():
        own = experiment.implementer == "baseline" or experiment.replicate >= 100
        values = (
            run.values(experiment)
            if experiment.metric and not own
            else [experiment.metric["value"]]
            if experiment.metric
            else []
        )
        assert cells_by_id[id][1] == experiment.status
        assert cells_by_id[id][2] == number(sum(values) / len(values) if values else None)


def test_column_heads_sort_in_both_directions_and_missing_values_come_last(tab, lab):
    tab.page.click("#rows th button >> text=height")
    assert tab.page.get_attribute("#rows th:nth-child(3)", "aria-sort") == "ascending"
    first = [float(value) for value in tab.column(3)]
    assert first == sorted(first) and first[0] == pytest.approx(
        min(e.metric["value"] for e in read_run(lab).ranked), 0.02
    )
    tab.page.click("#rows th button >> text=height")
    assert tab.page.get_attribute("#rows th:nth-child(3)", "aria-sort") == "descending"
    second = [float(value) for value in tab.column(3)]
    assert second == sorted(second, reverse=True) and second[0] > first[0]
    tab.page.click("#next")
    tab.page.click("#next")
    assert set(tab.column(3)) == {"–"} | set(tab.column(3)) and tab.column(3)[-1] == "–"
    tab.page.click("#rows th button >> text=status")
    assert tab.page.get_attribute("#rows th:nth-child(3)", "aria-sort") == "none"


def test_the_form_filters_by_words_status_step_metric_and_kind_of_change(tab, lab):
    run = read_run(lab)
    counts = Counter(e.status for e in run.experiments.values())
    tab.page.select_option("#f-status", label=f"failed ({counts['failed']})")
    tab.wait_for_count(f"{counts['failed']} of {len(run.experiments)} experiments.")
    assert set(tab.column(2)) == {"failed"}
    tab.page.select_option("#f-status", value="failures")
    tab.wait_for_count(f"{counts['failed'] + counts['timed_out']} of ")
    tab.page.fill("#f-text", "out of MEMORY")
    with_words = sum("memory" in (e.error or {}).get("message", "") for e in run.experiments.values())
    tab.wait_for_count(f"{with_words} of ")
    tab.page.click("text=Show all")
    tab.wait_for_count(f"{len(run.experiments)} experiments.")
    tab.page.fill("#f-step0", "2")
    tab.page.fill("#f-step1", "3")
    tab.wait_for_count("40 of ")
    tab.page.fill("#f-metric1", "3,8")
    low = sum(row.metric is not None and row.metric <= 3.8 for row in run.rollouts if row.step in (1, 2))
    tab.wait_for_count(f"{low} of ")
    tab.page.click("text=Show all")
    tab.page.fill("#f-metric0", "2.338")
    tab.page.fill("#f-metric1", "2.3385")
    tab.wait_for_count("1 of ")
    assert tab.column(3) == ["2.3383"], "what is filtered by is the mean that is shown"
    tab.page.click("text=Show all")
    tab.page.fill("#f-cell", "train.py:x")
    tab.wait_for_count("121 of ")


def test_an_idea_opens_on_its_own_page_and_the_back_button_returns(tab):
    best = tab.page.locator(".short a").first
    best.click()
    page = tab.page.locator("#idea-view")
    page.locator("h1").wait_for()
    page_text = page.inner_text()
    assert (
        "height 2.3383 ± 0.007 (2 runs)" in page_text and "Idea 0 of step 5." in page_text and "A thought." in page_text
    )
    assert (
        page.locator(".add").inner_text().strip() == "+x = 0" and page.locator(".del").inner_text().strip() == "-x = 1"
    )
    assert "loss 2.33" in page.locator("pre.log").inner_text()
    assert "seed 0, replicate 0" in page_text and "run 3.00 s" in page_text
    assert not tab.page.locator("#report-view").is_visible() and "#idea=0:0500" in tab.page.url
    parent = page.locator(".links a").first
    assert parent.inner_text() == "Experiment 87"
    parent.click()
    tab.page.wait_for_url("**#idea=0:0403")
    page.locator("h1", has_text="Experiment 87").wait_for()
    assert page.locator(".family a").count() == 3, "two parents and a child are drawn, each a link"
    assert [link.split(" ")[1] for link in page.locator(".links a").all_inner_texts()] == ["4", "27", "104"]
    tab.page.go_back()
    page.locator("h1", has_text="Experiment 104").wait_for()
    tab.page.go_back()
    tab.page.locator("#report-view").wait_for()
    assert not page.is_visible() and best.evaluate("link => link === document.activeElement")


def test_a_dot_shows_its_experiment_and_all_its_ancestors_and_leads_there(tab):
    points = tab.page.evaluate("plot.points.map(({i, x, y}) => [R.key[i], x, y])")
    places = {key: (x, y) for key, x, y in points}
    assert len(places) == 123 and places["0500"][1] > places["0501"][1], "lower is better, and lower on the page"
    area = tab.page.locator("#plot-area")
    area.scroll_into_view_if_needed()
    area.hover(position=dict(zip("xy", places["0500"], strict=True)))
    line = tab.page.locator("#plot-at")
    assert line.inner_text().startswith("Experiment 104, succeeded, height 2.3383, ideas that it came from: 3")
    assert tab.page.locator("#plot-mark line").count() == 3, "over two generations"
    area.click(position=dict(zip("xy", places["0500"], strict=True)))
    tab.page.locator("#idea-view h1", has_text="Experiment 104").wait_for()
    tab.page.go_back()
    tab.page.locator("#report-view").wait_for()
    area.focus()
    tab.page.keyboard.press("ArrowRight")
    shown = line.locator("a").inner_text()
    tab.page.keyboard.press("Enter")
    tab.page.locator("#idea-view h1", has_text=shown).wait_for()


def test_the_filter_holds_in_the_picture_and_the_map_says_what_it_is(tab):
    tab.page.select_option("#f-status", label="failed (24)")
    tab.wait_for_count("24 of ")
    assert tab.page.evaluate("plot.points.length") == 24
    tab.page.click("#plot-map")
    assert "Directions mean nothing" in tab.page.inner_text("#plot-remark")
    assert tab.page.get_attribute("#plot-map", "aria-pressed") == "true"
    inside = "plot.points.length === 24 && plot.points.every(({x, y}) => x >= 0 && y >= 0 && y <= 320)"
    assert tab.page.evaluate(inside)


def test_a_patch_can_be_read_side_by_side(tab, lab):
    tab.open(lab / "report.html", "#idea=0:0500")
    tab.page.click("#idea-view button >> text=Side by side")
    rows = [row.locator("td").all_inner_texts() for row in tab.page.locator(".sides tbody tr").all()]
    assert rows[-2:] == [["lr", "lr"], ["x = 1", "x = 0"]] and ["@@ -1,2 +1,2 @@"] in rows
    tab.page.click("#idea-view button >> text=Side by side")
    assert tab.page.locator("#idea-view .add").inner_text().strip() == "+x = 0"


def test_an_address_opens_its_experiment_and_an_unknown_address_the_report(tab, lab):
    tab.open(lab / "report.html", "#idea=0:0102")
    tab.page.locator("#idea-view h1", has_text="failed").wait_for()
    assert "out of time" in tab.page.locator("#idea-view .error").inner_text()
    tab.open(lab / "report.html", "#idea=0:nothing%")
    assert tab.page.locator("#report-view").is_visible()


def test_the_page_can_be_used_with_the_keyboard_alone(tab):
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.textContent") == "Skip to the report"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.page.evaluate(outline) == "solid"
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"
    tab.page.locator("#rows th button >> text=height").focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.get_attribute("#rows th:nth-child(3)", "aria-sort") == "ascending"
    for _ in range(20):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    tab.page.keyboard.press("Enter")
    tab.page.locator("#idea-view h1").wait_for()
    assert tab.page.evaluate("document.activeElement.id") == "idea-title"
    tab.page.locator("#back").focus()
    tab.page.keyboard.press("Enter")
    tab.page.locator("#report-view").wait_for()
    assert tab.page.evaluate("document.activeElement.closest('tbody') !== null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_everything_fits_the_screen_and_has_enough_contrast(browser, lab, scheme):
    tab = Tab(browser, lab / "report.html", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert tab.fits()
    paper = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 384) == (scheme == "dark")
    for name in ("ink", "ink-soft", "accent", "good", "bad", "warn", "baseline"):
        for ground in ("paper", "card"):
            assert contrast(tab.page, name, ground) >= 4.5, (name, ground)
    drawn = [*(f"series-{i}" for i in range(8)), *(f"status-{i}" for i in range(10)), "dot", "baseline"]
    assert {name: ratio for name in drawn if (ratio := contrast(tab.page, name, "card")) < 3} == {}
    assert contrast(tab.page, "good", "add") >= 4.5 and contrast(tab.page, "bad", "del") >= 4.5
    size = "Math.min(...[...document.querySelectorAll('SVG text')].map((one) => one.getBoundingClientRect().height))"
    assert tab.page.evaluate(size.replace("SVG", "figure svg")) >= 11, "charts shrink with the screen, their words less"
    rows = tab.page.locator("details:has(> summary:text-is('Failures by kind')) tbody tr").all()
    assert rows and all(row.bounding_box()["height"] < 130 for row in rows), "words have a column they can be read in"
    tab.open(lab / "report.html", "#idea=0:0500")
    tab.page.locator("#idea-view h1").wait_for()
    assert tab.page.evaluate(size.replace("SVG", ".strip svg")) >= 13
    assert tab.fits() and tab.console == []
    tab.context.close()


def contrast(tab, name, ground):
    """Of two colours of the page, by WCAG 2."""
    values = [
        tab.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{colour}').trim()")
        for colour in (name, ground)
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


def test_several_runs_can_be_filtered_by_run(browser, tmp_path):
    for name, shift in (("one", 0.0), ("two", 0.5)):
        (tmp_path / name).mkdir()
        steps = [
            [record(f"{name}{step}{i}", value=3.0 + shift + i / 9 - step / 9) for i in range(4)] for step in range(3)
        ]
        journal(tmp_path / name, steps, [baseline(0, 3.2)])
    page_of(tmp_path / "one", tmp_path / "two", out=tmp_path / "both.html")
    tab = Tab(browser, tmp_path / "both.html")
    tab.wait_for_count("26 experiments.")
    tab.page.select_option("#f-run", label="two")
    tab.wait_for_count("13 of 26 experiments.")
    assert set(tab.column(1)) == {"two"}
    tab.page.locator("#rows a", has_text="idea two00").click()
    tab.page.locator("#idea-view h1").wait_for()
    assert "two" in tab.page.locator("#idea-view .facts").inner_text() and tab.console == []
    tab.context.close()


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


def test_a_browser_runs_no_script_of_an_idea_on_any_page(browser, hostile):
    tab = Tab(browser, hostile / "report.html")
    assert tab.page.title() == "Report: <b>run"
    tab.page.fill("#f-text", "<script>")
    tab.wait_for_count("2 experiments.")
    for place in range(2):
        tab.page.locator("#rows tbody a").nth(place).click()
        tab.page.locator("#idea-view h1").wait_for()
        assert "<script>document.title='pwned'</script>" in tab.page.locator("#idea-view .log").inner_text()
        assert "⟨U+202E⟩evil⟨U+2066⟩" in tab.page.locator("#idea-view .patch").inner_text()
        tab.page.click("#idea-view button >> text=Side by side")
        assert "<script>document.title='pwned'</script>" in tab.page.locator("#idea-view .sides").inner_text()
        assert tab.page.locator("#idea-view :is(img, script, iframe, meta, a[href^=javascript])").count() == 0
        assert tab.page.title() == f"Experiment {place + 1} · <b>run"
        tab.page.go_back()
        tab.page.locator("#idea-view").wait_for(state="hidden")
    tab.page.locator("#plot-area").focus()
    for _ in range(2):
        tab.page.keyboard.press("ArrowRight")
        assert "<script>" in tab.page.inner_text("#plot-at")
    tab.page.click("#plot-map")
    assert tab.page.locator("#plot :is(img, script, iframe, meta, a[href^=javascript])").count() == 0
    assert tab.page.title() == "Report: <b>run" and tab.console == []
    tab.context.close()


def test_the_policy_stops_a_foreign_script(browser, hostile, tmp_path):
    spoilt = (hostile / "report.html").read_text().replace("<main", "<script>document.title='pwned'</script><main")
    (tmp_path / "spoilt.html").write_text(spoilt)
    tab = Tab(browser, tmp_path / "spoilt.html")
    assert tab.page.title() == "Report: <b>run"
    assert len(tab.console) == 1 and "Content Security Policy" in tab.console[0]
    with pytest.raises(Exception, match="TrustedHTML"):
        tab.page.evaluate("document.body.innerHTML = '<b>x</b>'")
    tab.context.close()
