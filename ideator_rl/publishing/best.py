"""The best codebase of a run or a bucket, to take home.

    OUT/codebase/    every file of the patched codebase
    OUT/best.patch   what differs from the baseline, for `git apply` or `patch -p1`
    OUT/NOTE.txt     how sure its value is, and how it is run again

Contract:
- OUT appears complete or not at all, and nothing is overwritten.  Nothing is run, and the run is only read.
- The codebase is the one that was measured: its hash is that of the record.  Where the bucket lacks it, it is made
  again from environment and patch, and counts only if the hash is right.
- A model wrote the code, the idea and the patch.  The note is plain text without characters that act.
"""

from __future__ import annotations

import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.run_variables import filled_command
from ideator_rl.executor.trials import SEEDS_PER_REPLICATE
from ideator_rl.experiment import FINAL_REPLICATE, REPORTED, RERUN_REPLICATE, SUCCEEDED, Experiment
from ideator_rl.files import atomic_folder
from ideator_rl.patch import PatchError, Rules, Tree, apply_patch, diff, tree_hash, write_tree
from ideator_rl.patch.judge import is_protected
from ideator_rl.report.answers import certainty
from ideator_rl.report.run_view import RunView, run_view
from ideator_rl.search.rerun import Source
from ideator_rl.storage.bucket import Bucket, BucketError, bucket_at
from ideator_rl.storage.index import read_results
from ideator_rl.storage.run_reader import Run, read_run
from ideator_rl.text.display import number, spread, visible
from ideator_rl.text.redaction import Redactor

CODEBASE, PATCH, NOTE = "codebase", "best.patch", "NOTE.txt"
LINE = 100
"""Characters of a line of the note."""


class BestError(IdeatorError):
    """There is no such codebase to take home."""


@dataclass(frozen=True)
class BestCodebase:
    """One successful idea of a run as code."""

    target: str
    """The run's folder or the bucket's URL, as the user named it."""
    rank: int
    """1 for the best."""
    record: Experiment
    view: RunView
    tree: Tree
    patch: str
    environment: Environment | None
    """None where it cannot be loaded here."""
    environment_name: str
    """The name or path that `--env` takes."""
    caveats: tuple[str, ...]
    """What a reader has to know about codebase and patch."""

    def facts(self) -> dict[str, Any]:
        """For a program."""
        record, view = self.record, self.view
        values, baseline = view.run.values(record), view.baseline_values
        answer = certainty(view, record)
        return {
            "id": record.id,
            "rank": self.rank,
            "successes": len(view.ranked),
            "idea": record.idea,
            "environment": record.environment,
            "preset": record.preset,
            "metric": record.metric,
            "values": values,
            "mean": mean(values),
            "deviation": stdev(values) if len(values) > 1 else None,
            "reruns": len(self.reruns),
            "baseline": {
                "values": baseline,
                "mean": mean(baseline) if baseline else None,
                "deviation": view.baseline_stdev,
            },
            "sure": answer.short,
            "why": answer.more,
            "seed": record.seed,
            "replicate": record.replicate,
            "isolation": record.isolation,
            "hardware": record.hardware,
            "tree": record.tree,
            "files": len(self.tree),
            "caveats": list(self.caveats),
        }

    @property
    def reruns(self) -> list[float]:
        """Metrics of its runs after the search."""
        records = [e for e in self.view.run.experiments.values() if e.tree == self.record.tree and e.metric]
        return [e.metric["value"] for e in records if e.metric and e.replicate >= RERUN_REPLICATE]


