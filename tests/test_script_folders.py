"""A script in a folder of its codebase starts as `python SCRIPT` would start it, and so does its scorer."""

from dataclasses import replace

import numpy as np
import pytest

from ideator_rl.environments.environment import Budget, Resources, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import WORKSPACE
from ideator_rl.sandbox.sealed_run import Command, run
from ideator_rl.scoring.scoring import Request, ScoringRun

FOLDERS = ("experiments", "src", "")


@pytest.fixture
def tree(tmp_path, no_other_children):
    folder = tmp_path / "tree"
    files = {
        "experiments/train.py": "import counts, package, root_module\nprint(counts.VALUE + package.VALUE)\n"
        "def load(artifact):\n    import numpy as np\n"
        "    return lambda tokens: np.full((*tokens.shape, 2), counts.VALUE + package.VALUE, np.float32)\n",
        "experiments/counts.py": "VALUE = 1\n",
        "counts.py": "raise SystemExit('the root came before the script's own folder')\n",
        "src/package/__init__.py": "VALUE = 2\n",
        "root_module.py": "",
        "artifact/model": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_a_script_finds_the_modules_beside_it_first_then_those_of_the_declared_folders_and_the_root(tree):
    command = Command(("python", "experiments/train.py"), (), {"PATH": "/usr/bin:/bin"}, FOLDERS)
    ended = run(best_sandbox(), command, Mounts({tree: WORKSPACE}), Budget("cpu", 5, 10), Resources())
    assert (ended.status, ended.log) == ("ok", "3\n"), ended.log


def test_a_scorer_imports_from_the_same_folders(tree):
    options = {"folders": FOLDERS, "sandbox": best_sandbox(), "tree": tree, "vocab": 2, "scorer": "train:load"}
    folders = {"artifact": tree / "artifact", "private": tree / "artifact", "public": tree / "artifact"}
    scoring = ScoringRun(**folders, preset="cpu", seed=0, settings={}, **options)
    with scoring.open_scorer() as scorer:
        (answer,) = scorer.stream([Request(np.zeros((1, 2), np.int32))])
        assert float(answer[0, 0, 0]) == 3


@pytest.mark.parametrize(
    ("command", "folders"),
    [
        (("python", "train.py"), ("", "src")),
        (("python", "./train.py", "-x"), ("", "src")),
        (("python", "experiments/train.py"), ("experiments", "src", "")),
        (("python", "src/train.py"), ("src", "")),
        (("python", "-m", "package.train"), ("", "src")),
        (("make", "train"), ("", "src")),
    ],
)
def test_python_imports_from_the_folder_of_the_script_the_declared_ones_and_the_root(toy, command, folders):
    environment = replace(load_environment(toy), command=command, python_path=("src",))
    assert environment.import_folders == folders


@pytest.mark.parametrize("folder", ["/usr", "../other", "a:b", ""])
def test_a_folder_outside_the_codebase_is_refused_in_python_path(toy, tmp_path, folder):
    (tmp_path / "env.yaml").write_text((toy / "env.yaml").read_text() + f"python_path: ['{folder}']\n")
    with pytest.raises(IdeatorError, match="python_path"):
        load_environment(tmp_path)


def test_a_module_of_a_source_folder_starts_with_its_preload_as_python_m_would(tree):
    (tree / "src" / "package" / "train.py").write_text(
        "import sys\nfrom . import VALUE\nprint(VALUE, 'json' in sys.modules, sys.argv[1:], __name__)\n"
    )
    command = Command(("python", "-m", "package.train", "-x"), ("json",), {"PATH": "/usr/bin:/bin"}, ("", "src"))
    ended = run(best_sandbox(), command, Mounts({tree: WORKSPACE}), Budget("cpu", 5, 10), Resources())
    assert (ended.status, ended.log) == ("ok", "2 True ['-x'] __main__\n"), ended.log
