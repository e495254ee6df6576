"""`env new` around a codebase: what it takes for code and data, what it asks, and what it says."""

import json
import shlex

import numpy as np
import pytest
import yaml

from ideator_rl.environments import codebase as codebase_module
from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.new import new_environment
from ideator_rl.errors import IdeatorError

TRAIN = "import os\nimport numpy as np\nprint('trains')\n"
TEXT = "".join(f"line {number} of the text\n" for number in range(3000))
LOCK = "".join(f'name = "package-{number}"\n' for number in range(4000))
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(60_000)
NOTEBOOK = json.dumps({"cells": [
    {"cell_type": "markdown", "source": ["# A title"]},
    {"cell_type": "code", "source": ["%matplotlib inline\n", "import numpy as np\n", "x = 1"]},
    {"cell_type": "code", "source": "!pip install torch\nprint(x)"},
], "nbformat": 4})  # fmt: skip


@pytest.fixture
def project(tmp_path):
    def write(files):
        for name, content in files.items():
            path = tmp_path / "project" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "project"

    return write


@pytest.fixture
def new(project, tmp_path):
    """The codebase that `env new` read, and its environment."""

    def make(files, **options):
        written = new_environment(tmp_path / "env", None, project(files), **options)
        return written.codebase, load_environment(tmp_path / "env")

    return make


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("model.py", "x = 1\n", "code"),
        ("long.py", "x = 1\n" * 20_000, "code"),
        ("mark.py", b"\xef\xbb\xbfx = 1\n", "code"),
        ("old.py", b"# coding: latin-1\nx = '\xe9'\n", "code"),
        ("README.md", "read me", "code"),
        ("config/small.yaml", "lr: 1", "code"),
        ("requirements.txt", "numpy\n", "code"),
        ("data/prepare.py", "x = 1\n", "code"),
        ("data/readme.md", "where it is from", "code"),
        ("run.sh", "python train.py", "code"),
        ("package/data/__init__.py", "", "code"),
        ("names.txt", TEXT, "data"),
        ("points.csv", "1,2\n" * 20_000, "data"),
        ("data/input.txt", "short\n", "data"),
        ("datasets/a/b/meta.json", "{}", "data"),
        ("corpus/speeches", TEXT, "data"),
        ("train.bin", bytes(range(256)), "data"),
        ("data/latin.txt", b"caf\xe9\n", "data"),
        ("progress.png", PICTURE, "a picture, sound or document"),
        ("data/figure.png", PICTURE, "a picture, sound or document"),
        ("paper.pdf", b"%PDF\x00", "a picture, sound or document"),
        ("uv.lock", LOCK, "a lock file"),
        ("web/package-lock.json", LOCK, "a lock file"),
        ("laws.ipynb", NOTEBOOK, "a notebook; --script takes the code cells of one"),
        ("model.pt", b"\x80\x02", "weights"),
        (".env", "KEY=secret", "hidden"),
        ("index.js", LOCK, "a long text that looks like neither code nor data"),
        ("LICENSE", LOCK, "a long text that looks like neither code nor data"),
        ("notes.md", b"caf\xe9", "not UTF-8 text (byte 3)"),
        ("python2.py", b"x = '\xe9'\n", "not UTF-8 text (byte 5)"),
    ],
)
def test_a_file_is_code_data_or_left_out_with_its_reason(new, name, content, place):
    codebase, environment = new({"main.py": TRAIN, name: content}, script="main.py")
    data = name.removeprefix("data/")
    assert (name in codebase.code, data in codebase.data) == (place == "code", place == "data")
    assert codebase.left_out.get(name) == (None if place in ("code", "data") else place)
    assert (environment.root / "data" / data).is_file() == (place == "data")
    assert (environment.root / "baseline" / name).is_file() == (place == "code")


@pytest.mark.parametrize(
    ("folder", "files", "reason"),
    [
        (".git", {"config": ""}, "hidden"),
        ("venv", {"pyvenv.cfg": "", "lib/x.py": ""}, "installed or made by tools"),
        ("a.egg-info", {"PKG-INFO": ""}, "installed or made by tools"),
        ("first", {"env.yaml": "", "baseline/a.py": "", "data/private.txt": TEXT}, "an environment"),
        ("runs/one", {"recipe.yaml": "", ".lock": "1", "x.txt": TEXT}, "a run"),
        ("out", {"log.txt": TEXT}, "ignored by .gitignore"),
    ],
)
def test_a_folder_that_is_no_part_of_the_codebase_is_left_out_as_a_whole(new, folder, files, reason):
    files = {f"{folder}/{name}": text for name, text in files.items()}
    codebase, _ = new({"train.py": TRAIN, ".gitignore": "out*\n", **files})
    assert codebase.left_out[f"{folder}/"] == reason
    assert list(codebase.code) == ["train.py"] and not codebase.data