def best_codebase(target: str, folder: Path | None, rank: int = 1) -> BestCodebase:
    """The idea at a rank with its codebase, read from a run's folder or a bucket.

    Args:
        target: path or URL of the run or bucket.
        folder: the run's folder; None for a bucket.

    Raises:
        IdeatorError: no run, no success, fewer successes than `rank`, or its codebase is nowhere.
    """
    if folder is None:
        bucket: Bucket | None = bucket_at(target)
        run, missing = _run_of_bucket(bucket_at(target), target), ""
    else:
        run = read_run(folder)
        bucket, missing = _bucket_to_read(run)
    ranked = _ranked(run, bucket, folder)
    if not ranked:
        raise BestError(f"No idea of {target} succeeded, so there is no codebase to write. See `ideator-rl report`.")
    if rank > len(ranked):
        count = "1 idea" if len(ranked) == 1 else f"{len(ranked)} ideas"
        raise BestError(f"--rank is {rank}, and {count} of {target} succeeded. Give a rank from 1 to {len(ranked)}.")
    record = ranked[rank - 1]
    if folder is None:
        run.experiments = _comparable(run.experiments, record)
    name = _environment_name(run, bucket, record)
    environment, changed = _environment(name, record)
    tree, rebuilt = _codebase(record, bucket, environment, missing, target)
    patch, note = _patch(record, run, bucket, tree, environment if not changed else None)
    caveats = tuple(text for text in (changed, rebuilt, note) if text)
    return BestCodebase(target, rank, record, run_view(run.folder.name, run), tree, patch, environment, name, caveats)


