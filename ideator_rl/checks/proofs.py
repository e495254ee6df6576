"""What `env check` tries against an environment: a known-good edit, a run that wrecks its workspace, a search for
hidden data in all that an experiment can read.

Each returns `Check`s for the environment's author.  The wrecked run proves that scoring does not use the workspace
after the run; it proves nothing about escapes from the sandbox.  The search finds exact copies only.
"""

from __future__ import annotations

import ast
import json
import math
import posixpath
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from ideator_rl.checks.text_search import PUBLIC
from ideator_rl.environments.data import Data
from ideator_rl.environments.environment import Environment
from ideator_rl.environments.noise import Noise
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import REJECTED, SUCCEEDED, Experiment
from ideator_rl.patch import PatchError, Rules, Tree, diff, judge, write_tree
from ideator_rl.patch.source import parsed, shown
from ideator_rl.sandbox.choose import choose_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import NONE, WORKSPACE, Sandbox
from ideator_rl.scoring.allowance import Address, limits, load_cost

MOVES = 2
"""Standard deviations by which a known-good edit must beat the baseline's mean."""
SAME = 10
"""Standard deviations within which a run counts as equal to the baseline: few seeds give a rough deviation."""
PIECE_BYTES = 256
"""Long enough that a match means a copy: shorter pieces of text, above all of code, occur in many files."""
HIDDEN_PIECES, PUBLIC_PIECES = 32, 4
"""Pieces to search for; at least one of every file."""
LEAST_BYTES, LEAST_DISTINCT = 24, 12
"""Shorter pieces, or those of fewer distinct bytes, such as spaces, occur in any file."""
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
"""Inserted at the top of the script: at exit, after all of its own code, every file of its workspace is rewritten."""


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    words: str
    """What was tried, and what to correct; the key `words` of `env check --json`."""
    warned: bool = False
    """Nothing failed, but a fact was not proved."""


def known_good(environment: Environment, noise: Noise, record: Experiment | None) -> Check:
    """Whether the manifest's `known_good` patch improved the metric by more than noise."""
    name, metric = "known-good edit", environment.metric
    if record is None:
        text = "missing: add a patch that improves the metric, and `known_good: FILE` to env.yaml"
        return Check(name, True, text, warned=True)
    if record.status != SUCCEEDED or record.metric is None:
        return Check(name, False, f"{environment.known_good} did not succeed: {_why(record)}")
    value = float(record.metric["value"])
    text = (
        f"{metric.name} {value:.4g} with {environment.known_good}, against {noise.mean:.4g} ± {noise.spread:.2g} of "
        f"the baseline"
    )
    gain = noise.mean - value if metric.direction == "min" else value - noise.mean
    if gain <= MOVES * noise.spread:
        hint = "a larger edit, a longer budget, or a steadier metric (more hidden data) is needed"
        return Check(name, False, f"{text}: not better by over {MOVES} standard deviations; {hint}")
    return Check(name, True, text)


def scoring(environment: Environment, preset: str, records: list[Experiment]) -> Iterator[Check]:
    """What the baseline's scoring costs here, which limits that of experiments, and whether every loss is audited."""
    cost = load_cost(Address(environment.name, preset, environment.digest(preset), environment.preload))
    if cost is not None and cost.scorers:
        cpu = sum(scorer.loading + scorer.passes for scorer in cost.scorers)
        bounds = limits(cost, environment.preset(preset).budget)
        allowed = f"an experiment may take {bounds.wall:.0f} s"
        if bounds.scorers is not None:
            loading = bounds.scorers[0].loading
            pairs = zip(bounds.scorers, cost.scorers, strict=True)
            most = sum(limit.loading + limit.passes + limit.per_token * scorer.tokens for limit, scorer in pairs)
            allowed += f" and {most:.1f} CPU seconds, {loading:.1f} to load in its first scorer"
        text = f"{cpu:.2f} CPU seconds in {len(cost.scorers)} scorers, {cost.wall:.1f} s in all; {allowed}"
        reasons = sorted({str(record.scoring.get("doors", "shut")) for record in records} - {"shut"})
        if reasons:
            text += f"; scorers can make path and file calls while they read hidden data: doors {reasons[0]}"
        yield Check("scoring", True, text, warned=bool(reasons))
    unaudited = [r for r in records if "of_tokens" in r.scoring and "audit_gap" not in r.scoring]
    if unaudited and unaudited[0].metric is not None:
        text = (
            f"{len(unaudited)} of {len(records)} baselines were not audited, such as {unaudited[0].metric['value']:g}"
        )
        yield Check("audit", False, f"{text}: a model can cheat to just above `below`. Leave it out, or raise it")


