"""An environment: a folder with a baseline codebase, `env.yaml`, prompts, and a trusted evaluator.

All facts about an environment are in its folder; the library names none.  Loading checks `env.yaml`: a missing file, an
unknown key or a wrong type raises one clear sentence.  The code in the folder (evaluator, prepare) is trusted; the
baseline is what ideas change.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import read_bytes, read_json, read_text
from ideator_rl.environments.assignment import assign
from ideator_rl.environments.data import Data, DataSource, loaded_modules, prepared
from ideator_rl.environments.preset import FEEDBACK_STATUS, Budget, Metric, Preset, Resources, Suspicious
from ideator_rl.errors import IdeatorError
from ideator_rl.files import cache_root, write_atomic
from ideator_rl.patch import PatchError, Rules, Tree, read_tree, tree_hash
from ideator_rl.patch.judge import is_protected
from ideator_rl.patch.shown_files import FILES_TOKENS, shown_files, without_foreign_tokens
from ideator_rl.registry import environment_folder, environment_names

__all__ = ["Budget", "Environment", "EnvironmentError_", "Metric", "Preset", "Resources", "Suspicious",
           "load_environment"]  # fmt: skip


class EnvironmentError_(IdeatorError):
    """The environment's folder or manifest is not usable."""


@dataclass(frozen=True)
class Environment:
    """An environment as one of its presets has it (see `at`), or with the values that hold where none replaces them."""

    name: str
    root: Path
    title: str
    task: str
    command: tuple[str, ...]
    preload: tuple[str, ...]
    rules: Rules
    metric: Metric
    reward_transform: str
    failure_reward: float
    presets: dict[str, Preset]
    evaluator: str
    scorer: str
    scorer_code: str
    """Code that answers the evaluator: the `patched` codebase's, or the `baseline`'s if ideas change weights only."""
    prepare: str | None
    catalogue_path: Path | None
    settings_file: str | None
    hidden: tuple[str, ...] = ()
    """Globs of files of the baseline that are protected, and shown neither to ideators nor to coders."""
    in_process: bool = False
    """Its codebases are data: the evaluator's `measured(tree, settings, replicate)` replaces a run."""
    known_good: str | None = None
    """A patch that improves the metric: `env check` uses it to prove that the metric moves."""
    prompt_files: dict[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    """Names of installed packages that ideas may import, in addition to what the codebase imports."""
    python_path: tuple[str, ...] = ()
    """Folders of the codebase that Python imports from, after the script's own and before the root."""
    baseline_folder: str = "baseline"
    """Folder of the codebase that ideas change, relative to `root`."""
    references: str | None = None
    """A file of results to compare with."""
    feedback: str = FEEDBACK_STATUS
    """How much ideators are shown of an experiment beyond its metric: `none`, `status` or `text`."""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Fields that presets replace, by preset; for `at`."""
    base: Environment | None = None
    """Of an environment that `at` returned: the one before."""

    def at(self, preset: str) -> Environment:
        """The environment with what the preset replaces, such as its baseline; itself where it replaces nothing.

        Raises:
            EnvironmentError_: no such preset.
        """
        base = self.base or self
        base.preset(preset)
        if preset not in base.overrides:
            return base
        if preset not in base._by_preset:
            base._by_preset[preset] = replace(base, **base.overrides[preset], base=base)
        return base._by_preset[preset]

    @cached_property
    def _by_preset(self) -> dict[str, Environment]:
        return {}

    def preset(self, name: str) -> Preset:
        """Raises: EnvironmentError_ when there is no such preset."""
        if name not in self.presets:
            raise EnvironmentError_(
                f"The environment {self.name} has no preset {name!r}. It has: {', '.join(self.presets)}."
            )
        return self.presets[name]

    @property
    def script(self) -> str:
        """The path of the script that the command runs, as `python SCRIPT`; empty for another command."""
        is_script = self.command[0] == "python" and len(self.command) > 1 and self.command[1].endswith(".py")
        return posixpath.normpath(self.command[1]) if is_script else ""

    @property
    def import_folders(self) -> tuple[str, ...]:
        """Folders of the codebase that Python imports from, in their order; empty for the root."""
        # `python SCRIPT` looks in the script's own folder; the root stands for a package that is installed from there.
        return tuple(dict.fromkeys((posixpath.dirname(self.script), *self.python_path, "")))

    @cached_property
    def _files(self) -> Tree:
        try:
            return read_tree(self.root / self.baseline_folder)
        except PatchError as error:
            folder = self.baseline_folder
            raise EnvironmentError_(
                f"{self.root}/{folder}/{error}. Move data out of {folder}/: prepare.py gives it to experiments."
            ) from None

    def baseline(self, preset: str) -> Tree:
        """The baseline codebase with the preset's settings written into its settings file."""
        environment = self.at(preset)
        tree, settings = dict(environment._files), self.preset(preset).settings
        file = environment.settings_file
        if settings and file is not None:
            source = tree[file]
            for name, value in settings.items():
                where = f"The environment {environment.name} sets {name!r}", str(environment.settings_file)
                source = assign(source, name, value, *where, error=EnvironmentError_)
            tree[file] = source
        return tree

    def digest(self, preset: str, modules: bool = True) -> str:
        """SHA-256 over all that decides a metric besides the patch: baseline, manifest, evaluator, data, budget.

        Args:
            modules: false for the digest of earlier versions, without helper modules and settings of the evaluator.
        """
        here, keys = self.at(preset), self.preset(preset)
        parts = {
            "baseline": tree_hash(self.baseline(preset)),
            "command": here.command,
            "preload": here.preload,
            "evaluator": _file_hash(self.root / here.evaluator),
            "scorer": [here.scorer, here.scorer_code],
            "data": self.data_source(preset).identity(modules),
            "metric": [here.metric.name, here.metric.direction, here.metric.plausible],
            "budget": [keys.budget.clock, keys.budget.seconds, keys.budget.startup_allowance],
            "resources": keys.resources.identity(),
            "vocab": keys.vocab,
            "suspicious": asdict(keys.suspicious) if keys.suspicious else None,
            **keys.identity(),
        }
        if here.metric.require:
            parts["require"] = here.metric.require
        if here.python_path:
            parts["python_path"] = here.python_path
        if here.metric.is_reported:
            parts["source"] = here.metric.source
        if self.in_process:
            parts["in_process"] = [keys.settings, {p.name: _file_hash(p) for p in sorted(self.root.glob("*.py"))}]
        elif modules:
            # The evaluator gets settings that are in no file of the baseline, and may load modules of its folder.
            if keys.settings and here.settings_file is None:
                parts["settings"] = keys.settings
            if loaded := loaded_modules(self.root / here.evaluator):
                parts["modules"] = loaded
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def data(self, preset: str) -> Data:
        """The prepared data; the first call prepares it, under a lock, in the user's cache.

        Raises:
            IdeatorError: it cannot be prepared, or needs source files: see `ideator-rl env prepare`.
        """
        return prepared(self.data_source(preset))

    def data_source(self, preset: str) -> DataSource:
        """How the data of a preset are prepared."""
        prepare = self.at(preset).prepare
        return DataSource(self.name, self.root, self.root / prepare if prepare else None, preset)

    def is_hidden(self, path: str) -> bool:
        """Whether a file of the baseline is shown neither to ideators nor to coders."""
        return is_protected(path, Rules(editable=(), protected=self.hidden)) is not None

    def shows_code(self, preset: str, kind: str = "short") -> bool:
        """Whether a prompt holds `{files}`."""
        return "{files}" in self._prompt_text(preset, kind)

    def prompt(
        self, preset: str, kind: str = "short", tree: Tree | None = None, budget: int = FILES_TOKENS, note: str = ""
    ) -> str:
        """The text that asks the ideator for one idea; `{task}` and `{files}` are filled in.

        Args:
            tree: the codebase to show, also by a prompt without `{files}`, at its end; None for the baseline.
            budget: tokens of the codebase, at most; see `patch.shown_files`.
            note: what precedes the files.

        Raises:
            EnvironmentError_: no prompt of that kind.
        """
        environment, text = self.at(preset), self._prompt_text(preset, kind)
        if tree is not None and "{files}" not in text:
            text += "\n\nThe code:\n\n{files}"
        files = ""
        if "{files}" in text:
            baseline = self.baseline(preset)
            code = baseline if tree is None else without_foreign_tokens(tree, baseline)
            visible = {path: body for path, body in code.items() if not self.is_hidden(path)}
            files = note + shown_files(visible, environment.command, "", budget).rstrip("\n")
        # One pass: braces in the files and in the task are theirs.
        return re.sub(
            r"\{task\}|\{files\}", lambda field: {"{task}": environment.task, "{files}": files}[field[0]], text
        ).strip()

    def _prompt_text(self, preset: str, kind: str) -> str:
        environment = self.at(preset)
        if kind not in environment.prompt_files:
            raise EnvironmentError_(
                f"The environment {self.name} has no prompt {kind!r}. It has: {', '.join(environment.prompt_files)}."
            )
        return read_text(self.root / environment.prompt_files[kind], error=EnvironmentError_)


def load_environment(name_or_path: str | Path) -> Environment:
    """Load an environment by name, by dotted entry point, or by the path of its folder.

    Raises:
        EnvironmentError_: no such folder, or a manifest that is not usable.
    """
    root = environment_folder(str(name_or_path))
    if root is None:
        if Path(name_or_path).is_dir():
            raise EnvironmentError_(
                f"There is no environment named {str(name_or_path)!r}. For the folder: ./{name_or_path}"
            )
        raise EnvironmentError_(
            f"There is no environment {str(name_or_path)!r}. Known names: {', '.join(environment_names()) or 'none'}; "
            "or give the path of a folder with an env.yaml, such as ./my_env."
        )
    path = root / "env.yaml"
    try:
        path.lstat()
    except FileNotFoundError:
        raise EnvironmentError_(f"The environment folder {root} has no env.yaml. Add one.") from None
    text = read_bytes(path, error=EnvironmentError_)
    cached = _cached_keys(text)
    # What is not as it was written, whatever it is, counts as missing.
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        if cached is not None:
            return _build(root, read_json(cached))
    keys = _read_keys(path, text)
    environment = _build(root, keys)
    # Settings may hold what JSON does not: these are checked each time.
    with suppress(OSError, TypeError, ValueError):
        settings = {name: preset["settings"] for name, preset in keys["presets"].items()}
        if cached is not None and json.loads(json.dumps(settings)) == settings:
            write_atomic(cached, json.dumps(keys))
    return environment


def _cached_keys(text: bytes) -> Path | None:
    """The file that caches the checked keys of an env.yaml; None where this user has no cache.

    It is named by a hash of the env.yaml and of the code that checks it.  An experiment loads its environment in two
    processes, and the check imports pydantic and PyYAML, which take longer than all the rest of such a process.
    """
    config = Path(__file__).parents[1] / "config"
    checks = [Path(__file__).with_name("manifest.py"), *(config / f"{name}.py" for name in ("base", "yaml_reader"))]
    try:
        code = b"".join(file.read_bytes() for file in checks)
        return cache_root() / "manifests" / f"{hashlib.sha256(text + code).hexdigest()}.json"
    except (OSError, RuntimeError):  # no source files; no home folder
        return None


def _read_keys(path: Path, text: bytes) -> dict[str, Any]:
    """The checked keys of an env.yaml."""
    from ideator_rl.config.yaml_reader import parse_yaml
    from ideator_rl.environments.manifest import read_manifest

    return read_manifest(parse_yaml(text, str(path), EnvironmentError_), path, EnvironmentError_)


REPLACEABLE = (
    "baseline", "command", "preload", "python_path", "task", "prompts", "catalogue", "known_good", "settings_file",
    "prepare", "evaluator", "scorer", "scorer_code", "protected", "max_bytes", "max_compressed_bytes",
)  # fmt: skip
"""Keys of env.yaml that a preset may replace, and `plausible` of the metric."""


def _require_files(keys: dict[str, Any], root: Path, where: str = "") -> None:
    """
    Args:
        where: what precedes the names of keys in messages.

    Raises:
        EnvironmentError_: the folder lacks a file that the keys name.
    """
    path = root / "env.yaml"
    files = {key: keys[key] for key in ("prepare", "catalogue", "known_good", "references") if keys[key]}
    files |= {key: keys[key] for key in ("task", "evaluator")}
    files |= {f"prompts.{kind}": name for kind, name in keys["prompts"].items()}
    for key, name in files.items():
        if not (root / name).is_file():
            raise EnvironmentError_(
                f"{path}: {where}{key} names {name}, but there is no such file in {root}. Add it, or correct the name."
            )
    folder = keys["baseline"]
    if not (root / folder).is_dir():
        raise EnvironmentError_(f"{path}: there is no folder {folder}/ in {root}. Put the baseline codebase there.")
    if (name := keys["settings_file"]) and not (root / folder / name).is_file():
        raise EnvironmentError_(f"{path}: {where}settings_file names {name}, but {folder}/ has no such file.")


def _build(root: Path, keys: dict[str, Any]) -> Environment:
    _require_files(keys, root)
    fields, overrides = _fields(root, keys), {}
    for name, preset in keys["presets"].items():
        replaced = {key: preset[key] for key in REPLACEABLE if preset[key] is not None}
        metric = keys["metric"] | ({"plausible": preset["plausible"]} if preset["plausible"] is not None else {})
        own = keys | replaced | {"metric": metric}
        _require_files(own, root, f"presets.{name}: ")
        changed = {field: value for field, value in _fields(root, own).items() if value != fields[field]}
        if changed:
            overrides[name] = changed
    environment = Environment(
        name=keys["name"],
        root=root,
        title=keys["title"],
        packages=tuple(keys["packages"]),
        hidden=tuple(keys["hidden"]),
        reward_transform=keys["reward"]["transform"],
        failure_reward=float(keys["reward"]["failure"]),
        presets={name: Preset.from_keys(name, preset) for name, preset in keys["presets"].items()},
        in_process=keys["in_process"],
        references=keys["references"],
        feedback=keys["feedback"],
        overrides=overrides,
        **fields,
    )
    for preset in environment.presets:
        environment.baseline(preset)  # raises where a setting is not assigned exactly once
    return environment


def _fields(root: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """The fields of an environment that a preset may replace."""
    # What defines the environment, and the artifact, are never an idea's to change.
    own_files = [*(keys[key] for key in ("evaluator", "task", "prepare", "catalogue", "known_good", "references"))]
    fixed = (*(name for name in (*own_files, *keys["prompts"].values()) if name), "env.yaml", "artifact", "artifact/**")
    return {
        "task": read_text(root / keys["task"], error=EnvironmentError_).strip(),
        "command": tuple(keys["command"]),
        "preload": tuple(keys["preload"]),
        "python_path": tuple(posixpath.normpath(folder) for folder in keys["python_path"]),
        "rules": Rules(
            editable=tuple(keys["editable"]),
            protected=(*keys["protected"], *keys["hidden"], *fixed),
            max_bytes=keys["max_bytes"],
            max_compressed_bytes=keys["max_compressed_bytes"],
            evolve_blocks=keys["evolve_blocks"],
        ),
        "metric": Metric(**keys["metric"] | {"plausible": tuple(keys["metric"]["plausible"])}),
        "evaluator": keys["evaluator"],
        "scorer": keys["scorer"],
        "scorer_code": keys["scorer_code"],
        "prepare": keys["prepare"],
        "catalogue_path": root / keys["catalogue"] if keys["catalogue"] else None,
        "settings_file": keys["settings_file"],
        "known_good": keys["known_good"],
        "prompt_files": keys["prompts"],
        "baseline_folder": posixpath.normpath(keys["baseline"]),
    }


def joined_folders(root: str, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Folders of a codebase below the folder that holds it."""
    return tuple(posixpath.join(root, folder).rstrip("/") for folder in folders)


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
