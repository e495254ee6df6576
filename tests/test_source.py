"""Files are read and written as Python reads them, prompts are filled in once, and only what a patch changes is judged."""

import shutil

import pytest

from ideator_rl.checks import proofs
from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import PatchError, Rules, apply_patch, diff, judge, patched_tree, read_tree, write_tree
from ideator_rl.patch.import_graph import imported_files
from ideator_rl.patch.shown_files import shown_files
from ideator_rl.patch.source import BYTE_ORDER_MARK, decoded, encoded

BLOCK = "train.py\n<<<<<<< SEARCH\n{}\n=======\n{}\n>>>>>>> REPLACE\n"
CODE = "import counts\nx = 1\ny = 2\nz = 3\nw = 4\n"
RULES = Rules(editable=("*.py",))


@pytest.fixture
def copy(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "env"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.py", b"\xef\xbb\xbfx = 1\n", "\ufeffx = 1\n"),
        ("a.txt", b"\xef\xbb\xbfx\n", "\ufeffx\n"),
        ("a.py", b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", "# -*- coding: latin-1 -*-\nx = 'é'\n"),
        ("a.py", b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nx = '\x80'", None),
        ("a.py", b"# coding: shift_jis\nx = '\x83e'\n", "# coding: shift_jis\nx = 'テ'\n"),
        ("a.py", b"x = 1\r\n# coding: latin-1\r\n", "x = 1\r\n# coding: latin-1\r\n"),
        ("a.py", b"# coding: no-such-thing\nx = 1\n", "# coding: no-such-thing\nx = 1\n"),
        ("a.py", b"", ""),
    ],
)
def test_a_file_is_written_as_it_was_read(name, data, text):
    assert encoded(name, decoded(name, data)) == data
    assert text is None or decoded(name, data) == text


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"# coding: latin-1\n\xe9\n", "not UTF-8 text"),
        ("a.py", b"x = '\xe9'\n", "not UTF-8 text"),
        ("a.py", b"x = '\0'\n", "NUL"),
        ("a.py", b"# coding: shift_jis\nx = '\x83'\n", "not shift_jis text"),
    ],
)
def test_a_file_that_python_would_not_read_is_refused_with_its_name(name, data, reason):
    with pytest.raises(PatchError, match=f"{name}.*{reason}"):
        decoded(name, data)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-7", "raw_unicode_escape", "unicode_escape", "punycode", "idna", "undefined", "hex", "utf-16", "cp500"],
)
def test_an_encoding_by_which_python_would_run_another_text_is_refused(encoding, end):
    text = f"{end}# coding: {encoding}{end}# +AAo-x = 1 \\u000ax = 1{end}"
    with pytest.raises(PatchError, match="declare utf-8") as refusal:
        judge({}, {"a.py": text}, RULES)
    assert refusal.value.kind == "rejected"
    with pytest.raises(PatchError):
        decoded("a.py", text.encode())


def test_a_character_that_an_encoding_would_read_as_another_is_refused():
    with pytest.raises(PatchError, match="another text in shift_jis"):
        encoded("a.py", "# coding: shift_jis\nx = '¥n'\n")


@pytest.mark.parametrize(
    "patch",
    [
        BLOCK.format("import counts\nx = 1", "import counts\nx = 5"),
        diff({"train.py": CODE}, {"train.py": CODE.replace("x = 1", "x = 5")}),
        "```python train.py\n# whole file\n" + CODE.replace("x = 1", "x = 5") + "```\n",
    ],
)
def test_a_patch_for_the_text_that_prompts_show_keeps_the_byte_order_mark(patch):
    changed = apply_patch({"train.py": BYTE_ORDER_MARK + CODE}, patch)
    assert changed == {"train.py": BYTE_ORDER_MARK + CODE.replace("x = 1", "x = 5")}


def test_a_diff_that_removes_or_adds_a_byte_order_mark_does_so():
    with_mark, without = {"train.py": BYTE_ORDER_MARK + CODE}, {"train.py": CODE}
    assert apply_patch(with_mark, diff(with_mark, without)) == without
    assert apply_patch(without, diff(without, with_mark)) == with_mark


def test_a_byte_order_mark_is_shown_to_no_model_and_hides_no_import(toy):
    base = {"train.py": BYTE_ORDER_MARK + CODE, "counts.py": ""}
    assert imported_files(base, "train.py") == ["counts.py"]
    for budget in (10_000, 60):
        assert BYTE_ORDER_MARK not in shown_files(base, ("python", "train.py"), "", budget)


def test_a_patched_file_keeps_its_encoding_and_what_it_cannot_hold_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.py").write_bytes(b"# coding: latin-1\nname = 'caf\xe9'\nx = 1\n")
    base = read_tree(tmp_path / "a")
    write_tree(patched_tree(base, BLOCK.format("name = 'café'", "name = 'thé'"), RULES), tmp_path / "b")
    assert (tmp_path / "b" / "train.py").read_bytes() == b"# coding: latin-1\nname = 'th\xe9'\nx = 1\n"
    with pytest.raises(PatchError, match="declare iso-8859-1, which has no '€'") as refusal:
        patched_tree(base, BLOCK.format("x = 1", "x = '€'"), RULES)
    assert refusal.value.kind == "rejected"


@pytest.mark.parametrize("head", [BYTE_ORDER_MARK, "#!/usr/bin/python\n# coding: latin-1\n", "# coding: latin-1\n", ""])
def test_a_check_that_inserts_code_into_a_script_leaves_its_first_lines_first(copy, head):
    script = copy / "baseline" / "train.py"
    script.write_bytes(encoded("train.py", head + script.read_text()))
    environment = load_environment(copy)
    tree = apply_patch(environment.baseline("cpu"), proofs.wrecking_patch(environment, "cpu"))
    assert tree["train.py"].startswith(head)
    compile(encoded("train.py", tree["train.py"]), "train.py", "exec")


def test_names_that_differ_only_in_case_are_judged_where_a_patch_adds_one():
    base = {"train.py": "x = 1\n", "README.txt": "a", "readme.txt": "b", "Lib/a.py": "", "lib/b.py": ""}
    judge(base, base | {"train.py": "x = 2\n"}, RULES)
    judge(base, {path: text for path, text in base.items() if path != "train.py"}, RULES)
    everything = Rules(editable=("**/*",))
    judge(base, base | {"readme.txt": "c", "lib/c.py": ""}, everything)
    for path in ("ReadMe.txt", "LIB/a.py", "Train.py"):
        with pytest.raises(PatchError, match="differ only in case"):
            judge(base, base | {path: "x"}, everything)


def test_braces_in_the_files_and_in_the_task_are_not_filled_in(copy):
    (copy / "baseline" / "train.py").write_text((copy / "baseline/train.py").read_text() + 'print(f"{task} {files}")\n')
    (copy / "task.md").write_text("Write {files} and {task} and {other} as they are.")
    (copy / "prompts" / "short.md").write_text("{task}\n\n{files}\n\nKeep {other}.")
    text = load_environment(copy).prompt("cpu")
    assert 'print(f"{task} {files}")' in text and text.endswith("Keep {other}.")
    assert text.startswith("Write {files} and {task} and {other} as they are.")
