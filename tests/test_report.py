import base64
import gzip
import hashlib
import os
import re
import time

import pytest
from conftest import replace_line, run
from recorded import baseline, journal, record, text
from report_page import HOSTILE, Page, lab, page_of, words_of

from ideator_rl.experiment import FINAL
from ideator_rl.report import ReportError, payload, write_report
from ideator_rl.report.patch_lines import coloured
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import NoRun, read_run


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
    page_text = words_of(page_of(two_steps))
    run = read_run(two_steps)
    assert f"Baseline height{run.baseline:.4f}± 1.4 (standard deviation), 3.0000 to 5.0000 over 2 runs" in page_text
    assert (
        "Best idea1.5000" in page_text
        and "Gain on the baseline2.50001.8 × the baseline’s standard deviation" in page_text
    )
    assert (
        "Success rate50% → 100%step 1 → step 2" in page_text
        and "Distinct experiments3for 5 ideas proposed" in page_text
    )
    assert "3 succeeded, 1 failed, 1 lost" in page_text
    assert "1. 1.5000" in page_text and "2. 4.2500" in page_text
    for step in run.by_step():
        assert f"{step.mean:.4f}{step.best:.4f}{step.reward:.4f}" in page_text
    assert "toy, preset cpu" in page_text and "implementer: rules" in page_text and "isolation: bwrap" in page_text


def test_every_experiment_is_a_row_with_its_numbers_and_its_texts(two_steps):
    html, run_records = page_of(two_steps), read_run(two_steps)
    rows = {row["key"]: row for row in Page(html).experiments()}
    assert sorted(rows) == sorted(run_records.experiments) and len(rows) == 6
    for id, experiment in run_records.experiments.items():
        row = rows[id]
        assert row["status"] == experiment.status and row["reward"] == experiment.reward
        assert row["metric"] == (experiment.metric["value"] if experiment.metric else None)
        assert row["patch"] == experiment.patch and row["log"] == experiment.log
        assert row["message"] == (experiment.error or {}).get("message", "")
    assert rows["e"]["seconds"] == {"run": 8.25, "cpu": 3.0} and rows["e"]["thought"] == "A thought."
    assert rows["a"]["steps"] == [1, 2] and rows["a"]["proposed"] == 2
    assert rows["base0"]["title"] == "the unchanged baseline" and rows["base0"]["values"] == [3.0]
    assert '<span class="add">+lr = 3' in html and '<span class="del">-lr = 1' in html


def test_a_secret_of_the_recipe_stays_out(two_steps):
    html = page_of(two_steps)
    assert "hf_abc" not in html and "hub_token: (hidden)" in html


def test_baseline_patch_and_idea_of_a_real_run_are_shown(toy_buffer, tmp_path):
    run(toy_buffer.baseline())
    good = run(toy_buffer.score_patch(replace_line("x = 4.0", "x = 1.0")))
    run(toy_buffer.score(["no idea at all"], step=0))
    html = page_of(tmp_path)
    page_text, rows = words_of(html), Page(html).experiments()
    assert f"Best idea{good.metric['value']:.4f}" in page_text and "(a patch written by hand)" in page_text
    assert "train.py: “x = 4.0” became “x = 1.0”." in page_text and "+x = 1.0" in page_text
    [bad] = [row for row in rows if row["status"] == "malformed"]
    assert bad["message"].startswith("This text holds no idea") and bad["idea"] == "no idea at all"
    assert "one run: its spread is unknown" in page_text


def test_the_report_of_an_empty_run_is_readable(tmp_path):
    page_text = words_of(page_of(journal(tmp_path, [])))
    assert (
        "No idea succeeded." in page_text and "Nothing has happened yet." in page_text and "none was run" in page_text
    )


def test_a_run_without_a_success_still_shows_its_outcomes(tmp_path):
    steps = [[record("a", "failed"), record("b", "timed_out")], [record("c", "rejected"), record("d", "lost")]]
    html = page_of(journal(tmp_path, steps, [baseline(0, 3.0)]))
    page_text = words_of(html)
    assert "No idea succeeded." in page_text and "0% → 0%" in page_text and "1 timed_out" in page_text
    assert "Outcomes by step" in page_text and "so far" not in page_text
    assert "Ideas lost by our own fault (machine, bucket, endpoint): 1." in page_text


def test_a_run_under_way_is_marked_and_shows_its_outcomes_so_far(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, [text("x"), text("y")])
    book.settle(0, 0, record("a", value=2.0))
    html = page_of(tmp_path)
    page_text = words_of(html)
    assert "Ideas without an outcome yet: 1." in page_text and "2.0000" in page_text
    assert [row["status"] for row in Page(html).experiments()] == ["succeeded", "running"]
    assert "Gain on the baseline–not known" in page_text
    book.close()


