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

from ideator_rl.environment import Environment, load_environment
from ideator_rl.environment_data import cache_root
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.sandbox import NONE, WORKSPACE, Mounts, choose
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.patch import PatchError, judge, write_tree
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

SNIPPET = 48
"""Bytes of a piece of hidden data that is looked for."""
SNIPPETS = 4
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
    yield _rules(environment)
    evaluator = environment.root / environment.evaluator
    before = hashlib.sha256(evaluator.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ideator-check-") as folder:
        records = _baseline(name, preset, seeds, isolation, slots, folder)
    yield _noise(environment, preset, records)
    unchanged = hashlib.sha256(evaluator.read_bytes()).hexdigest() == before
    yield Check("evaluator", unchanged, "unchanged by the runs" if unchanged else "was changed by a run")
    yield from _hidden(environment, preset, isolation)


def _rules(environment: Environment) -> Check:
    """What is protected or hidden, and what lies outside the editable globs, is refused."""
    base = environment.baseline(next(iter(environment.presets)))
    tried = [environment.evaluator, *environment.rules.protected]
    for path in tried:
        if any(mark in path for mark in "*?["):
            continue
        try:
            judge(base, {**base, path: "changed\n"}, environment.rules)
        except PatchError:
            continue
        if path in environment.rules.protected:
            return Check("rules", False, f"a patch may change {path}, which is protected")
    return Check("rules", True, f"editable: {', '.join(environment.rules.editable)}")


def _baseline(name: str, preset: str, seeds: int, isolation: str, slots: int | None, folder: str) -> list[Experiment]:
    config = BufferConfig(
        name, preset, f"file://{folder}/bucket", run_dir=folder, isolation=isolation, slots=slots, implementer="rules"
    )
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
    hidden, public = _snippets(data.private), _snippets(data.public)
    if not hidden:
        yield Check("hidden data", True, "there is none")
        return
    if sandbox.level == NONE:
        yield Check("hidden data", False, f"not masked: no sandbox ({sandbox.reason})")
        return
    with tempfile.TemporaryDirectory(prefix="ideator-check-") as folder:
        workspace = Path(folder) / "tree"
        write_tree(environment.baseline(preset), workspace)
        for path in (Path(folder), workspace, *workspace.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        mounts = Mounts({}, {workspace: WORKSPACE, data.public: "/data", SEARCHER: "/ideator/search.py"}, data.masked)
        command = [sys.executable, "-I", "/ideator/search.py", *(s.hex() for s in (*hidden, *public))]
        done = subprocess.run(
            sandbox.command(command, mounts, WORKSPACE),
            capture_output=True,
            text=True,
            env={},
            timeout=900,
            check=False,
        )
    if done.returncode != 0:
        yield Check("hidden data", False, f"the search inside the sandbox broke: {done.stderr.strip()[-200:]}")
        return
    found, searched = json.loads(done.stdout)["found"], json.loads(done.stdout)["searched"]
    leaks = [found[s.hex()] for s in hidden if s.hex() in found]
    yield Check(
        "hidden data",
        not leaks,
        f"readable in the sandbox: {leaks[0]}"
        if leaks
        else f"{len(hidden)} pieces in none of {searched} readable files",
    )
    if public:
        seen = sum(s.hex() in found for s in public)
        yield Check("search", seen > 0, f"finds {seen} of {len(public)} pieces of the public data")


def _snippets(folder: Path) -> list[bytes]:
    """Random pieces of every file in a folder that are not trivially common."""
    rng, out = random.Random(0), []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        body = path.read_bytes()
        for _ in range(SNIPPETS if len(body) > 4 * SNIPPET else 0):
            start = rng.randrange(len(body) - SNIPPET)
            piece = body[start : start + SNIPPET]
            if len(set(piece)) > SNIPPET // 3:
                out.append(piece)
    return out