def test_the_innermost_gitignore_decides_and_data_may_name_what_is_ignored(new):
    files = {".gitignore": "*.txt\nbuild/\n", "data/.gitignore": "!kept.txt\n", "data/kept.txt": TEXT}
    files |= {"data/dropped/a.txt": TEXT, "other.txt": TEXT, "build/x.py": "", "train.py": TRAIN}
    codebase, _ = new(files)
    assert set(codebase.data) == {"kept.txt"}
    assert codebase.left_out["other.txt"] == codebase.left_out["build/"] == "ignored by .gitignore"


@pytest.mark.parametrize("named", ["data/a/one.txt", "data/a", "{project}/data/a/one.txt"])
def test_data_takes_the_place_of_every_guess(new, project, named):
    root = project({"train.py": TRAIN, ".gitignore": "data/\n", "data/a/one.txt": TEXT, "names.txt": TEXT})
    codebase, _ = new({}, data=[named.format(project=root)])
    assert set(codebase.data) == {"a/one.txt"}
    assert codebase.left_out["names.txt"] == "data that --data does not name"


def test_a_script_in_an_ignored_folder_is_taken_and_lines_that_are_no_pattern_are_passed_over(new):
    rules = b"\xef\xbb\xbf[\n!\n\\\n# x\n\n/[a-\n\xff\n*.log\nsrc/\n"
    codebase, _ = new({"src/fit.py": TRAIN, "src/x.py": "", ".gitignore": rules, "a.log": "x"}, script="src/fit.py")
    assert list(codebase.code) == ["src/fit.py"]
    assert codebase.left_out["a.log"] == codebase.left_out["src/x.py"] == "ignored by .gitignore"


def test_a_small_file_of_a_package_that_is_called_data_is_code(new):
    codebase, _ = new({"train.py": TRAIN, "lm/data/__init__.py": "", "lm/data/vocab.txt": "a b", "data/x.txt": TEXT})
    assert "lm/data/vocab.txt" in codebase.code and list(codebase.data) == ["x.txt"]


def test_data_may_lie_outside_the_codebase(new, tmp_path):
    (tmp_path / "input.txt").write_text(TEXT)
    codebase, environment = new({"train.py": TRAIN}, data=[str(tmp_path / "input.txt")])
    assert set(codebase.data) == {"input.txt"} and (environment.root / "data" / "input.txt").read_text() == TEXT


def test_nested_data_is_split_with_its_paths_and_in_blocks_that_fit_its_length(new):
    files = {
        "train.py": TRAIN,
        "data/chars/input.txt": TEXT,
        "data/few.txt": "x" * 5000,
        "data/latin.txt": b"\xe9\n" * 99,
    }
    codebase, environment = new(files)
    data = environment.data("cpu")
    for folder in (data.public, data.private / "main", data.private / "confirm"):
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.txt")) == sorted(codebase.data)
    parts = [(folder / "chars/input.txt").read_text() for folder in (data.public, *data.private.iterdir())]
    assert sorted("".join(parts).splitlines()) == sorted(TEXT.splitlines())
    windows = load_trusted(environment.root / "evaluator.py").windows(data.private / "main")
    assert windows.dtype == np.uint8 and len(windows) > 50


def test_a_text_without_lines_is_split_between_its_characters(new):
    _, environment = new({"train.py": TRAIN, "data/long.txt": "a" + "漢字" * 3000})
    data = environment.data("cpu")
    parts = [(folder / "long.txt").read_text() for folder in (data.public, *data.private.iterdir())]
    assert sum(map(len, parts)) == 6001


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no file in .*/data; put the data there, or write another"),
        ({"data/a.txt": "few"}, "a.txt holds only 3 bytes; remove it, or put more data there"),
        ({"data/a.bin": b"\0" * 9999}, "a.bin is no text: write another"),
    ],
)
def test_data_that_cannot_be_split_is_called_by_its_name_and_never_a_full_disk(new, files, message):
    _, environment = new({"train.py": TRAIN, **files})
    with pytest.raises(IdeatorError, match=rf"{message}.*prepare.py, line \d+: raise ") as refusal:
        environment.data("cpu")
    assert "XDG_CACHE_HOME" not in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def prepare(a, b, c):\n    open('/nowhere/at/all')\n", r"FileNotFoundError.*/nowhere/at/all.*line 2: open\("),
        ("def prepare(a, b, c):\n    raise SystemExit('no key')\n", r"SystemExit: no key.*line 2: raise SystemExit"),
        (
            "import no_such_module\n",
            r"ModuleNotFoundError: No module named 'no_such_module'.*line 1: import no_such_module",
        ),
        ("def version():\n    return 1 / 0\n", r"state its version\(\): ZeroDivisionError.*line 2: return 1 / 0"),
        ("def sources():\n    return {}['a']\n", r"name its sources\(\): KeyError: 'a'.*line 2: return"),
        ("def prepare(:\n", r"SyntaxError.*line 1: def prepare\(:"),
        ("x = 1\n", r"it has no function prepare\(public, private, preset\)"),
    ],
)
def test_an_error_of_prepare_is_one_sentence_with_its_file_and_line(new, body, message):
    _, environment = new({"train.py": TRAIN})
    (environment.root / "prepare.py").write_text(body)
    with pytest.raises(IdeatorError, match=rf"/prepare.py could not .*{message}"):
        environment.data("cpu")