def test_a_run_of_a_recipe_is_under_way_until_it_wrote_its_timings(two_steps):
    assert "The run is under way, or was stopped" in words_of(page_of(two_steps))
    (two_steps / "timings.json").write_text('{"total": 12.5}')
    page_text = words_of(page_of(two_steps))
    assert "under way" not in page_text and "wall secondstotal 12.5" in page_text


def test_every_status_has_a_colour_and_a_place_in_the_legend(tmp_path):
    records = [record(status, status, value=2.0 if status in ("succeeded", "invalid") else None) for status in FINAL]
    html = page_of(journal(tmp_path, [[*records, record("lost", "lost"), None], [record("b", value=3.0)]]))
    outcomes = html[html.index("<b>Outcomes by step") :]
    legend = re.findall(r'<i style="background:var\(--(status-\d)\)"></i>(\w+)', outcomes[: outcomes.index("</ul>")])
    assert [status for _, status in legend] == [*FINAL, "lost", "running"]
    assert all(f"--{colour}:" in html for colour, _ in legend)


def test_a_run_of_one_step_is_shown_in_numbers_and_not_in_charts_of_one_point(tmp_path):
    records = [*(record(str(i), value=2.0 + i, seconds={"run": 1.5}) for i in range(3)), record("f", "failed")]
    html = page_of(journal(tmp_path, [records], [baseline(0, 9.0)]))
    page_text = words_of(html)
    assert "mean height of the successes3.0000 ± 0.58 (standard error)" in page_text
    assert "success rate among known outcomes75%" in page_text and "outcome failed1" in page_text
    assert "Success rate75%of known outcomes" in page_text and "run1.5 s" in page_text
    # What is drawn has more than one point: experiments, their cost, and the picture below.
    assert "by step</b>" not in html and "Best height so far" in page_text
    records = [record("later", value=1.0)]
    (tmp_path / "two").mkdir()
    html = page_of(journal(tmp_path / "two", [[record("first", value=2.0)], records]))
    assert "Success rate by step</b>" in html and "The only step in numbers" not in html


def test_runs_without_isolation_are_marked(tmp_path):
    html = page_of(journal(tmp_path, [[record("a", value=1.0, isolation="none")]]))
    assert "ran without a sandbox" in html and "not isolated" in html


def test_the_table_by_step_holds_every_number_of_the_chart_of_outcomes(tmp_path):
    steps = [[record("a", "failed"), record("b", "malformed"), record("c", value=1.0)], [record("d", "failed"), None]]
    page_text = words_of(page_of(journal(tmp_path, steps)))
    assert "stepideasdistinctsucceededmalformedfailedrunningsuccess" in page_text
    assert " 133111033%1.0000" in page_text and " 22100110%–" in page_text


def test_a_folder_given_twice_is_one_run(two_steps, tmp_path):
    page_of(two_steps, out=tmp_path / "once.html")
    page_of(two_steps, two_steps / ".." / two_steps.name, out=tmp_path / "twice.html")
    assert (tmp_path / "twice.html").read_text() == (tmp_path / "once.html").read_text()


def test_several_runs_share_one_chart_and_keep_their_own_sections(tmp_path):
    folders = [tmp_path / "one" / "run", tmp_path / "two" / "run", tmp_path / "other"]
    for i, folder in enumerate(folders):
        folder.mkdir(parents=True)
        environment = "elsewhere" if i == 2 else "toy"
        ones = [record(f"{i}{k}", value=4.0 - k / 7 - i, environment=environment) for k in range(4)]
        journal(folder, [ones], [baseline(0, 3.0)] if i < 2 else ())
    html = page_of(*folders, out=tmp_path / "all" / "report.html")
    page_text = words_of(html)
    assert page_text.count("Run against run") == 2 and html.count("<section") == 5
    assert f"{folders[0]}" in page_text and f"{folders[1]}" in page_text
    assert html.count("Best so far, ") == 3
    assert {row["run"] for row in Page(html).experiments()} == {0, 1, 2}


def test_charts_have_text_alternatives_and_unique_ids(two_steps):
    page = Page(page_of(two_steps))
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(pictures) >= 6 and len(ids) == len(set(ids))
    assert all(set(picture["aria-labelledby"].split()) <= set(ids) and picture["viewbox"] for picture in pictures)


def test_the_report_loads_nothing_and_allows_only_its_own_script(two_steps):
    html = page_of(two_steps)
    page = Page(html)
    [policy] = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv")]
    running = [text for attributes, text in page.scripts if "type" not in attributes]
    digest = base64.b64encode(hashlib.sha256(running[0].encode()).digest()).decode()
    assert len(running) == 1 and f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy
    assert policy.count("sha256-") == 1 and "trusted-types 'none'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp", running[0])
    outside = [value for _, attributes in page.tags for name, value in attributes.items()
               if name in ("src", "href", "xlink:href", "action", "srcset")]  # fmt: skip
    assert all(value.startswith(("#", "data:")) for value in outside)
    plain = re.sub(r'xmlns(:xlink)?="[^"]*"', "", html).replace("http://www.w3.org/2000/svg", "")
    assert plain.count("http") == plain.count("http-equiv")


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


