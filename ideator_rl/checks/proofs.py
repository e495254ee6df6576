"""What `env check` tries against an environment: a known-good edit, a run that wrecks its own codebase, a search of all
that an experiment can read.

Each gives `Check`s, in words for the environment's author.  The wrecked run proves that what is scored is not what lies
in the workspace afterwards; it says nothing of a sandbox that can be left.  The search finds exact copies only.
"""

from __future__ import annotations

import ast
import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.environments.data import Data
from ideator_rl.environments.environment import Environment
from ideator_rl.environments.noise import Noise
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import REJECTED, SUCCEEDED, Experiment
from ideator_rl.patch import PatchError, Rules, Tree, diff, judge, write_tree
from ideator_rl.sandbox.choose import choose_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import NONE, WORKSPACE, Sandbox

MOVES = 2
"""Spreads by which a known-good edit must beat the baseline's mean."""
SAME = 10
"""Spreads within which a run counts as like the baseline: of a few seeds, the spread itself is known roughly."""
PIECE_BYTES = 256
"""Long enough that finding it elsewhere means a copy: shorter pieces of text, code above all, recur as phrases."""
HIDDEN_PIECES, PUBLIC_PIECES = 32, 4
"""How many are looked for; at least one of every file."""
LEAST_BYTES, LEAST_DISTINCT = 24, 12
"""Smaller or plainer pieces, such as spaces, stand in any file."""
SEARCH_SECONDS = 1800.0
SEARCHER = Path(__file__).with_name("text_search.py")
WRECKED = "env check: files of the workspace rewritten: "
WRECKER = f"""
if __name__ == "__main__":
    import atexit as _atexit, os as _os

    def _wreck(root=_os.getcwd(), count=0):
        for folder, folders, names in _os.walk(root):
            folders[:] = [name for name in folders if _os.path.join(folder, name) != _os.environ["IDEATOR_ARTIFACT"]]
            for name in names:
                with open(_os.path.join(folder, name), "w") as file:
                    file.write("raise SystemExit('wrecked')")
                count += 1
        print({WRECKED!r} + str(count), flush=True)

    _atexit.register(_wreck)
"""
"""Put at the head of the script: what it was given runs first, then all files of its workspace are lost."""


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    words: str
    warned: bool = False
    """Nothing is wrong, but something was not proved."""


def known_good(environment: Environment, noise: Noise, record: Experiment | None) -> Check:
    """Whether the metric moved as it must under the manifest's `known_good` patch."""
    name, metric = "known-good edit", environment.metric
    if record is None:
        words = "not given: add a patch that is known to better the metric, and `known_good: FILE` to env.yaml"
        return Check(name, True, words, warned=True)
    if record.status != SUCCEEDED or record.metric is None:
        return Check(name, False, f"{environment.known_good} did not succeed: {_why(record)}")
    value = float(record.metric["value"])
    words = (
        f"{metric.name} {value:.4g} with {environment.known_good}, against {noise.mean:.4g} ± {noise.spread:.2g} of "
        f"the baseline"
    )
    gain = noise.mean - value if metric.direction == "min" else value - noise.mean
    if gain <= MOVES * noise.spread:
        hint = "a larger edit, a longer budget, or a steadier metric (more hidden data) is needed"
        return Check(name, False, f"{words}: not better by over {MOVES} spreads; {hint}")
    return Check(name, True, words)


def forged(environment: Environment) -> str:
    """A patch that puts an evaluator into the codebase: it must be rejected."""
    return diff({}, {environment.evaluator: "def evaluate(run):\n    return 0.0\n"})


def wrecked(environment: Environment, preset: str) -> str:
    """A patch by which the run of the baseline rewrites every file of its workspace at its end.

    Raises:
        IdeatorError: the baseline's command gives no place for it, in words for a person.
    """
    base, argv = environment.baseline(preset), environment.command
    if argv[0] != "python" or len(argv) < 2 or argv[1] not in base:
        raise IdeatorError(f"the command {' '.join(argv)} is not `python SCRIPT`")
    lines = base[argv[1]].split("\n")
    head = _head(base[argv[1]])
    tree = base | {argv[1]: "\n".join(lines[:head]) + WRECKER + "\n".join(lines[head:])}
    try:
        judge(base, tree, environment.rules)
    except PatchError as error:
        raise IdeatorError(f"no patch may change the script: {error}") from None
    return diff(base, tree)


def _head(source: str) -> int:
    """Lines that must stay first in a script: its docstring and imports from `__future__`."""
    last = 0
    for number, node in enumerate(ast.parse(source).body):
        docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            last = node.end_lineno or 0
    return last


