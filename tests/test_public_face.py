"""The names that `import ideator_rl` offers, and the import hooks behind the shipped folders and the old module paths."""

import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

import ideator_rl
from ideator_rl import _imports
from ideator_rl.registry import built_in_rewards, resolve_reward

ROOT = Path(__file__).parent.parent
TOY = ROOT / "tests" / "toy_env"


def run_python(code, folder, *, expect=0):
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == expect, result.stderr
    return result.stdout.strip()


@pytest.fixture
def own_modules(tmp_path):
    """A working directory whose own `rewards.py`, `envs/` and `recipes/` hide the shipped folders."""
    (tmp_path / "rewards.py").write_text("def mine(completions, **_):\n    return [1.0 for _ in completions]\n")
    for name in ("envs", "recipes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    return tmp_path


def test_each_public_name_resolves_after_every_sub_package_is_imported():
    for module in pkgutil.iter_modules(ideator_rl.__path__, "ideator_rl."):
        if not module.name.endswith(("__main__", ".train", ".sft")):
            importlib.import_module(module.name)
    for name in ideator_rl.__all__:
        value = getattr(ideator_rl, name)
        assert not isinstance(value, type(sys)), f"{name} is a sub-package, not a public name"
        assert name in dir(ideator_rl)


def test_importing_the_package_loads_no_torch(tmp_path):
    code = "import sys, ideator_rl; print({'torch', 'trl', 'numpy', 'yaml', 'pydantic'} & sys.modules.keys())"
    assert run_python(code, tmp_path) == "set()"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ideator_rl.nonsense


@pytest.mark.parametrize("order", [("rewards", "ideator_rl.rewards"), ("ideator_rl.rewards", "rewards")])
def test_a_shipped_file_is_one_module_object_under_both_names(order, tmp_path):
    first, second = order
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {first}.execution as a, {second}.execution as b, pickle\n"
        "print(a is b, pickle.loads(pickle.dumps(a.execution_reward)) is b.execution_reward)"
    )
    assert run_python(code, tmp_path) == "True True"


def test_built_ins_load_where_own_modules_hide_the_shipped_folders(own_modules):
    code = (
        "import ideator_rl, rewards, envs\n"
        "from ideator_rl.registry import built_in_rewards, environment_names, resolve_reward\n"
        "from ideator_rl.rewards.execution import execution_reward\n"
        "names = [resolve_reward(name).__module__ for name in built_in_rewards()]\n"
        "assert all(name.startswith('ideator_rl.rewards.') for name in names), names\n"
        "assert resolve_reward('rewards.mine') is rewards.mine\n"
        "for name in environment_names(): ideator_rl.load_environment(name)\n"
        "import ideator_rl.envs.landscape.implementer\n"
        "print(execution_reward is ideator_rl.execution_reward)"
    )
    assert run_python(code, own_modules) == "True"


def test_a_hidden_reward_is_refused_with_what_to_write_instead(own_modules):
    code = (
        "from ideator_rl.registry import UnknownName, resolve_reward\n"
        "try:\n    resolve_reward('rewards.execution.execution_reward')\n"
        "except UnknownName as error:\n    print(error)"
    )
    assert "Write ideator_rl.rewards.execution.execution_reward for ours" in run_python(code, own_modules)


def command(folder, *words):
    words = [sys.executable, "-m", "ideator_rl.cli", *map(str, words)]
    # The current folder comes first on sys.path, as under `accelerate launch -m`.
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment)


def test_a_dry_run_works_where_own_modules_hide_the_shipped_folders(own_modules):
    rewards = "--reward_funcs", "[execution, rewards.mine, ideator_rl.rewards.length.length_reward]"
    ended = command(own_modules, "train", "quickstart.yaml", "--dry-run", *rewards)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_dry_run_refuses_a_hidden_reward_with_what_to_write_instead(own_modules):
    refused = command(
        own_modules, "train", "quickstart.yaml", "--dry-run", "--reward_funcs", "rewards.format.format_reward"
    )
    assert refused.returncode == 2 and "Write ideator_rl.rewards.format.format_reward for ours" in refused.stderr


@pytest.mark.slow
def test_training_works_where_own_modules_hide_the_shipped_folders(own_modules):
    recipe = ROOT / "tests" / "toy_recipe.yaml"
    words = "--env", TOY, "--output_dir", "run", "--max_steps", "1", "--reward_funcs", "[execution, rewards.mine]"
    ended = command(own_modules, "train", recipe, *words)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (own_modules / "run" / "report.html").is_file()


def test_built_in_rewards_need_no_entry_points(monkeypatch):
    monkeypatch.setattr("ideator_rl.registry.entry_points", lambda group: ())
    for name in built_in_rewards():
        assert callable(resolve_reward(name))


def test_the_entry_points_of_the_wheel_are_the_built_in_rewards():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["ideator_rl.rewards"]
    assert {name: path.replace(":", ".") for name, path in points.items()} == built_in_rewards()


@pytest.mark.parametrize("old", sorted(_imports.OLD_MODULES))
def test_a_module_path_of_0_1_0_imports_and_warns(old):
    sys.modules.pop(f"ideator_rl.{old}", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(f"ideator_rl.{old}")
    new = importlib.import_module(f"ideator_rl.{_imports.OLD_MODULES[old]}")
    assert any(issubclass(warning.category, DeprecationWarning) for warning in caught)
    public = next(name for name in vars(new) if not name.startswith("_") and name != "annotations")
    assert getattr(module, public) is getattr(new, public)


@pytest.mark.parametrize("old", sorted(_imports.OLD_NAMES))
def test_a_name_of_0_1_0_resolves_to_the_new_one(old):
    module, _, name = old.rpartition(".")
    new_module, _, new_name = _imports.OLD_NAMES[old].rpartition(".")
    with pytest.warns(DeprecationWarning):
        value = getattr(importlib.import_module(f"ideator_rl.{module}"), name)
    assert value is getattr(importlib.import_module(f"ideator_rl.{new_module}"), new_name)


def test_a_module_imported_while_another_thread_imports_its_folder_is_the_same_object():
    # The other thread has put `rewards` into sys.modules, and its `__init__.py` has not made it an alias yet.
    code = (
        "import importlib.util, sys, ideator_rl;"
        "sys.modules['rewards'] = importlib.util.module_from_spec(importlib.util.find_spec('rewards'));"
        "import rewards.options, ideator_rl.rewards.options;"
        "assert rewards.options.Option is ideator_rl.rewards.options.Option;"
        "assert sys.modules['rewards.options'] is ideator_rl.rewards.options"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