def test_hostile_ideas_patches_and_logs_stay_text(hostile):
    html = page_of(hostile)
    page = Page(html)
    allowed_tags = {"html", "head", "meta", "link", "title", "style", "body", "main", "header", "nav", "section", "article", "h1",
             "h2", "h3", "p", "ul", "li", "a", "span", "b", "small", "dl", "dt", "dd", "code", "details", "summary", "pre",
             "div", "figure", "figcaption", "svg", "desc", "g", "path", "text", "defs", "clippath", "rect", "use", "i",
             "table", "caption", "thead", "tbody", "tr", "th", "td", "ol", "form", "label", "input", "select", "option",
             "datalist", "button", "noscript", "script"}  # fmt: skip
    assert {tag for tag, _ in page.tags} <= allowed_tags
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "⟨U+202E⟩evil⟨U+2066⟩" in page.text and not set("\u202e\u2066\x1b\x00") & set(html)
    assert "{{ 7 * 7 }}" in page.text and sum("type" not in attributes for attributes, _ in page.scripts) == 1
    [good, bad] = page.experiments()
    assert "⟨U+202E⟩evil⟨U+2066⟩" in good["log"] and "<script>document.title='pwned'</script>" in bad["message"]
    assert "<" not in page.script("data") and "&" not in page.script("data")


def test_a_thousand_experiments_with_long_logs_render_in_seconds_and_stay_small(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    for step in range(10):
        book.propose(step, [text(f"{step} {i}") for i in range(100)])
        for i in range(100):
            experiment = record(
                f"{step}-{i}", value=2.0 + i / 100, log="<&'\">" * 4000, patch="@@\n" + '+"\n-<\n' * 300
            )
            book.settle(step, i, experiment)
    book.close()
    started = time.process_time()
    html = page_of(tmp_path)
    assert time.process_time() - started < 30
    assert len(html.encode()) < 15_000_000
    rows = Page(html).experiments()
    assert len(rows) == 1000 and {len(row["log"]) + row["cut"]["log"] for row in rows} == {20_000}


def test_too_many_texts_are_clipped_and_the_cut_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "MAX_BYTES", 4_000)
    texts = [os.urandom(3_000).hex() for _ in range(4)]
    ones = [record(f"{i}", value=2.0, log=log, patch=log) for i, log in enumerate(texts)]
    rows = Page(page_of(journal(tmp_path, [ones]))).experiments()
    for row, log in zip(rows, texts, strict=True):
        assert 0 < len(row["log"]) < 2_000 and log.endswith(row["log"]) and log.startswith(row["patch"])
        assert row["cut"]["log"] == len(log) - len(row["log"]) == row["cut"]["patch"]


def test_texts_that_pack_a_thousandfold_are_clipped_before_a_browser_has_to_unpack_them(tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "MAX_UNPACKED_BYTES", 100_000)
    # Equal characters, and characters that show as a code point of nine characters.
    ones = [record(f"{i}", value=2.0, log="a" * 40_000, patch="\x00" * 40_000) for i in range(8)]
    html = page_of(journal(tmp_path, [ones]))
    packed = re.search(r'id="texts"[^>]*>([^<]*)<', html)[1]
    assert 20_000 < len(gzip.decompress(base64.b64decode(packed))) <= 100_000
    for row in Page(html).experiments():
        assert row["cut"]["log"] == 40_000 - len(row["log"]) > 0


def test_a_coloured_patch_keeps_its_text():
    patch = "@@ -1 +1 @@\n+one\n+two\n-three\n" + "+<\n-<\n" * 50
    assert "\n".join(lines for _, lines in coloured(patch)) == patch


def test_a_removed_line_that_looks_like_a_file_header_is_coloured_as_removed():
    patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n--- a comment\n+++ x\ndiff --git a/y b/y\n--- a/y"
    assert [kind for kind, _ in coloured(patch)] == ["file", "hunk", "del", "add", "file"]


def test_a_report_that_cannot_be_written_leaves_the_old_file_and_raises_one_sentence(two_steps, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(ReportError, match="No space left on device. Give a file"):
        write_report([two_steps], out)
    assert out.read_text() == "old" and not list(tmp_path.glob(".report*"))


def test_a_report_without_a_run_is_refused_with_one_sentence(tmp_path):
    with pytest.raises(ReportError, match="Name at least one folder"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(NoRun):
        write_report([tmp_path], tmp_path / "report.html")


def test_the_first_facts_of_a_recipe_show_no_token(tmp_path):
    token = "hf_" + "a1B2c3D4" * 3
    lab(tmp_path / "run", [3.9], f"env: toy\nmodel_name_or_path: https://user:{token}@host/model\n")
    html = page_of(tmp_path / "run")
    assert "<dt>model_name_or_path</dt><dd>https://host/model</dd>" in html and token not in html