def forged_evaluator(environment: Environment) -> str:
    """A patch that adds an evaluator to the codebase: it must be rejected."""
    return diff({}, {environment.evaluator: "def evaluate(run):\n    return 0.0\n"})


def wrecking_patch(environment: Environment, preset: str) -> str:
    """A patch that makes the baseline's run rewrite every file of its workspace at exit.

    Raises:
        IdeatorError: the command is no script of the baseline, or no patch may change it.
    """
    base = environment.baseline(preset)
    script = environment.script or _module_file(environment, base)
    if script not in base:
        raise IdeatorError(f"the command {shlex.join(environment.command)} is not `python SCRIPT`")
    source = shown(base[script])
    mark, lines = base[script].removesuffix(source), source.split("\n")
    try:
        head = _head(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise IdeatorError(f"{script} is not Python {sys.version_info[0]}.{sys.version_info[1]}: {error}") from None
    tree = base | {script: mark + "\n".join(lines[:head]) + WRECKER + "\n".join(lines[head:])}
    try:
        judge(base, tree, environment.rules)
    except PatchError as error:
        raise IdeatorError(f"no patch may change the script: {error}") from None
    return diff(base, tree)


def _module_file(environment: Environment, base: Tree) -> str:
    """The file that `python -m MODULE` runs; empty for another command."""
    command = environment.command
    path = command[2].replace(".", "/") if command[:2] == ("python", "-m") and len(command) > 2 else ""
    places = (
        posixpath.join(folder, path + end) for folder in environment.import_folders for end in (".py", "/__main__.py")
    )
    return next((place for place in places if path and place in base), "")


def _head(source: str) -> int:
    """How many lines must stay first in a script: its encoding, its docstring and imports from `__future__`."""
    last = len(list(takewhile(lambda line: line.startswith("#"), source.split("\n")[:2])))
    for number, node in enumerate(parsed(source).body):
        docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            last = node.end_lineno or 0
    return last


def protection(environment: Environment, noise: Noise, forgery: Experiment, wreck: Experiment | IdeatorError) -> Check:
    """Whether an evaluator in a patch is rejected, and a wrecked workspace leaves the metric unchanged."""
    name = "protected files"
    if forgery.status != REJECTED:
        return Check(name, False, f"a patch that adds {environment.evaluator} was not rejected: {_why(forgery)}")
    text = f"a patch that adds {environment.evaluator} is rejected"
    if isinstance(wreck, IdeatorError):
        return Check(name, True, f"{text}; a run that wrecks its workspace was not tried: {wreck}", warned=True)
    position = wreck.log.rfind(WRECKED)
    if position < 0:
        return Check(name, True, f"{text}; a run did not wreck its workspace as it should have", warned=True)
    count = wreck.log[position + len(WRECKED) :].split()[0]
    attempt = f"a run that rewrote all {count} files of its workspace at its end"
    if wreck.status != SUCCEEDED or wreck.metric is None:
        return Check(name, False, f"{attempt} was not measured: {_why(wreck)}")
    value = float(wreck.metric["value"])
    close = abs(value - noise.mean) <= SAME * noise.spread or math.isclose(value, noise.mean, rel_tol=1e-6)
    same = close or len(noise.values) == 1  # one run has no deviation to compare with
    verdict = "like the baseline" if same else f"unlike the baseline ({noise.mean:.4g} ± {noise.spread:.2g})"
    return Check(name, same, f"{text}; {attempt} was measured {verdict}: {environment.metric.name} {value:.4g}")


def _why(record: Experiment) -> str:
    return f"{record.status}: {record.error['message']}" if record.error else record.status


def hidden(environment: Environment, preset: str, isolation: str) -> Iterator[Check]:
    """Search everything that an experiment can read for pieces of the hidden data.

    Pieces of the public data are searched for too: if they are not found, the search itself is broken.
    """
    data, sandbox = environment.data(preset), choose_sandbox(isolation, trusted=True)
    secret, public = pieces(data.private, HIDDEN_PIECES), pieces(data.public, PUBLIC_PIECES)
    if not secret:
        files = [path for path in data.private.rglob("*") if path.is_file()]
        text = "none: prepare.py writes nothing to its private folder, so the metric depends on public data alone"
        if files:
            text = f"not searched for: each of the {len(files)} private files is too small or too plain to recognize"
        yield Check("hidden data", True, text, warned=True)
        return
    if sandbox.level == NONE:
        verdict = "unmasked, and not searched: " if isolation == NONE else "not masked: no sandbox: "
        yield Check("hidden data", isolation == NONE, f"{verdict}{sandbox.reason}")
        return
    try:
        result = _search(secret + public, environment.baseline(preset), data, sandbox)
    except IdeatorError as error:
        yield Check("hidden data", False, str(error))
        return
    # The numbers of secret pieces come before those of public ones.
    matches = {int(number): paths for number, paths in result["found"].items()}
    secrets = {number: paths for number, paths in matches.items() if number < len(secret)}
    yield _leaks(secrets, len(secret), f"{result['files']} readable files, {result['bytes'] / 1e9:.1f} GB",
                 environment.data_source(preset).shared())  # fmt: skip
    leaked = len(secrets)
    if public:
        recognized = len(matches) - leaked
        yield Check("search", recognized == len(public), f"finds {recognized} of {len(public)} pieces of public data")


def _leaks(matches: dict[int, list[str]], count: int, scope: str, shared: float) -> Check:
    """The verdict on the hidden pieces that were found, by their numbers.

    Args:
        count: hidden pieces that were searched for.
        shared: the share of them that the public folder may hold too.
    """
    name = "hidden data"
    if not matches:
        return Check(name, True, f"none of {count} pieces in {scope}")
    # Large crawls repeat texts: their environments state how much of it is no leak.  Nothing excuses other places.
    elsewhere = sorted({path for paths in matches.values() for path in paths if not path.startswith(PUBLIC + "/")})
    if not elsewhere and len(matches) <= shared * count:
        text = f"{len(matches)} of {count} pieces are in the training data too, of at most {shared:.1%} that its"
        return Check(name, True, f"{text} `shared` in prepare.py allows; none elsewhere in {scope}", warned=True)
    places = elsewhere or sorted({path for paths in matches.values() for path in paths})
    text = f"readable in the sandbox: {len(matches)} of {count} pieces, in {', '.join(places[:3])}. "
    text += f"{WORKSPACE} is baseline/, {PUBLIC} is the public folder; `sources()` in prepare.py hides other folders"
    return Check(name, False, text)


def _search(texts: list[bytes], tree: Tree, data: Data, sandbox: Sandbox) -> dict[str, Any]:
    """Search for pieces in a sandbox like that of an experiment.

    Raises:
        IdeatorError: the search failed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="ideator-check-") as folder:
        workspace = Path(folder) / "tree"
        write_tree(tree, workspace)
        for path in (Path(folder), workspace, *workspace.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        mounts = Mounts({}, {workspace: WORKSPACE, data.public: PUBLIC, SEARCHER: "/ideator/search.py"}, data.masked)
        streams: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        argv = [sys.executable, "-I", "-B", "/ideator/search.py"]
        with sandbox.start(argv, mounts, WORKSPACE, **streams) as process:
            try:
                out, errors = process.communicate(json.dumps([piece.hex() for piece in texts]), SEARCH_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise IdeatorError(f"the search inside the sandbox took over {SEARCH_SECONDS:g} s") from None
    if process.returncode != 0:
        raise IdeatorError(f"the search inside the sandbox failed: {errors.strip()[-200:]}")
    result: dict[str, Any] = json.loads(out)
    return result


def pieces(folder: Path, count: int) -> list[bytes]:
    """Pieces from random offsets of a folder's files, the same at every call; none so plain that it occurs anywhere."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size >= LEAST_BYTES]
    rng, chosen = random.Random(0), list[bytes]()
    for number in range(4 * max(count, len(files)) if files else 0):
        with open(files[number % len(files)], "rb") as file:
            file.seek(rng.randrange(max(1, file.seek(0, 2) - PIECE_BYTES + 1)))
            piece = file.read(PIECE_BYTES)
        if len(set(piece)) >= LEAST_DISTINCT and piece not in chosen:
            chosen.append(piece)
    return chosen[: max(count, len(files))]


def may_become(base: Tree, tree: Tree, rules: Rules) -> bool:
    """Whether the rules allow a tree that differs from the baseline."""
    try:
        judge(base, tree, rules)
    except PatchError:
        return False
    return tree != base
