"""Reads the imports of every module and checks that they point one way, from a layer to those before it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "ideator_rl"

LAYERS = [
    {
        "_imports",
        "errors",
        "ideas",
        "experiment",
        "registry",
        "config",
        "files",
        "text",
        "progress",
        "patch",
    },
    {"environments", "storage", "llm", "reward"},
    {"executor", "implementers", "sandbox", "scoring"},
    {"reward_buffer", "evaluation"},
    {"archive", "diversity", "checks", "screen"},
    {"training", "search", "report"},
    {"publishing", "bridges", "cli", "train", "sft"},
]
"""A package imports from its own line and from those above it."""
NO_SIBLINGS = LAYERS[5]
"""These three do not import one another."""
LAZY = {
    "evaluation/generated.py",
    "evaluation/generator.py",
    "llm/model_check.py",
    "llm/model_files.py",
    "screen/hidden.py",
    "search/ideators/local.py",
    "search/ideators/sampling.py",
}
"""Beside training, these may use torch and its kin, inside functions: they run a language model."""
ONE_HOME = {"obstore": "storage/object_store.py", "wandb": "publishing/trackers.py"}
"""A package that only one module imports."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    return sorted(path for path in CORE.rglob("*.py") if "templates" not in path.parts)


def imports(path, top=False):
    """Every dotted name that a module imports, at its top or, unless only that is asked for, inside a function."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top else ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from names


def room(path):
    """The package or module at the root that a file belongs to."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def test_every_module_has_a_layer():
    unknown = {room(path) for path in modules()} - set(LEVEL) - {"__init__"}
    assert not unknown, f"say in LAYERS where these belong: {sorted(unknown)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CORE)))
def test_imports_point_one_way(path):
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "ideator_rl" and len(parts) > 1 and parts[1] in LEVEL and room(path) != "__init__":
            assert LEVEL[parts[1]] <= LEVEL[room(path)], f"{path.name} imports {name} from a later layer"
            if {parts[1], room(path)} <= NO_SIBLINGS:
                assert parts[1] == room(path), f"{path.name} imports {name} from a sibling package"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CORE)))
def test_heavy_packages_stay_in_their_rooms(path):
    lazy = {"torch", "transformers", "tokenizers"} if str(path.relative_to(CORE)) in LAZY else set()
    for name in imports(path):
        package = name.split(".")[0]
        home = ONE_HOME.get(package, str(path.relative_to(CORE)))
        assert home == str(path.relative_to(CORE)), f"{path.name} imports {name}: only {home} does"
        if package in lazy and name not in imports(path, top=True):
            continue
        if package in ("trl", "peft", "transformers", "datasets", "tokenizers"):
            assert room(path) in ("training", "publishing", "train"), f"{path.name} imports {name} outside training/"
        if package == "torch":
            assert room(path) in ("training", "publishing", "evaluation"), (
                f"{path.name} imports torch outside its rooms"
            )
        shipped = name.removeprefix("ideator_rl.").split(".")[0]
        # The package's face names the execution reward for type checkers.
        if room(path) != "__init__":
            assert shipped not in ("rewards", "envs", "recipes"), f"{path.name} imports {name}: use the registry"


def test_no_modules_import_one_another_in_a_circle():
    files = [file for folder in ("ideator_rl", "rewards", "envs") for file in (ROOT / folder).rglob("*.py")]
    name_of = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    graph = {name: set() for name in name_of.values()}
    for file, name in name_of.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                module = f"{base}.{node.module}" if node.level and node.module else node.module or base
                targets = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for target in targets:
                for shipped in ("rewards", "envs"):
                    target = target.replace(f"ideator_rl.{shipped}", shipped)
                if target in graph and target != name and file.name != "__init__.py":
                    graph[name].add(target)
    # A package's `__init__` is left out as a source: it only names what lies below it.
    tuple(TopologicalSorter(graph).static_order())


def test_the_core_names_no_environment():
    names = [path.parent.name for path in (ROOT / "envs").glob("*/env.yaml")]
    for path in modules():
        for name in names:
            assert name not in path.read_text(), f"{path.name} names the environment {name}"


def test_importing_the_package_does_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, ideator_rl.reward_buffer; print([m for m in ('torch', 'trl', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