def protection(environment: Environment, noise: Noise, forgery: Experiment, wreck: Experiment | IdeatorError) -> Check:
    """Whether an evaluator in a patch is refused, and a wrecked workspace leaves the measurement alone."""
    name = "protected files"
    if forgery.status != REJECTED:
        return Check(name, False, f"a patch that adds {environment.evaluator} was not rejected: {_why(forgery)}")
    words = f"a patch that adds {environment.evaluator} is rejected"
    if isinstance(wreck, IdeatorError):
        return Check(name, True, f"{words}; a run that wrecks its workspace was not tried: {wreck}", warned=True)
    mark = wreck.log.rfind(WRECKED)
    if mark < 0:
        return Check(name, True, f"{words}; a run did not wreck its workspace as it should have", warned=True)
    count = wreck.log[mark + len(WRECKED) :].split()[0]
    tried = f"a run that rewrote all {count} files of its workspace at its end"
    if wreck.status != SUCCEEDED or wreck.metric is None:
        return Check(name, False, f"{tried} was not measured: {_why(wreck)}")
    value = float(wreck.metric["value"])
    near = abs(value - noise.mean) <= SAME * noise.spread or math.isclose(value, noise.mean, rel_tol=1e-6)
    same = near or len(noise.values) == 1  # one run has no spread to compare with
    verdict = "as the baseline is" if same else f"otherwise than the baseline ({noise.mean:.4g} ± {noise.spread:.2g})"
    return Check(name, same, f"{words}; {tried} was measured {verdict}: {environment.metric.name} {value:.4g}")


def _why(record: Experiment) -> str:
    return f"{record.status}: {record.error['message']}" if record.error else record.status


def hidden(environment: Environment, preset: str, isolation: str) -> Iterator[Check]:
    """Search everything an experiment can read for pieces of the hidden data; and, to be sure the search sees, of the
    public data."""
    data, sandbox = environment.data(preset), choose_sandbox(isolation, trusted=True)
    secret, public = pieces(data.private, HIDDEN_PIECES), pieces(data.public, PUBLIC_PIECES)
    if not secret:
        files = [path for path in data.private.rglob("*") if path.is_file()]
        words = "none: prepare.py writes nothing to its private folder, so that the metric stands on public facts alone"
        if files:
            words = f"not searched for: each of the {len(files)} private files is too small or too plain to be told"
        yield Check("hidden data", True, words, warned=True)
        return
    if sandbox.level == NONE:
        stamp = "unmasked, and not searched: " if isolation == NONE else "not masked: no sandbox: "
        yield Check("hidden data", isolation == NONE, f"{stamp}{sandbox.reason}")
        return
    try:
        answer = _search(secret + public, environment.baseline(preset), data, sandbox)
    except IdeatorError as error:
        yield Check("hidden data", False, str(error))
        return
    found = {int(number): paths for number, paths in answer["found"].items()}
    leaks = sorted({path for number, paths in found.items() if number < len(secret) for path in paths})
    leaked = sum(number < len(secret) for number in found)
    scope = f"{answer['files']} readable files, {answer['bytes'] / 1e9:.1f} GB"
    words = f"none of {len(secret)} pieces in {scope}"
    if leaks:
        words = f"readable in the sandbox: {leaked} of {len(secret)} pieces, in {', '.join(leaks[:3])}. "
        words += f"{WORKSPACE} is baseline/, /data is the public folder; `sources()` in prepare.py hides other folders"
    yield Check("hidden data", not leaks, words)
    if public:
        seen = len(found) - leaked
        yield Check("search", seen == len(public), f"finds {seen} of {len(public)} pieces of the public data")


def _search(wanted: list[bytes], tree: Tree, data: Data, sandbox: Sandbox) -> dict[str, Any]:
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
        streams: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        argv = [sys.executable, "-I", "-B", "/ideator/search.py"]
        with sandbox.start(argv, mounts, WORKSPACE, **streams) as process:
            try:
                out, errors = process.communicate(json.dumps([piece.hex() for piece in wanted]), SEARCH_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise IdeatorError(f"the search inside the sandbox took over {SEARCH_SECONDS:g} s") from None
    if process.returncode != 0:
        raise IdeatorError(f"the search inside the sandbox broke: {errors.strip()[-200:]}")
    answer: dict[str, Any] = json.loads(out)
    return answer


def pieces(folder: Path, count: int) -> list[bytes]:
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


def may_become(base: Tree, tree: Tree, rules: Rules) -> bool:
    """Whether the rules allow a tree that differs from the baseline."""
    try:
        judge(base, tree, rules)
    except PatchError:
        return False
    return tree != base