@pytest.mark.parametrize(
    ("files", "script", "path"),
    [
        ({"fit.py": TRAIN}, "fit.py", []),
        ({"setup.py": "", "fit.py": TRAIN}, "fit.py", []),
        ({"train.py": TRAIN, "sample.py": ""}, "train.py", []),
        ({"a.py": "", "b.py": "", "experiments/train.py": TRAIN}, "experiments/train.py", []),
        ({"src/lm/train.py": "from lm.model import x\n", "src/lm/model.py": "x = 1"}, "src/lm/train.py", ["src"]),
        ({"train.py": "import lm\n", "src/lm/__init__.py": ""}, "train.py", ["src"]),
        ({"train.py": "import lm\n", "lm/__init__.py": "", "src/other.py": ""}, "train.py", []),
    ],
)
def test_the_script_and_the_folders_of_pythons_path_follow_from_names_and_imports(new, files, script, path):
    codebase, environment = new(files)
    assert (codebase.script, codebase.python_path, environment.script) == (script, path, script)
    assert codebase.script_reason and environment.scorer == script.rpartition("/")[2].removesuffix(".py") + ":load"


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a.py": "", "b.py": ""}, {}, "Which file of .* trains. Give --script, one of: a.py, b.py"),
        ({"a/train.py": "", "b/train.py": ""}, {}, "--script, one of: a/train.py, b/train.py"),
        ({"a.py": "print 'x'\n"}, {}, r"a.py is not Python 3.*print\(.*, line 1. Give another"),
        ({"a.txt": "x"}, {}, "There is no Python file in"),
        ({"a.py": "x = 1\0"}, {}, r"There is no Python file in .*; left out: a.py \(holds a NUL character\)"),
        ({"a.py": "-" * 200_000 + "1\n"}, {}, "a.py is not Python 3.*too deeply nested"),
        ({"a.ipynb": NOTEBOOK}, {}, "--script, one of: a.ipynb"),
        ({"a.py": ""}, {"script": "b.py"}, "--script b.py is not a Python file of .*There are: a.py"),
        ({"a.py": "", "b.ipynb": "{}"}, {"script": "b.ipynb"}, "b.ipynb is not a notebook of format 4: KeyError"),
        ({"a.py": ""}, {"data": ["b.txt"]}, "--data b.txt: there is no such file"),
        ({"a.py": "", "c/x.py": ""}, {"metric": "a b"}, "--metric a b: expected a name such as val_loss"),
        ({"env.yaml": "", "baseline/a.py": ""}, {}, "is an environment itself"),
        ({"a.b.py": ""}, {}, "a dot in its name"),
    ],
)
def test_what_cannot_be_guessed_is_asked_in_one_sentence(new, files, options, message):
    with pytest.raises(IdeatorError, match=message):
        new(files, **options)


def test_a_module_of_the_codebase_is_never_preloaded_and_what_is_not_installed_is_listed(new, monkeypatch):
    monkeypatch.setattr(codebase_module, "_is_installed", lambda name: name in ("numpy", "torch", "counts", "wandb"))
    files = {
        "src/train.py": "import counts, numpy, lm.model, einops\nfrom . import x\nif False:\n    import wandb\n",
        "src/counts.py": "try:\n    import triton\nexcept ImportError:\n    pass\n",
        "src/lm/model.py": "import torch.nn\ndef late():\n    import pandas\n",
        "src/x.py": "",
    }
    codebase, environment = new(files, script="src/train.py")
    assert environment.preload == ("numpy", "torch", "torch._dynamo")
    assert codebase.missing == ["einops"]
    assert environment.command == ("python", "-m", "src.train") and environment.scorer == "src.train:load"


def test_the_code_cells_of_a_notebook_become_a_script(new):
    codebase, environment = new({"train.ipynb": NOTEBOOK, "helper.py": ""}, script="train.ipynb")
    code = environment.baseline("cpu")["train.py"]
    assert code == "# %%\n# %matplotlib inline\nimport numpy as np\nx = 1\n\n# %%\n# !pip install torch\nprint(x)\n"
    assert codebase.script_reason == "the code cells of train.ipynb"


