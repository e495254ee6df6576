"""Proves an environment: that its parts hold together, what its noise is, and that nothing hidden can be reached.

Each check is one fact that was tried, not one that was read: the baseline is run, the sandbox is searched from inside.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.environment import Environment, load_environment
from ideator_rl.environment_data import Data, cache_root
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.sandbox import NONE, WORKSPACE, Mounts, Sandbox, choose
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.patch import PatchError, Rules, Tree, judge, write_tree
from ideator_rl.patch.judge import is_protected
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

PIECE_BYTES = 256
"""Long enough that finding it elsewhere means a copy: shorter pieces of text, code above all, recur as phrases."""
HIDDEN_PIECES, PUBLIC_PIECES = 32, 4
"""How many are looked for; at least one of every file."""
LEAST_BYTES, LEAST_DISTINCT = 24, 12
"""Smaller or plainer pieces, such as spaces, stand in any file."""
SEARCH_SECONDS = 1800.0
SEARCHER = Path(__file__).with_name("environment_search.py")


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    words: str


def check_environment(
    name: str, preset: str, seeds: int = 3, isolation: str = "auto", slots: int | None = None
) -> Iterator[Check]:
    """Check after check, each as soon as it is known; ends early when one makes the rest meaningless."""
    try:
        environment = load_environment(name)
        environment.preset(preset)
        yield Check("manifest", True, f"{environment.root / 'env.yaml'}, presets {', '.join(environment.presets)}")
        environment.data(preset)
        yield Check("data", True, "prepared")
    except (IdeatorError, NotImplementedError) as error:
        yield Check("manifest and data", False, str(error))
        return
    yield _rules(environment, preset)
    evaluator = environment.root / environment.evaluator
    before = hashlib.sha256(evaluator.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ideator-check-") as folder:
        config = BufferConfig(name, preset, f"file://{folder}/bucket", run_dir=folder, isolation=isolation, slots=slots)
        records = _baseline(config, seeds)
        again = _baseline(config, seeds) if all(one.status == SUCCEEDED for one in records) else []
    yield _noise(environment, preset, records)
    yield _replay(records, again)
    unchanged = hashlib.sha256(evaluator.read_bytes()).hexdigest() == before
    yield Check("evaluator", unchanged, "unchanged by the runs" if unchanged else "was changed by a run")
    yield from _hidden(environment, preset, isolation)


def _rules(environment: Environment, preset: str) -> Check:
    """No patch may change or delete what is protected or hidden; and there is something that one may change."""
    base, rules = environment.baseline(preset), environment.rules
    named = {path for path in rules.protected if not any(mark in path for mark in "*?[") and not path.endswith("/")}
    guarded = named | {path for path in base if is_protected(path, rules)}
    for path in sorted(guarded):
        without = {name: text for name, text in base.items() if name != path}
        if _may_become(base, base | {path: "changed\n"}, rules) or _may_become(base, without, rules, path in base):
            return Check("rules", False, f"a patch may change {path}, which is protected")
    editable = [path for path in base if _may_become(base, base | {path: "changed\n"}, rules)]
    globs = ", ".join(rules.editable)
    if not editable:
        return Check("rules", False, f"no file of baseline/ may be changed; editable: {globs}")
    return Check(
        "rules", True, f"{len(editable)} files may be changed ({globs}); {len(guarded)} protected ones refused"
    )


def _may_become(base: Tree, tree: Tree, rules: Rules, differs: bool = True) -> bool:
    try:
        judge(base, tree, rules)
    except PatchError:
        return False
    return differs


def _replay(first: list[Experiment], again: list[Experiment]) -> Check:
    """Asked for again by a new executor, every run is found and gives what it gave; nothing is run twice."""
    if not again:
        return Check("replay", False, "not tried: the baseline did not succeed")
    pairs = list(zip(first, again, strict=True))
    if any(one.id != other.id or not other.replayed for one, other in pairs):
        return Check("replay", False, "a run was not found again: what its identity stands on changes by itself")
    if any((one.metric, one.reward) != (other.metric, other.reward) for one, other in pairs):
        return Check("replay", False, "a run that was asked for again gave another metric")
    return Check("replay", True, f"{len(pairs)} runs found again, with the same metric")


def _baseline(config: BufferConfig, seeds: int) -> list[Experiment]:
    buffer = RewardBuffer(config)

    async def runs() -> list[Experiment]:
        return list(await asyncio.gather(*(buffer.baseline(replicate) for replicate in range(seeds))))

    try:
        return asyncio.run(runs())
    finally:
        buffer.close()


def _noise(environment: Environment, preset: str, records: list[Experiment]) -> Check:
    """The baseline within its budget over seeds; mean and spread are kept in the user's cache."""
    failed = [record for record in records if record.status != SUCCEEDED]
    if failed:
        why = failed[0].error["message"] if failed[0].error else ""
        return Check(
            "baseline", False, f"{len(failed)} of {len(records)} runs did not succeed: {failed[0].status}: {why}"
        )
    values = [float(record.metric["value"]) for record in records if record.metric]
    mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    path = cache_root() / "baselines" / f"{environment.name}-{preset}-{environment.digest(preset)[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mean": mean, "spread": spread, "values": values}))
    budget = environment.preset(preset).budget
    spent = max(record.seconds["cpu" if budget.clock == "cpu" else "run"] for record in records)
    return Check(
        "baseline",
        True,
        f"{environment.metric.name} {mean:.4f} ± {spread:.4f} (standard deviation, {len(values)} seeds); "
        f"at most {spent:.2f} of {budget.seconds:g} s on the {budget.clock} clock",
    )