def write_best(best: BestCodebase, out: Path) -> None:
    """Write codebase, patch and note into a new folder.

    Raises:
        BestError: `out` is not empty, or cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BestError(f"{out} exists and is not an empty folder. Give another --out; nothing is overwritten.")
    try:
        with atomic_folder(out, overwrite=False) as scratch:
            write_parts(best, scratch, str(out))
    except OSError as error:
        raise BestError(f"{out} cannot be written: {error.strerror or error}. Nothing of it is left.") from error


def write_parts(best: BestCodebase, folder: Path, shown_as: str, redactor: Redactor | None = None) -> None:
    """Write the three parts below a folder that exists.

    Args:
        shown_as: the folder's name in the note's commands.
        redactor: hides secrets in all texts, and leaves out what the environment hides from ideators: for an export.
    """
    tree, patch = best.tree, best.patch
    text = note(best, shown_as)
    if redactor is not None:
        secret = Rules((), best.environment.hidden if best.environment else ("**",))
        tree = {path: redactor.text(content) for path, content in tree.items() if not is_protected(path, secret)}
        patch, text = redactor.text(patch), redactor.text(text)
    write_tree(tree, folder / CODEBASE)
    # A patch quotes its files, which may hold characters that UTF-8 lacks.
    (folder / PATCH).write_bytes(patch.encode("utf-8", "surrogatepass"))
    (folder / NOTE).write_text(text, encoding="utf-8")


def note(best: BestCodebase, out: str) -> str:
    """The note, as plain text.

    Args:
        out: the folder that the commands in it name.
    """
    record, view = best.record, best.view
    answer = certainty(view, record)
    place = "best idea" if best.rank == 1 else f"idea of rank {best.rank}"
    lines = [
        f"The {place} of {len(view.ranked)} that succeeded, from {best.target}",
        f"environment {record.environment}, preset {record.preset}, experiment {record.id}",
        "",
        "A language model wrote this code, and it has run in a sandbox only. Read it before you run it elsewhere.",
        "",
        f"How sure are we? {answer.short} {answer.more}",
        "",
        *_numbers(best),
        "",
        f"{PATCH} is against the baseline with the settings of the preset {record.preset} written into it.",
        *best.caveats,
        "",
        *_commands(best, out),
        "",
        "The idea, in the model's words:",
    ]
    # Indented, so that no line of it looks like one of the note's own.
    idea = textwrap.indent(visible(record.idea.strip() or "(a patch written by hand)"), "    ")
    return "\n".join(_wrapped(visible(line)) for line in lines) + "\n" + idea + "\n"


def _wrapped(line: str) -> str:
    # A command stays on one line, to be copied.
    return line if line.startswith("    ") or len(line) <= LINE else textwrap.fill(line, LINE, break_long_words=False)


def _numbers(best: BestCodebase) -> list[str]:
    """Metric, baseline, replicates, origin of the numbers and seed: one line each."""
    record, view = best.record, best.view
    values, baseline = view.run.values(record), view.baseline_values
    better = "lower" if view.run.direction == "min" else "higher"
    deviation = f", standard deviation {spread(stdev(values))}" if len(values) > 1 else ", spread unknown"
    lines = [f"{view.run.metric} ({better} is better): {number(mean(values))}; runs: {len(values)}{deviation}"]
    if not baseline:
        lines.append("baseline: not run, so no gain is known")
    else:
        noise = "spread unknown" if view.baseline_stdev is None else f"standard deviation {spread(view.baseline_stdev)}"
        gain = view.improvement(mean(values), mean(baseline))
        lines.append(f"baseline: {number(mean(baseline))}; runs: {len(baseline)}, {noise}; gain {number(gain)}")
    lines.append(f"runs after the search, under new seeds: {len(best.reruns) or 'none'}")
    lines.append(f"seed {record.seed}, replicate {record.replicate}, isolation {record.isolation or 'unknown'}, "
                 f"hardware {record.hardware or 'unknown'}")  # fmt: skip
    source = (
        "the code itself (reported)" if (record.metric or {}).get("source") == REPORTED else "trusted code (measured)"
    )
    lines.append(f"the metric comes from {source}")
    if record.secondary:
        lines.append("also: " + ", ".join(f"{name} {number(value)}" for name, value in record.secondary.items()))
    if record.isolation == "none":
        lines.append("It ran without a sandbox: nothing kept it from the validation data. The metric rests on trust.")
    return lines


def _commands(best: BestCodebase, out: str) -> list[str]:
    record, folder = best.record, Path(out)
    sealed = ["ideator-rl", "execute", best.environment_name, "--preset", record.preset, "--diff", str(folder / PATCH)]
    sealed += ["--seed", str(record.seed), *(["--isolation", "none"] if record.isolation == "none" else [])]
    lines = ["Run it again, measured as before:", f"    {shlex.join(sealed)}"]
    again = ["ideator-rl", "rerun", best.target, "--best", str(best.rank), "--replicates", "5"]
    lines += ["Run it and the baseline under new seeds, for a gain with an error:", f"    {shlex.join(again)}"]
    environment = best.environment
    if environment is None or environment.in_process:
        return lines
    # Without the sandbox and the evaluator: for a reader who wants to see the code at work.
    here, preset = environment.at(record.preset), environment.preset(record.preset)
    seed = record.seed + SEEDS_PER_REPLICATE * record.replicate
    values = ("DATA", "/tmp/artifact", str(seed), f"{preset.budget.seconds:g}")
    names = ("IDEATOR_DATA", "IDEATOR_ARTIFACT", "IDEATOR_SEED", "IDEATOR_BUDGET_SECONDS")
    variables = dict(zip(names, values, strict=True))
    assignments = " ".join(f"{name}={value}" for name, value in variables.items())
    lines += [
        "Run the code by hand, without sandbox or measurement; DATA is the folder of the environment's public data:",
        f"    mkdir -p /tmp/artifact; cd {shlex.quote(str(folder / CODEBASE))}",
        # A shell does not fill in {artifact} and the other fields: the supervisor does, for a measured run.
        f"    {assignments} {shlex.join(filled_command(tuple(here.command), variables))}",
    ]
    return lines


def _bucket_to_read(run: Run) -> tuple[Bucket | None, str]:
    """The bucket of a run, and why there is none.  None is created: the run is only read."""
    urls = [str(run.recipe.get("bucket") or ""), (run.folder / "bucket").absolute().as_uri()]
    problems = []
    for url in filter(None, urls):
        try:
            return bucket_at(url), ""
        except BucketError as error:
            problems.append(str(error))
    return None, problems[0]


def _run_of_bucket(bucket: Bucket, target: str) -> Run:
    """A bucket's results as a run, which has no proposals; without those that were measured for a leaderboard."""
    records = [e for e in read_results(bucket, record_store.load_records) if e.replicate < FINAL_REPLICATE]
    return Run(Path(target), {}, [], {e.id: e for e in sorted(records, key=lambda e: e.finished)})