@pytest.mark.parametrize(
    "name", ["a,b.py", "my train.py", "train: it's #1.py", "no.py", "{x}.py", "__NAME__.py", "1.py"]
)
def test_any_name_of_a_script_gives_a_manifest_that_loads_and_commands_that_can_be_copied(new, call, tmp_path, name):
    codebase, environment = new({name: TRAIN})
    assert environment.command == ("python", name) and environment.script == name
    (tmp_path / "has blank").mkdir()
    code, out, _ = call("env", "new", tmp_path / "has blank" / "e", "--from", tmp_path / "project")
    assert code == 0
    printed = [shlex.split(line) for line in out.splitlines() if line.startswith("  ideator-rl")]
    assert [words[3] for words in printed if words[1] == "env"] == [str(tmp_path / "has blank" / "e")]


def test_a_second_environment_inside_the_codebase_copies_neither_the_first_nor_itself(tmp_path, project, monkeypatch):
    project({"train.py": TRAIN, "data/a.txt": TEXT})
    monkeypatch.chdir(tmp_path / "project")
    for name in ("one", "two"):
        written = new_environment(tmp_path / "project" / name, None, tmp_path / "project")
        assert list(written.codebase.code) == ["train.py"] and list(written.codebase.data) == ["a.txt"]


@pytest.mark.parametrize(
    ("metric", "name", "direction", "scorer"),
    [(None, "val_loss", "min", "train:load"), ("accuracy", "accuracy", "max", ""), ("wer:min", "wer", "min", "")],
)
def test_a_metric_decides_direction_and_evaluator(new, metric, name, direction, scorer):
    _, environment = new({"train.py": TRAIN}, metric=metric)
    assert (environment.metric.name, environment.metric.direction, environment.scorer) == (name, direction, scorer)
    assert (environment.reward_transform == "identity") == (direction == "max")
    assert name in environment.task and "__" not in (environment.root / "evaluator.py").read_text().replace(
        "__main__", ""
    )


def test_the_command_says_what_was_taken_why_and_how_to_choose_otherwise(call, tmp_path, project):
    root = project({"train.py": TRAIN + "import no_such_package\n", "data/in.txt": TEXT, "x.png": PICTURE, "b.py": ""})
    code, out, _ = call("env", "new", tmp_path / "e", "--from", root)
    for text in (
        "script:    train.py (by its name; --script FILE for another)",
        "data/:     in.txt (in a folder of data) (--data PATH for other data)",
        "left out:  x.png (a picture, sound or document)",
        "metric:    val_loss:min (--metric NAME:max for another)",
        "missing:   no_such_package: imported, but not installed here",
        "preload:   numpy",
    ):
        assert text in out
    assert code == 0 and yaml.safe_load((tmp_path / "e" / "env.yaml").read_text())["packages"] == []


def test_two_files_of_one_name_are_not_merged_and_a_file_that_cannot_be_read_is_left_out(new, tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(TEXT)
    with pytest.raises(IdeatorError, match=r"would both become data/a.txt. Rename one"):
        new({"train.py": TRAIN}, data=[str(tmp_path / "one/a.txt"), str(tmp_path / "two/a.txt")])

    def refuse(path, name):
        raise PermissionError(13, "Permission denied")

    kind_of = codebase_module.kind_of
    monkeypatch.setattr(
        codebase_module, "kind_of", lambda path, name: (kind_of if name == "train.py" else refuse)(path, name)
    )
    codebase, _ = new({"train.py": TRAIN, "secret.txt": "x"}, script="./data/../train.py")
    assert codebase.left_out["secret.txt"] == "cannot be read: Permission denied"


@pytest.mark.parametrize("name", ["no", "on", "null"])
def test_a_name_that_yaml_reads_as_something_else_is_refused(name, tmp_path):
    with pytest.raises(IdeatorError, match="no word such as `no`"):
        new_environment(tmp_path / "env", name=name)


@pytest.mark.parametrize(
    ("options", "server"), [([], False), (["lm"], False), (["predictions"], True), (["score"], True)]
)
def test_an_example_ends_with_the_command_of_its_search_which_can_be_run(call, tmp_path, options, server):
    argv = ["--kind", *options] if options else []
    code, out, err = call("env", "new", tmp_path / "mine", *argv)
    assert code == 0, err
    *_, named, command = out.splitlines()
    assert named.startswith(f"{tmp_path}/mine/search.yaml is the recipe") and ("name your server" in named) == server
    program, *words = shlex.split(command)
    code, out, err = call(*words, "--dry-run")
    assert program == "ideator-rl" and code == 0, err
    assert "experiments" in out
