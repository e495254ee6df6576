"""What an evaluator's function returned, read into a metric, secondary metrics and a text.

A function returns a number, or a mapping:

    the metric's name of env.yaml, or `metric`    the metric
    any other name with a number                  a secondary metric; true and false count as 1 and 0
    any name with a text                          feedback in words

Guarantees: names and numbers of a result are bounded and finite.  A value of another form raises `BadResult`, which
names the line, what came and what was expected, and holds no value that a text could hide in.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ideator_rl.environments.preset import Metric
from ideator_rl.errors import IdeatorError
from ideator_rl.text.display import encodable
from ideator_rl.text.redaction import beginning_of

METRIC = "metric"
"""A key for the metric that every environment has, next to its own name."""
TEXT = "text"
"""The key of the text that needs no heading."""
MAX_SECONDARY = 16
"""Secondary metrics: each number is one that a model under test could write a message into."""
MAX_TEXT = 2_000
"""Characters of all texts together; what is longer keeps its beginning."""
_NAME = re.compile(r"[^\W_][\w .+@/-]{0,59}")


class BadResult(IdeatorError):
    """The evaluator's function returned something that is no result."""


@dataclass(frozen=True)
class Result:
    """A measured codebase."""

    value: float
    """Of the metric; may be NaN or infinite, which no plausible range holds."""
    secondary: dict[str, float] = field(default_factory=dict)
    text: str = ""


def read_result(returned: Any, metric: Metric, function: Callable[..., Any], called: str) -> Result:
    """Read what a function returned.

    Args:
        function: where messages take their line from.
        called: the call as messages show it, such as `evaluate(run) in evaluator.py`.

    Raises:
        BadResult: not a number, nor a mapping of the form above.
    """
    lead, where = f"{called} returned", _return_line(function)
    if not isinstance(returned, Mapping):
        value = _number(returned, lead, f"{where}; expected a number, or a mapping with {metric.name!r}")
        _check_required(metric, {}, lead, where)
        return Result(value)
    values, texts, metrics = dict[str, float](), list[str](), list[float]()
    for key, value in returned.items():
        # The name may come from what the experiment left: it is shown only once it has the form of one.
        if not isinstance(key, str) or _NAME.fullmatch(key) is None:
            expected = "expected names that begin with a letter or digit, at most 60 characters, without line breaks"
            raise BadResult(f"{lead} a mapping with a key that is no name{where}; {expected}")
        if key in (metric.name, METRIC):
            metrics.append(_number(value, f"{lead} for {key!r}", f"{where}; expected a number"))
        elif isinstance(value, str):
            texts.append(value if key == TEXT else f"{key}: {value}")
        else:
            values[key] = _number(value, f"{lead} for {key!r}", f"{where}; expected a finite number or a text")
            if not math.isfinite(values[key]):
                raise BadResult(f"{lead} {values[key]} for {key!r}{where}; expected a finite number or a text")
    if len(metrics) != 1:
        names = ", ".join(map(repr, [*returned][:MAX_SECONDARY])) or "no key"
        got = f"a mapping with {names}" if not metrics else f"both {metric.name!r} and {METRIC!r}"
        raise BadResult(f"{lead} {got}{where}; expected the metric as {metric.name!r} or {METRIC!r}, once")
    if len(values) > MAX_SECONDARY:
        raise BadResult(f"{lead} {len(values)} secondary metrics{where}; expected at most {MAX_SECONDARY}")
    _check_required(metric, values, lead, where)
    return Result(metrics[0], values, beginning_of(encodable("\n".join(texts)), MAX_TEXT))


def _check_required(metric: Metric, values: Mapping[str, float], lead: str, where: str) -> None:
    """Raises: BadResult where a secondary metric that env.yaml requires is missing."""
    for name in metric.require:
        if name not in values:
            raise BadResult(f"{lead} no {name!r}{where}; expected a mapping with it, since env.yaml requires a value")


def broken_requirement(result: Result, metric: Metric) -> str:
    """Which value that env.yaml requires differs; empty if none does."""
    for name, required in metric.require.items():
        if result.secondary.get(name) != required:
            return f"{name} is {result.secondary.get(name, math.nan):g}; env.yaml requires {required:g}"
    return ""


def why_implausible(value: float, metric: Metric) -> str:
    """Why a value cannot be right; empty for one that is in the metric's plausible range."""
    low, high = metric.plausible
    if math.isfinite(value) and low <= value <= high:
        return ""
    return f"{metric.name} is {value:g}, outside the plausible range {low:g} to {high:g}"


def _number(value: Any, lead: str, end: str) -> float:
    """Raises: BadResult for anything but a number, which may be NaN; numpy's and torch's single numbers count."""
    if value is not None and not isinstance(value, str | bytes | Mapping | list | tuple | set):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # several numbers, in torch's words and in numpy's
            pass
    came = "None" if value is None else f"a value of the type {type(value).__name__}"
    raise BadResult(f"{lead} {came}{end}")


def _return_line(function: Callable[..., Any]) -> str:
    """Where a function returns, as ` (line 7)`: the line of its `def` if there are several places; empty if unknown."""
    try:
        code = function.__code__
        with open(code.co_filename, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (AttributeError, OSError, SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name != code.co_name:
            continue
        # Of several functions of one name, the one that was called: its code begins at its first decorator.
        if code.co_firstlineno in (node.lineno, *(item.lineno for item in node.decorator_list)):
            lines = [inner.lineno for inner in _own_nodes(node) if isinstance(inner, ast.Return)]
            return f" (line {lines[0] if len(lines) == 1 else node.lineno})"
    return ""


def _own_nodes(function: ast.AST) -> list[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            nodes += [child, *_own_nodes(child)]
    return nodes
