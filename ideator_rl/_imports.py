"""Import hooks: the folders shipped beside this package, and the module paths of 0.1.0.

`ideator_rl.rewards`, `ideator_rl.envs` and `ideator_rl.recipes` are the folders `rewards/`, `envs/` and `recipes/` of
this distribution, found beside this package and never through `sys.path`: a `rewards.py` in the working directory
cannot hide them.  A file is one module object: `rewards.execution` is an alias of `ideator_rl.rewards.execution`.

`OLD_MODULES` maps module paths of 0.1.0 to those of today.  An import through an old path works and warns.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "ideator_rl"
ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `ideator_rl/` and the shipped folders: a checkout, or `site-packages`."""
SHIPPED = ("rewards", "envs", "recipes")

OLD_MODULES = {
    "bucket": "storage.bucket", "catalogue": "environments.catalogue.catalogue",
    "catalogue_edits": "environments.catalogue.edits", "catalogue_numbers": "environments.catalogue.numbers",
    "catalogue_text": "environments.catalogue.reading", "cli_cancel": "cli.cancel",
    "cli_environments": "cli.environments", "cli_execute": "cli.execute", "cli_export": "cli.export",
    "cli_output": "cli.output", "cli_patch": "cli.patch", "cli_rerun": "cli.rerun", "cli_runs": "cli.launch",
    "cli_scheduler": "cli.scheduler", "cli_search": "cli.search", "cli_sft": "cli.launch", "cli_target": "cli.target",
    "cli_watch": "cli.watch", "diagnostics.charts": "report.charts", "diagnostics.collapse": "diversity.alarms",
    "diagnostics.diversity": "diversity.measures", "diagnostics.embedding": "diversity.embedding",
    "diagnostics.figure_table": "diversity.figure_table", "diagnostics.figures": "report.figures",
    "diagnostics.population": "diversity.population", "diagnostics.records": "storage.run_reader",
    "diagnostics.report": "report", "diagnostics.report.answers": "report.answers",
    "diagnostics.report.changes": "report.changes", "diagnostics.report.compare": "report.compare",
    "diagnostics.report.drawings": "report.charts", "diagnostics.report.groups": "report.groups",
    "diagnostics.report.overview": "report.overview", "diagnostics.report.page": "report.page",
    "diagnostics.report.panels": "report.figures", "diagnostics.report.payload": "report.payload",
    "diagnostics.report.progress": "report.progress", "diagnostics.report.sections": "report.run_view",
    "diagnostics.report.watch": "report.collapse", "diagnostics.rows": "diversity.rows",
    "diagnostics.safe_text": "text.display", "diagnostics.summary": "report.summary",
    "diagnostics.surroundings": "diversity.environment_context", "diagnostics.watch": "diversity.watch",
    "diagnostics.window": "diversity.window", "doctor": "cli.doctor", "environment": "environments.environment",
    "environment_check": "checks.check", "environment_data": "environments.data",
    "environment_new": "environments.new", "environment_noise": "environments.noise",
    "environment_proofs": "checks.proofs", "environment_search": "checks.text_search",
    "executor.attempts": "executor.record_store", "executor.code_parts": "patch.import_graph",
    "executor.coder": "implementers.coder", "executor.coder_answer": "implementers.coder_answer",
    "executor.coder_prompt": "implementers.coder_prompt", "executor.direct": "implementers.direct",
    "executor.evaluate": "scoring.evaluate", "executor.homes": "executor.workdirs",
    "executor.implementer": "implementers.implementer", "executor.measurement": "scoring.measurement",
    "executor.patience": "executor.retry", "executor.process_tree": "sandbox.process_tree",
    "executor.rules": "implementers.rules", "executor.sandbox": "sandbox.sandbox",
    "executor.sandbox_mounts": "sandbox.mounts", "executor.scoring": "scoring.scoring",
    "executor.sealed_run": "sandbox.sealed_run", "executor.seccomp": "sandbox.seccomp",
    "executor.supervisor": "executor.worker", "executor.shown_files": "patch.shown_files",
    "implementers.shown_files": "patch.shown_files",
    "journal": "storage.journal", "ledger": "storage.ledger", "manifest": "environments.manifest",
    "model_files": "llm.model_files", "outcomes": "storage.journal", "patch.numbers": "patch.line_numbers",
    "patch.settle": "patch.locate", "patch.text": "patch.parsing", "patch.whole": "patch.whole_file",
    "recipe_file": "config.recipe_file", "rerun": "search.rerun", "rollout_prompts": "archive.prompt_rows",
    "run_folder": "storage.run_folder", "search.archive": "archive.archive", "search.asked": "storage.search_journal",
    "search.asking": "search.ideator", "search.baseline": "archive.baseline",
    "search.figures": "search.search_summary", "search.ideators.questions": "search.ideators.prompt_writer",
    "search.known_edits": "archive.idea_edits", "search.near": "search.near_duplicates",
    "search.prompts": "archive.prompts", "search.recombination": "archive.recombination",
    "search.seeds": "search.imported_ideas", "search.strategies.history": "search.strategies.strategy",
    "search.strategies.made": "search.strategies.lookup", "search.strategies.parents": "archive.parents",
    "search.strategies.past": "archive.random_past", "search.watching": "search.population_watch",
    "training.advantages.make": "training.advantages.by_name",
    "training.card": "publishing.cards", "training.card_drawings": "publishing.charts",
    "training.card_story": "publishing.cards", "training.assembling": "training.batch_tensors",
    "training.closing": "training.batch_closing", "training.collapse_action": "training.collapse_watch",
    "training.dataset_card": "publishing.cards", "training.export": "publishing.export",
    "training.fleet_figures": "training.metrics", "training.from_archive": "training.prompts",
    "training.hub": "publishing.hub", "training.merged": "publishing.weights",
    "training.named": "training.recipe.check_names", "training.published": "text.redaction",
    "training.recipe_keys": "training.recipe.keys", "training.rewarding": "training.reward_runner",
    "training.run_folder": "training.checkpoints", "training.servable": "publishing.weights",
    "training.trajectories": "publishing.trajectories", "training.warmup": "training.sft.warmup",
    "training.warmup_data": "training.sft.data", "training.warmup_run": "training.sft.run",
}  # fmt: skip
"""Old path → new path, both without `ideator_rl.`.  To be removed in the release after 0.2."""
OLD_PACKAGES = ("diagnostics",)
"""Packages of 0.1.0 that are gone, and only hold old modules now."""

