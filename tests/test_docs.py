"""README, docs and examples: links, sizes, and every command and snippet of README and the start shelf."""

import ast
import asyncio
import importlib
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from doc_blocks import ROOT, Session, blocks, check_arguments, commands

REPOSITORY = "https://github.com/ideator-rl/ideator-rl/blob/main/"
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.M | re.S)
CODE = re.compile(rf"{FENCED.pattern}|`[^`\n]+`", re.M | re.S)
TRACKED = [ROOT / name for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()]
PAGES = [path for path in TRACKED if path.suffix == ".md" and "templates" not in path.parts]
OURS = [path for path in PAGES if "docs" in path.parts or path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md")]
FOLLOWED = [ROOT / "README.md", *sorted((ROOT / "docs" / "start").glob("*.md"))]
"""Pages whose every command and snippet is run."""
DIALECT = re.compile(r"\b(nobody|somebody|whoever|stands?|says?|said|sitting|besides?|tells?|told)\b", re.I)


def name_of(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    names = set()
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.M):
        text = unicodedata.normalize("NFKC", re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)).lower()
        names.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.removeprefix(REPOSITORY).partition("#")
        if re.match(r"\w+:", path):
            continue
        file = ROOT / path if target.startswith(REPOSITORY) else (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}: no such heading, but {sorted(anchors(file))}"


def test_every_page_and_figure_that_code_names_exists():
    for file in TRACKED:
        if file.suffix in (".py", ".yaml", ".toml", ".j2") and not {"plugin_0_1_0", "run_0_1_0"} & set(file.parts):
            for name in re.findall(r"docs/[\w/-]+\.(?:md|svg)", file.read_text(encoding="utf-8")):
                assert (ROOT / name).is_file(), f"{name_of(file)} names {name}"


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_files_and_imports_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(
        r"(?<![\w/])(?:ideator_rl|rewards|envs|recipes|benchmarks|tests)/[\w/.]*\w/?(?![\w*]*\*)", text
    ):
        assert (ROOT / name).exists(), name
    for module, names in re.findall(r"^from ((?:ideator_rl|rewards)(?:\.[\w.]+)?) import ([\w, ]+)", text, re.M):
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"from {module} import {name}"


def test_the_architecture_page_answers_questions_with_files_that_hold_the_names():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| Where .*\? \| (.*) \| (.*) \|$", page, re.M)
    assert len(rows) >= 15
    for files, names in rows:
        texts = [(ROOT / link.removeprefix(REPOSITORY)).read_text(encoding="utf-8") for link in LINK.findall(files)]
        for name in re.findall(r"`(\w+)`", names):
            assert any(re.search(rf"^ *(?:class|def|async def) {name}\b", text, re.M) for text in texts), name


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_pages_are_written_in_plain_words(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    matches = DIALECT.findall(text)
    assert len(matches) <= max(1, len(text.split()) / 1000), matches


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in LINK.findall(index)}
    missing = set((ROOT / "docs").rglob("*.md")) - linked - {ROOT / "docs" / "index.md"}
    assert not missing


def test_the_readme_has_about_nine_hundred_words():
    assert 850 <= len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 950


def test_the_glossary_has_at_most_25_terms():
    rows = re.findall(r"^\| (?!term)(?!-)", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.M)
    assert 10 <= len(rows) <= 25


@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
def test_every_block_to_be_followed_has_a_way_to_be_tested(page):
    for block in blocks(page):
        assert block.mode or block.language in ("text", ""), f"no `<!-- test: … -->` in front of:\n{block.text}"


@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
def test_commands_and_snippets_work_in_their_cheap_form(page, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session(tmp_path, slow=False, call=call)
    for block in blocks(page):
        if block.mode:
            session.run(block)


@pytest.mark.parametrize("page", [page for page in OURS if page not in FOLLOWED], ids=name_of)
def test_other_snippets_parse_and_other_commands_have_known_options(page):
    for block in blocks(page):
        if block.language == "python" and "…" not in block.text:
            compile(block.text, name_of(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for line in commands(block.text) if block.language == "sh" else ():
            if line.startswith("ideator-rl") and line.count("'") % 2 == 0:
                check_arguments(re.sub(r"[\[\]…]|--key value|\|\S+", "", line))


def test_the_streamed_reward_of_the_docs_gives_one_reward_per_completion():
    names = {}
    exec(blocks(ROOT / "docs" / "how-to" / "own-reward.md")[1].text, names)
    assert asyncio.run(names["measured_reward"](prompts=["", ""], completions=["abca", "a"])) == [3.0, 1.0]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
def test_commands_and_snippets_work_as_they_are_written(page, tmp_path):
    session = Session(tmp_path, slow=True)
    for block in blocks(page):
        if block.mode:
            session.run(block)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "first_experiments.ipynb", as_version=4)
    assert len(notebook.cells) <= 8
    nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("succeeded" in output.get("text", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_the_docs_site_builds_without_a_warning(tmp_path):
    zensical = shutil.which("zensical", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if zensical is None:
        pytest.skip("the extra `docs` is not installed")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    built = subprocess.run([zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "site" / "start" / "quickstart" / "index.html").read_text(encoding="utf-8")
    assert "make quickstart" in page
    assert "fonts.googleapis.com" not in page