def _hidden(environment: Environment, preset: str, isolation: str) -> Iterator[Check]:
    """Search everything an experiment can read for pieces of the hidden data; and, to be sure the search sees, of the
    public data."""
    data, sandbox = environment.data(preset), choose(isolation, trusted=True)
    hidden, public = _pieces(data.private, HIDDEN_PIECES), _pieces(data.public, PUBLIC_PIECES)
    if not hidden:
        yield Check("hidden data", True, "there is none")
        return
    if sandbox.level == NONE:
        stamp = "unmasked, and not searched: " if isolation == NONE else "not masked: no sandbox: "
        yield Check("hidden data", isolation == NONE, f"{stamp}{sandbox.reason}")
        return
    try:
        answer = _search(hidden + public, environment.baseline(preset), data, sandbox)
    except IdeatorError as error:
        yield Check("hidden data", False, str(error))
        return
    found = {int(number): paths for number, paths in answer["found"].items()}
    leaks = sorted({path for number, paths in found.items() if number < len(hidden) for path in paths})
    leaked = sum(number < len(hidden) for number in found)
    scope = f"{answer['files']} readable files, {answer['bytes'] / 1e9:.1f} GB"
    words = f"none of {len(hidden)} pieces in {scope}"
    if leaks:
        words = f"readable in the sandbox: {leaked} of {len(hidden)} pieces, in {', '.join(leaks[:3])}"
    yield Check("hidden data", not leaks, words)
    if public:
        seen = len(found) - leaked
        yield Check("search", seen == len(public), f"finds {seen} of {len(public)} pieces of the public data")


def _search(pieces: list[bytes], tree: Tree, data: Data, sandbox: Sandbox) -> dict[str, Any]:
    """Look for pieces where an experiment would run, in what it would see.

    Raises:
        IdeatorError: the search did not end by itself.
    """
    with tempfile.TemporaryDirectory(prefix="ideator-check-") as folder:
        workspace = Path(folder) / "tree"
        write_tree(tree, workspace)
        for path in (Path(folder), workspace, *workspace.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        mounts = Mounts({}, {workspace: WORKSPACE, data.public: "/data", SEARCHER: "/ideator/search.py"}, data.masked)
        command = sandbox.command([sys.executable, "-I", "-B", "/ideator/search.py"], mounts, WORKSPACE)
        request = json.dumps([piece.hex() for piece in pieces])
        try:
            done = subprocess.run(
                command, input=request, capture_output=True, text=True, env={}, timeout=SEARCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise IdeatorError(f"the search inside the sandbox took over {SEARCH_SECONDS:g} s") from None
    if done.returncode != 0:
        raise IdeatorError(f"the search inside the sandbox broke: {done.stderr.strip()[-200:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _pieces(folder: Path, count: int) -> list[bytes]:
    """Pieces from random places of a folder's files, the same ones every time; none that any file may hold."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size >= LEAST_BYTES]
    rng, out = random.Random(0), []
    for number in range(4 * max(count, len(files)) if files else 0):
        with open(files[number % len(files)], "rb") as file:
            file.seek(rng.randrange(max(1, file.seek(0, 2) - PIECE_BYTES + 1)))
            piece = file.read(PIECE_BYTES)
        if len(set(piece)) >= LEAST_DISTINCT and piece not in out:
            out.append(piece)
    return out[: max(count, len(files))]