OLD_NAMES: dict[str, str] = {
    "diagnostics.figures.number": "text.display.number",
    "diagnostics.figures.share": "text.display.share",
    "diagnostics.figures.spread": "text.display.spread",
    "diagnostics.figures.with_error": "text.display.with_error",
    "diagnostics.report.answers.dollars": "text.display.dollars",
    "diagnostics.report.answers.duration": "text.display.duration",
    "diagnostics.report.answers.luckiest": "report.answers.expected_largest",
    "diagnostics.report.changes.in_words": "report.changes.describe_patch",
    "diagnostics.report.compare.comparison_figures": "report.comparison_figures.comparison_figures",
    "diagnostics.report.groups.differing": "report.groups.different_keys",
    "diagnostics.report.panels.failures": "report.failures.failure_kinds",
    "diagnostics.report.panels.lineage": "report.lineage.lineage_figure",
    "diagnostics.report.panels.thought": "report.thought_figures.thought_figures",
    "diagnostics.report.sections.Section": "report.run_view.RunView",
    "diagnostics.report.sections.names": "report.run_view.run_labels",
    "diagnostics.report.sections.section": "report.run_view.run_view",
    "diagnostics.report.watch.watch": "report.collapse.diversity",
    "diagnostics.safe_text.coloured": "report.patch_lines.coloured",
    "diagnostics.rows.rows_of": "diversity.rows.rows_of_run",
    "diagnostics.surroundings.Surroundings": "diversity.environment_context.EnvironmentContext",
    "diagnostics.surroundings.surroundings": "diversity.environment_context.environment_context",
    "diagnostics.surroundings.surroundings_of": "diversity.environment_context.context_of_run",
    "diagnostics.watch.Watch": "diversity.watch.DiversityWatch",
    "ledger.KEYS": "storage.ledger.CAP_KEYS",
    "ledger.WORDS": "storage.ledger.UNITS",
    "executor.attempts.beat": "executor.record_store.write_beat",
    "executor.attempts.claim": "executor.record_store.claim_attempt",
    "executor.attempts.load_result": "executor.record_store.load_record",
    "executor.attempts.store_result": "executor.record_store.save_record",
    "executor.attempts.store_tree": "executor.record_store.save_tree",
    "executor.backends.get_backend": "executor.backends.backend_class",
    "executor.implementer.patched_tree": "patch.patched_tree",
    "executor.patience.OUTAGE": "executor.retry.OUTAGE_ERRORS",
    "executor.patience.Patience": "executor.retry.Retry",
    "executor.sandbox.SandboxError": "sandbox.choose.SandboxError",
    "executor.sandbox.choose": "sandbox.choose.choose_sandbox",
    "executor.sandbox.probe": "sandbox.choose.best_sandbox",
    "model_files.alone": "files.exclusive",
    "model_files.made_whole": "files.atomic_folder",
    "model_files.save_whole": "llm.model_files.save_weights",
    "rerun.Again": "search.rerun.Rerun",
    "rerun.Place": "search.rerun.Source",
    "rerun.place_of_run": "search.rerun.source_of_run",
    "search.asking.answers": "search.ideator.ask_ideator",
    "search.engine.Ending": "search.engine.StopReason",
    "search.engine.run_search": "search.engine.search_loop",
    "search.figures.Figures": "search.search_summary.SearchSummary",
    "search.figures.figures": "search.search_summary.read_search_summary",
    "search.figures.notes": "search.search_summary.report_notes",
    "search.known_edits.KnownEdits": "archive.idea_edits.IdeaEdits",
    "rewards.execution.outcomes": "rewards.support.experiments.outcomes",
    "rewards.execution.text_of": "rewards.support.decorator.text_of",
    "search.run.search": "search.run.run_search",
    "training.collapse_action.Action": "training.collapse_watch.check_action",
    "training.card_drawings.drawings": "publishing.charts.charts_of_run",
    "training.merged.hashes": "publishing.weights.weight_hashes",
    "training.merged.newest": "publishing.weights.newest_weights",
    "training.published.Published": "text.redaction.Redactor",
    "training.recipe.Recipe": "training.recipe.recipe.Recipe",
    "training.recipe.RecipeError": "training.recipe.recipe.RecipeError",
    "training.recipe.load_recipe": "training.recipe.recipe.load_recipe",
    "training.servable.make_servable": "publishing.weights.make_loadable",
}
"""Names of 0.1.0 that are called differently today: `module.name` of 0.1.0 → `module.name`, without `ideator_rl.`.
A module that still exists needs `__getattr__ = renamed(__name__)` for its own entries."""