def _comparable(experiments: dict[str, Experiment], record: Experiment) -> dict[str, Experiment]:
    """The experiments of a bucket that measured the same thing as this one: other presets have other baselines."""

    def is_comparable(other: Experiment) -> bool:
        same_task = (other.environment, other.preset) == (record.environment, record.preset)
        # Ideas of an earlier version of the environment count in the rank; its baseline is none of this one's.
        is_current = other.hashes.get("environment") == record.hashes.get("environment")
        return same_task and (is_current or not other.is_baseline)

    return {id: other for id, other in experiments.items() if is_comparable(other)}


def _ranked(run: Run, bucket: Bucket | None, folder: Path | None) -> list[Experiment]:
    if folder is None and bucket is not None:
        # Of a bucket, other commands rank by each idea's first run: one rank means one idea in all of them.
        if not any(e.status == SUCCEEDED and not e.is_baseline for e in run.experiments.values()):
            return []
        return Source(bucket).best(len(run.experiments))
    return run.ranked


def _environment_name(run: Run, bucket: Bucket | None, record: Experiment) -> str:
    """How this machine may load the environment: as the recipe names it, as a worker does, or by its own name."""
    if run.recipe.get("env"):
        return str(run.recipe["env"])
    try:
        spec = record_store.Spec.load(bucket, record.id) if bucket else None
    except BucketError:
        spec = None
    return spec.environment if spec else record.environment


def _environment(name: str, record: Experiment) -> tuple[Environment | None, str]:
    """The environment if it can be loaded here, and a caveat where it is not the one of the experiment."""
    try:
        environment = load_environment(name)
        same = environment.digest(record.preset) == record.hashes.get("environment")
    except (IdeatorError, OSError, ValueError):
        return None, f"The environment {name} is not on this machine, so nothing can be measured again here."
    if same or not record.hashes.get("environment"):
        return environment, ""
    return environment, (
        f"The environment {name} has changed since: its code, data, budget or metric is another, and a new value "
        "cannot be compared with this one."
    )


def _codebase(
    record: Experiment, bucket: Bucket | None, environment: Environment | None, missing: str, target: str
) -> tuple[Tree, str]:
    """The measured codebase, and a caveat where it was made again.

    Raises:
        BestError: it is neither in the bucket nor can it be made again.
    """
    try:
        tree = record_store.load_tree(bucket, record.tree) if bucket else None
    except BucketError as error:
        tree, missing = None, str(error)
    if tree is not None:
        return tree, ""
    if environment is not None:
        try:
            rebuilt = apply_patch(environment.baseline(record.preset), record.patch)
        except (PatchError, IdeatorError):
            rebuilt = {}
        # Only the hash proves that this is the code that was measured.
        if rebuilt and tree_hash(rebuilt) == record.tree:
            return rebuilt, "The bucket lacks this codebase; it was made from environment and patch, with equal hash."
    reason = missing or f"The bucket {bucket.url if bucket else ''} lacks it."
    raise BestError(
        f"The codebase of the experiment {record.id} of {target} cannot be read, nor made from its patch: {reason} "
        "Bring the bucket or the unchanged environment back, or take another --rank."
    )


def _patch(
    record: Experiment, run: Run, bucket: Bucket | None, tree: Tree, environment: Environment | None
) -> tuple[str, str]:
    """The difference to the baseline, and a caveat where the baseline is not known."""
    base = None
    for measured in run.baselines:
        try:
            base = base or (record_store.load_tree(bucket, measured.tree) if bucket else None)
        except BucketError:
            continue
    if base is None and environment is not None:
        base = environment.baseline(record.preset)
    if base is not None:
        return diff(base, tree), ""
    return record.patch, "The baseline is not known here: best.patch is the patch as the record holds it."
