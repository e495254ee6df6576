"""Proves an environment: that its parts hold together, what its noise is, and that nothing hidden can be reached.

Each check is one fact that was tried, not one that was read: the baseline is run, an edit that must better the metric
too, the sandbox is searched from inside.  The words of a failed check say what to mend.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from pathlib import Path

from ideator_rl.checks import proofs
from ideator_rl.checks.proofs import Check, may_become
from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.environments.noise import Noise, store_noise
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import FAILED, SUCCEEDED, TIMED_OUT, Experiment
from ideator_rl.patch import PatchError, Tree, judge
from ideator_rl.patch.judge import is_protected
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

WIRES = {
    "IDEATOR_ARTIFACT": "the folder where the result must be left",
    "IDEATOR_BUDGET_SECONDS": "when to stop",
    "IDEATOR_DATA": "the folder of the public data",
}
"""What a script must read to be an experiment."""


def check_environment(
    name: str, preset: str, seeds: int = 3, isolation: str = "auto", slots: int | None = None
) -> Iterator[Check]:
    """Check after check, each as soon as it is known; ends early when one makes the rest meaningless."""
    step = "manifest"
    try:
        environment = load_environment(name)
        environment.preset(preset)
        yield Check("manifest", True, f"{environment.root / 'env.yaml'}, presets {', '.join(environment.presets)}")
        step = "data"
        data = environment.data(preset)
        yield Check("data", True, f"public: {_listed(data.public)}; private: {_listed(data.private)}")
    except (IdeatorError, NotImplementedError) as error:
        yield Check(step, False, str(error))
        return
    yield _rules(environment, preset)
    if environment.catalogue_path is not None:
        yield _catalogue(environment, preset)
    with tempfile.TemporaryDirectory(prefix="ideator-check-") as folder:
        bucket = f"file://{folder}/bucket"
        config = BufferConfig(name, preset, bucket, run_dir=folder, isolation=isolation, slots=slots)
        measured = yield from _runs(environment, config, seeds)
    if measured:
        yield from proofs.hidden(environment, preset, isolation)


def _runs(environment: Environment, config: BufferConfig, seeds: int) -> Generator[Check, None, bool]:
    """All that is run: the baseline, the same again, the known-good edit, a patch and a run against the rules.

    Returns whether the baseline could be measured.
    """

    def baseline(buffer: RewardBuffer) -> Iterable[Awaitable[Experiment]]:
        return (buffer.baseline(replicate) for replicate in range(seeds))

    before = fingerprint(environment, config.preset)
    try:
        records = _ask(config, baseline)
        checked, noise = _noise(environment, config.preset, records)
        yield checked
        if noise is None:
            return False
        yield _replay(records, _ask(config, baseline))
        yield from _patches(environment, config, noise)
    except IdeatorError as error:
        yield Check("runs", False, str(error))
        return False
    changed = sorted(path for path, mark in fingerprint(environment, config.preset).items() if before.get(path) != mark)
    words = f"changed by a run: {', '.join(changed)}" if changed else f"{len(before)} files unchanged by the runs"
    yield Check("evaluator", not changed, words)
    return True


def _patches(environment: Environment, config: BufferConfig, noise: Noise) -> Iterator[Check]:
    wreck: str | IdeatorError
    try:
        wreck = proofs.wrecked(environment, config.preset)
    except IdeatorError as error:
        wreck = error
    good = (environment.root / environment.known_good).read_text() if environment.known_good else None
    tried = [proofs.forged(environment), *(patch for patch in (good, wreck) if isinstance(patch, str))]
    forgery, *records = _ask(config, lambda buffer: [buffer.score_patch(patch) for patch in tried])
    yield proofs.known_good(environment, noise, records.pop(0) if good is not None else None)
    yield proofs.protection(environment, noise, forgery, wreck if isinstance(wreck, IdeatorError) else records[0])


def _ask(config: BufferConfig, what: Callable[[RewardBuffer], Iterable[Awaitable[Experiment]]]) -> list[Experiment]:
    """What a new buffer over the same bucket answers."""
    buffer = RewardBuffer(config)

    async def answers() -> list[Experiment]:
        return list(await asyncio.gather(*what(buffer)))

    try:
        return asyncio.run(answers())
    finally:
        buffer.close()


def _listed(folder: Path) -> str:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = ", ".join(f"{path.relative_to(folder)} ({path.stat().st_size:,} bytes)" for path in files[:3])
    return named + (f" and {len(files) - 3} more" if len(files) > 3 else "") or "nothing"


def _rules(environment: Environment, preset: str) -> Check:
    """No patch may change or delete what is protected or hidden; and there is something that one may change."""
    base, rules = environment.baseline(preset), environment.rules
    named = {path for path in rules.protected if not any(mark in path for mark in "*?[") and not path.endswith("/")}
    guarded = named | {path for path in base if is_protected(path, rules)}
    for path in sorted(guarded):
        without: Tree = {name: text for name, text in base.items() if name != path}
        if may_become(base, base | {path: "changed\n"}, rules) or may_become(base, without, rules):
            return Check("rules", False, f"a patch may change {path}, which is protected")
    editable = [path for path in base if may_become(base, base | {path: "changed\n"}, rules)]
    globs = ", ".join(rules.editable)
    if not editable:
        return Check("rules", False, f"no file of baseline/ may be changed; editable: {globs}")
    return Check(
        "rules", True, f"{len(editable)} files may be changed ({globs}); {len(guarded)} protected ones refused"
    )


def _catalogue(environment: Environment, preset: str) -> Check:
    """Every edit, with every value to draw from, gives a tree that the rules allow; its own words should name it."""
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
                said = catalogue.describe([choice], random.Random(0))
                misread += [said.changes] if catalogue.read(said, base).choices != (choice,) else []
    except (IdeatorError, PatchError) as error:
        return Check(name, False, str(error))
    words = f"{len(catalogue.edits)} edits apply, at {len(choices)} values; "
    if misread:
        return Check(name, True, f"{words}{len(misread)} are read otherwise than they say: {misread[0]!r}", warned=True)
    return Check(name, True, f"{words}all are read as they say")


def _noise(environment: Environment, preset: str, records: list[Experiment]) -> tuple[Check, Noise | None]:
    """The baseline within its budget over seeds; its values are kept, for rewards relative to noise."""
    failed = [record for record in records if record.status != SUCCEEDED]
    if failed:
        why = f"{failed[0].status}: {failed[0].error['message'] if failed[0].error else ''}"
        words = f"{len(failed)} of {len(records)} runs did not succeed: {why}"
        return Check("baseline", False, words + _advice(environment, preset, failed[0])), None
    noise = store_noise(environment, preset, [float(record.metric["value"]) for record in records if record.metric])
    budget = environment.preset(preset).budget
    spent = max(record.seconds["cpu" if budget.clock == "cpu" else "run"] for record in records)
    words = (
        f"{environment.metric.name} {noise.mean:.4f} ± {noise.spread:.4f} (standard deviation, {len(noise.values)} "
        f"seeds); at most {spent:.2f} of {budget.seconds:g} s on the {budget.clock} clock"
    )
    return Check("baseline", True, words), noise


def _advice(environment: Environment, preset: str, record: Experiment) -> str:
    """What a baseline that did not succeed may lack, and the end of what it printed."""
    code = "\n".join(environment.baseline(preset).values())
    unread = [f"{name} ({meaning})" for name, meaning in WIRES.items() if name not in code]
    words = f". Nothing in baseline/ reads {', '.join(unread)}" if unread else ""
    printed = [line for line in record.log.splitlines() if line.strip(" ^~")][-12:]
    if record.status == FAILED and record.error and "the model could not be" in record.error["message"]:
        words += _by_hand(environment, preset)
    if record.status in (FAILED, TIMED_OUT) and printed:
        words += "\n      The last that it printed:\n" + "\n".join(f"      {line}" for line in printed)
    return words


def _by_hand(environment: Environment, preset: str) -> str:
    """How to see the whole of an error of which the evaluator tells the kind alone."""
    module, _, function = environment.scorer.partition(":")
    data, seconds = environment.data(preset).public, environment.preset(preset).budget.seconds
    variables = f"IDEATOR_DATA={data} IDEATOR_ARTIFACT=/tmp/artifact IDEATOR_BUDGET_SECONDS={seconds:g} IDEATOR_SEED=0"
    lines = (
        f"mkdir -p /tmp/artifact; cd {environment.root / 'baseline'}",
        f"{variables} {' '.join(environment.command)}",
        f"""python -c "import numpy, {module}; m = {module}.{function}('/tmp/artifact'); """
        """print(m(numpy.zeros((2, 8), 'int32')).shape)\"""",
    )
    told = f"expected to print (2, 8, {environment.preset(preset).vocab})"
    return f". Of the model's errors the evaluator tells the kind alone; the whole, by hand ({told}):\n" + "\n".join(
        f"      {line}" for line in lines
    )


def _replay(first: list[Experiment], again: list[Experiment]) -> Check:
    """Asked for again by a new executor, every run is found and gives what it gave; nothing is run twice."""
    pairs = list(zip(first, again, strict=True))
    if any(one.id != other.id or not other.replayed for one, other in pairs):
        return Check("replay", False, "a run was not found again: what its identity stands on changes by itself")
    if any((one.metric, one.reward) != (other.metric, other.reward) for one, other in pairs):
        return Check("replay", False, "a run that was asked for again gave another metric")
    return Check("replay", True, f"{len(pairs)} runs found again, with the same metric")


def fingerprint(environment: Environment, preset: str) -> dict[str, str]:
    """What no run may change: every file of the environment's folder and of its data, by path."""
    data = environment.data(preset)
    marks: dict[str, str] = {}
    for folder in (environment.root, data.private, data.public):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                with open(path, "rb") as file:
                    marks[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return marks