def shipped_folder(name: str) -> Path:
    """The folder `rewards`, `envs` or `recipes` of this distribution, whatever `sys.path` holds."""
    return ROOT / name


def is_shadowed(name: str) -> bool:
    """Whether `import rewards` (or envs, recipes) finds something else than the shipped folder."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return True
    # A loaded alias has the spec of its canonical module, whose origin is the shipped file as well.
    return spec is None or Path(spec.origin or "").resolve() != _init_file(name)


def _init_file(name: str) -> Path:
    return shipped_folder(name) / "__init__.py"


def import_own(module: str) -> ModuleType:
    """Import a module that a user names; the working directory comes last, so that no file there hides a library.

    Only the names of the shipped folders are looked for there first: a `rewards.py` of the user's is meant.
    """
    folder, top = os.getcwd(), module.partition(".")[0]
    if folder not in sys.path:
        sys.path.append(folder)
    if top in SHIPPED and top not in sys.modules:
        spec = PathFinder.find_spec(top, [folder])
        if spec is not None and spec.loader is not None and Path(spec.origin or "").resolve() != _init_file(top):
            sys.modules[top] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[top])
    return importlib.import_module(module)


def renamed(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module, old or present, that resolves its entries of OLD_NAMES with a warning."""
    old = module.removeprefix(f"{PACKAGE}.")

    def resolve(name: str) -> Any:
        target = OLD_NAMES.get(f"{old}.{name}")
        if target is not None:
            new_module, _, new_name = target.rpartition(".")
            _warn(f"{module}.{name}", f"{PACKAGE}.{target}")
            return getattr(importlib.import_module(f"{PACKAGE}.{new_module}"), new_name)
        if old in OLD_MODULES and not name.startswith("__"):
            return getattr(importlib.import_module(f"{PACKAGE}.{OLD_MODULES[old]}"), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return resolve


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes in the next release.", DeprecationWarning, stacklevel=4)


class _OldModule(Loader):
    """Makes an empty module that takes its names from the new one when they are asked for."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.removeprefix(f"{PACKAGE}.")
        if old in OLD_MODULES:
            _warn(module.__name__, f"{PACKAGE}.{OLD_MODULES[old]}")
            importlib.import_module(f"{PACKAGE}.{OLD_MODULES[old]}")
        module.__getattr__ = renamed(module.__name__)  # type: ignore[method-assign]


class _Alias(Loader):
    """Puts a module that is loaded under its canonical name under a second name as well."""

    def __init__(self, canonical: str):
        self._canonical = canonical

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # The import system returns what `sys.modules` holds after this call.
        sys.modules[module.__name__] = importlib.import_module(self._canonical)


class Finder(MetaPathFinder):
    """Finds shipped folders first, so that nothing on `sys.path` hides them; all other names cost a set look-up."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        if top == PACKAGE:
            if rest.partition(".")[0] in SHIPPED:
                return _shipped_spec(fullname, ROOT.joinpath(*rest.split(".")))
            if rest in OLD_MODULES or rest in OLD_PACKAGES:
                # A package, since old modules below it are imported through it.
                return ModuleSpec(fullname, _OldModule(), is_package=True)
        elif top in SHIPPED and rest and _is_shipped(sys.modules.get(top)):
            return ModuleSpec(fullname, _Alias(f"{PACKAGE}.{fullname}"))
        return None


def _is_shipped(module: ModuleType | None) -> bool:
    """Whether a loaded module is the `__init__.py` of a shipped folder.

    It may be loading still, in another thread, and not be an alias yet: the object alone does not answer this.
    """
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    return origin is not None and Path(origin).resolve() in {ROOT / name / "__init__.py" for name in SHIPPED}


def _shipped_spec(fullname: str, path: Path) -> ModuleSpec | None:
    """The spec of a shipped module, package, or folder without `__init__.py`."""
    if (init := path / "__init__.py").is_file():
        return importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=[str(path)])
    if (file := path.with_suffix(".py")).is_file():
        return importlib.util.spec_from_file_location(fullname, file)
    return None


def alias_shipped(name: str) -> None:
    """Called by the `__init__.py` of a shipped folder: make `rewards` the module `ideator_rl.rewards`."""
    if not name.startswith(PACKAGE):
        sys.modules[name] = importlib.import_module(f"{PACKAGE}.{name}")


def install() -> None:
    """Add the finder, once a process."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
