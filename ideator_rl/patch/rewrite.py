"""Whether a text is a complete rewrite of a short Python script, though it shares few lines with it, or an excerpt.

An excerpt, such as one changed function, uses names that it does not define, repeats lines of the file, or lacks what
the file defines or does at its end.  All of these must be excluded.
"""

from __future__ import annotations

import ast
import builtins

from ideator_rl.patch.source import parsed

MAX_LINES = 120
"""Lines of the longest file that counts as a short script."""
COPIED_SHARE = 0.5
"""Share of its lines that a text has from the file, from which on it may be an excerpt with a change."""
_MODULE_NAMES = {"__file__", "__name__", "__doc__", "__spec__", "__package__", "__builtins__"}


def is_rewrite(path: str, old: list[str], new: list[str]) -> bool:
    """Whether `new` can only be meant to replace the file `old` as a whole."""
    if not path.endswith(".py") or len(old) > MAX_LINES:
        return False
    try:
        before, after = (parsed("\n".join(lines)) for lines in (old, new))
        # In here too: `ast.unparse` raises for a hexadecimal number of over 4,300 decimal digits, which Python parses.
        ends_alike = _ends_alike(before, after)
    except (SyntaxError, ValueError, RecursionError):
        return False
    old_lines = {line.strip() for line in old}
    content = [line.strip() for line in new if line.strip()]
    copied = sum(line in old_lines for line in content)
    if not content or copied >= COPIED_SHARE * len(content):
        return False
    return not _undefined(after) and _defined(before) <= _bound(after) and ends_alike


def _bound(tree: ast.Module) -> set[str]:
    """Every name that a module binds, in any scope."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
    return names


def _undefined(tree: ast.Module) -> set[str]:
    """Names that a module uses and never binds; also "*", where an import hides which names it binds."""
    bound = _bound(tree)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return (used - bound - set(dir(builtins)) - _MODULE_NAMES) | (bound & {"*"})


def _defined(tree: ast.Module) -> set[str]:
    """What other files may import: functions and classes; without a statement that does something, constants too."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    if _last_calls(tree):
        return names
    assigned = [node for statement in tree.body if isinstance(statement, ast.Assign | ast.AnnAssign)
                for node in ast.walk(statement)]  # fmt: skip
    return names | {node.id for node in assigned if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _ends_alike(before: ast.Module, after: ast.Module) -> bool:
    """Whether both call the same at their end, such as the function that saves the result."""
    calls = _last_calls(before)
    return not calls or bool(calls & _last_calls(after))


def _last_calls(tree: ast.Module) -> set[str]:
    """What the last statement outside of functions and classes calls."""
    last = tree.body[-1] if tree.body else None
    if last is None or isinstance(
        last, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    ):
        return set()
    return {ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(last) if isinstance(node, ast.Call)}
