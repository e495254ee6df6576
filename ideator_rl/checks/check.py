"""Proves an environment: its parts fit together, its noise is measured, and hidden data cannot be reached.

Each check tries a fact instead of reading it: it runs the baseline, runs an edit that must improve the metric, and
searches the sandbox from inside.  The text of a failed check states what to correct.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shlex
import tempfile
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from pathlib import Path

from ideator_rl.archive.prompts import EXPLORE, PARENTS
from ideator_rl.checks import proofs
from ideator_rl.checks.proofs import Check, may_become
from ideator_rl.config.reader import read_text
from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import Environment, joined_folders, load_environment
from ideator_rl.environments.noise import Noise, store_noise
from ideator_rl.environments.references import references
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import FAILED, SUCCEEDED, TIMED_OUT, Experiment
from ideator_rl.patch import PatchError, Tree, judge
from ideator_rl.patch.evolve_blocks import change_inside
from ideator_rl.patch.judge import is_protected
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.scoring.allowance import Address, forget_cost

VARIABLES = {
    "IDEATOR_ARTIFACT": "the folder for the result",
    "IDEATOR_BUDGET_SECONDS": "when to stop",
    "IDEATOR_DATA": "the folder of the public data",
}
"""Environment variables that a script must read to be an experiment."""


def check_environment(
    name: str, preset: str, seeds: int = 3, isolation: str = "auto", slots: int | None = None
) -> Iterator[Check]:
    """Yields each check as soon as its result is known; ends early when a failure makes the rest meaningless."""
    step = "manifest"
    try:
        environment = load_environment(name).at(preset)
        references(environment, preset)  # for its error
        yield Check("manifest", True, f"{environment.root / 'env.yaml'}, presets {', '.join(environment.presets)}")
        step = "data"
        data = environment.data(preset)
        yield Check("data", True, f"public: {_list_files(data.public)}; private: {_list_files(data.private)}")
    except (IdeatorError, NotImplementedError) as error:
        yield Check(step, False, str(error))
        return
    if environment.metric.is_reported:
        yield _reported(environment)
    yield _rules(environment, preset)
    if not environment.in_process:
        yield _prompts(environment, preset)
    if environment.catalogue_path is not None:
        yield _catalogue(environment, preset)
    with tempfile.TemporaryDirectory(prefix="ideator-check-") as folder:
        bucket = f"file://{folder}/bucket"
        config = BufferConfig(name, preset, bucket, run_dir=folder, isolation=isolation, slots=slots)
        measured = yield from _runs(environment, config, seeds)
    if measured:
        yield from proofs.hidden(environment, preset, isolation)


def _runs(environment: Environment, config: BufferConfig, seeds: int) -> Generator[Check, None, bool]:
    """Checks that run experiments: the baseline twice, the known-good edit, and a patch and a run that break rules.

    Returns:
        whether the baseline could be measured.
    """

    def baseline(buffer: RewardBuffer) -> Iterable[Awaitable[Experiment]]:
        return (buffer.baseline(replicate) for replicate in range(seeds))

    before = fingerprint(environment, config.preset)
    try:
        digest = environment.digest(config.preset)
        forget_cost(Address(environment.name, config.preset, digest, environment.preload))
        records = _run(config, baseline)
        check, noise = _noise(environment, config.preset, records)
        yield check
        if noise is None:
            return False
        yield from proofs.scoring(environment, config.preset, records)
        # A second executor over the same bucket must replay the results instead of running them again.
        yield _replay(records, _run(config, baseline))
        yield from _patches(environment, config, noise)
    except IdeatorError as error:
        yield Check("runs", False, str(error))
        return False
    after = fingerprint(environment, config.preset)
    changed = sorted(path for path, digest in after.items() if before.get(path) != digest)
    text = f"changed by a run: {', '.join(changed)}" if changed else f"{len(before)} files unchanged by the runs"
    yield Check("evaluator", not changed, text)
    return True


def _patches(environment: Environment, config: BufferConfig, noise: Noise) -> Iterator[Check]:
    wreck: str | IdeatorError
    try:
        wreck = proofs.wrecking_patch(environment, config.preset)
    except IdeatorError as error:
        wreck = error  # this script cannot be patched so: the check is then a warning
    good = read_text(environment.root / environment.known_good) if environment.known_good else None
    patches = [proofs.forged_evaluator(environment), *(patch for patch in (good, wreck) if isinstance(patch, str))]
    forgery, *records = _run(config, lambda buffer: [buffer.score_patch(patch) for patch in patches])
    yield proofs.known_good(environment, noise, records.pop(0) if good is not None else None)
    yield proofs.protection(environment, noise, forgery, wreck if isinstance(wreck, IdeatorError) else records[0])


def _run(config: BufferConfig, start: Callable[[RewardBuffer], Iterable[Awaitable[Experiment]]]) -> list[Experiment]:
    """The records of the experiments that `start` begins in a new buffer over the same bucket."""
    buffer = RewardBuffer(config)

    async def records() -> list[Experiment]:
        return list(await asyncio.gather(*start(buffer)))

    try:
        return asyncio.run(records())
    finally:
        buffer.close()


def _list_files(folder: Path) -> str:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    first = ", ".join(f"{path.relative_to(folder)} ({path.stat().st_size:,} bytes)" for path in files[:3])
    return first + (f" and {len(files) - 3} more" if len(files) > 3 else "") or "nothing"


def _reported(environment: Environment) -> Check:
    text = (
        f"{environment.metric.name} is reported by code that runs together with the idea's, which could forge it: "
        "it is never ranked with measured metrics, and `train` needs allow_reported: true"
    )
    return Check("metric", True, text, warned=True)


def _rules(environment: Environment, preset: str) -> Check:
    """No patch may change or delete a protected or hidden file; at least one file may be changed."""
    base, rules = environment.baseline(preset), environment.rules
    exact = {path for path in rules.protected if not any(sign in path for sign in "*?[") and not path.endswith("/")}
    guarded = exact | {path for path in base if is_protected(path, rules)}
    for path in sorted(guarded):
        without: Tree = {name: text for name, text in base.items() if name != path}
        if may_become(base, base | {path: "changed\n"}, rules) or may_become(base, without, rules):
            return Check("rules", False, f"a patch may change {path}, which is protected")
    # A file with EVOLVE-BLOCK marks is changed inside them.
    changed = {
        path: change_inside(text, "changed") if rules.evolve_blocks else "changed\n" for path, text in base.items()
    }
    editable = [path for path in base if may_become(base, base | {path: changed[path]}, rules)]
    globs = ", ".join(rules.editable)
    if not editable:
        return Check("rules", False, f"no file of {environment.baseline_folder}/ may be changed; editable: {globs}")
    return Check(
        "rules", True, f"{len(editable)} files may be changed ({globs}); {len(guarded)} protected ones refused"
    )


def _prompts(environment: Environment, preset: str) -> Check:
    """A chat model that writes ideas or edits must have seen the code, which `{files}` in a prompt shows it."""
    kinds = [kind for kind in environment.prompt_files if kind not in (PARENTS, EXPLORE)]
    with_code = [kind for kind in kinds if environment.shows_code(preset, kind)]
    if with_code:
        blind = [kind for kind in kinds if kind not in with_code]
        text = f"{', '.join(with_code)} show the code"
        return Check("prompts", True, text + (f"; {', '.join(blind)} do not: for trained models" if blind else ""))
    text = (
        f"no prompt ({', '.join(kinds) or 'none'}) shows the code: a chat model would write about code that it has not "
        "seen. Put {files} into one of them"
    )
    # Ideas of a catalogue need no model; without one, only a chat model can write any.
    return Check("prompts", environment.catalogue_path is not None, text, warned=environment.catalogue_path is not None)


def _catalogue(environment: Environment, preset: str) -> Check:
    """Every edit, with each sample value, gives a tree that the rules allow, and its description is read as it."""
    base, name, misread = environment.baseline(preset), "catalogue", list[str]()
    try:
        catalogue = environment_catalogue(environment)
        choices = [
            Choice(edit.key, value)
            for edit in catalogue.edits.values()
            for value in (edit.parameter.sample if edit.parameter else (None,))
        ]
        for choice in choices:
            tree = catalogue.apply(base, [choice])
            judge(base, tree, environment.rules)
            if tree != base:
                idea = catalogue.describe([choice], random.Random(0))
                misread += [idea.changes] if catalogue.read(idea, base).choices != (choice,) else []
    except (IdeatorError, PatchError) as error:
        return Check(name, False, str(error))
    text = f"{len(catalogue.edits)} edits apply, at {len(choices)} values; "
    if misread:
        return Check(name, True, f"{text}{len(misread)} are read as another edit: {misread[0]!r}", warned=True)
    return Check(name, True, f"{text}the description of each is read as that edit")


def _noise(environment: Environment, preset: str, records: list[Experiment]) -> tuple[Check, Noise | None]:
    """The baseline within its budget over seeds; stores its values, for rewards relative to noise."""
    failed = [record for record in records if record.status != SUCCEEDED]
    if failed:
        reason = f"{failed[0].status}: {failed[0].error['message'] if failed[0].error else ''}"
        text = f"{len(failed)} of {len(records)} runs did not succeed: {reason}"
        return Check("baseline", False, text + _advice(environment, preset, failed[0])), None
    noise = store_noise(environment, preset, [float(record.metric["value"]) for record in records if record.metric])
    budget = environment.preset(preset).budget
    spent = max(record.seconds["cpu" if budget.clock == "cpu" else "run"] for record in records)
    text = (
        f"{environment.metric.label} {noise.mean:.4f} ± {noise.spread:.4f} (standard deviation, {len(noise.values)} "
        f"seeds); at most {spent:.2f} of {budget.seconds:g} s on the {budget.clock} clock"
    )
    return Check("baseline", True, text), noise


def _advice(environment: Environment, preset: str, record: Experiment) -> str:
    """What a failed baseline may lack, and the last lines that it printed."""
    code = "\n".join(environment.baseline(preset).values())
    # An evaluator that reports has variables of its own.
    variables = {} if environment.metric.is_reported else VARIABLES
    unread = [f"{name} ({meaning})" for name, meaning in variables.items() if name not in code]
    text = f". Nothing in {environment.baseline_folder}/ reads {', '.join(unread)}" if unread else ""
    printed = [line for line in record.log.splitlines() if line.strip(" ^~")][-12:]
    if record.status == FAILED and record.error and "the model could not be" in record.error["message"]:
        text += _by_hand(environment, preset)
    if record.status in (FAILED, TIMED_OUT) and printed:
        text += "\n      The last lines that it printed:\n" + "\n".join(f"      {line}" for line in printed)
    return text


def _by_hand(environment: Environment, preset: str) -> str:
    """Commands that show an error in full; the evaluator reports only its type."""
    module, _, function = environment.scorer.partition(":")
    root = environment.root / environment.baseline_folder
    folders = os.pathsep.join(joined_folders(str(root), environment.import_folders))
    data, seconds = environment.data(preset).public, environment.preset(preset).budget.seconds
    variables = f"IDEATOR_DATA={shlex.quote(str(data))} IDEATOR_ARTIFACT=/tmp/artifact "
    variables += f"IDEATOR_BUDGET_SECONDS={seconds:g} IDEATOR_SEED=0"
    lines = (
        f"mkdir -p /tmp/artifact; cd {shlex.quote(str(root))}",
        f"export PYTHONPATH={shlex.quote(folders)}",
        f"{variables} {shlex.join(environment.command)}",
        f"""python -c "import importlib, numpy; m = importlib.import_module('{module}').{function}('/tmp/artifact'); """
        """print(m(numpy.zeros((2, 8), 'int32')).shape)\"""",
    )
    shape = f"(2, 8, {environment.preset(preset).vocab})"
    intro = f". The evaluator reports only the type of a model's error; to see it in full (expected output {shape}):\n"
    return intro + "\n".join(f"      {line}" for line in lines)


def _replay(first: list[Experiment], second: list[Experiment]) -> Check:
    """A new executor replays every run with the same result; no run starts twice."""
    pairs = list(zip(first, second, strict=True))
    if any(run.id != replay.id or not replay.replayed for run, replay in pairs):
        return Check("replay", False, "a run was not found again: what its id is computed from changes between runs")
    if any((run.metric, run.reward) != (replay.metric, replay.reward) for run, replay in pairs):
        return Check("replay", False, "a replayed run has another metric")
    return Check("replay", True, f"{len(pairs)} runs found again, with the same metric")


def fingerprint(environment: Environment, preset: str) -> dict[str, str]:
    """SHA-256 by path of the files that no run may change: the environment's folder and its data."""
    data = environment.data(preset)
    digests: dict[str, str] = {}
    for folder in (environment.root, data.private, data.public):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                with open(path, "rb") as file:
                    digests[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
