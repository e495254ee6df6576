"""Writes a preset's settings into the settings file of a codebase: its lines `name = value`."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from typing import Any

from ideator_rl.errors import IdeatorError


def assign(source: str, name: str, value: Any, sets: str, file: str, error: type[IdeatorError]) -> str:
    """The source with another value in its line `name = …`, whose comment stays.

    Args:
        sets: the beginning of an error, which names what sets which name.
        file: whose source it is.

    Raises:
        `error`: no line or several assign the name, or the value is of another kind than the one there.
    """
    pattern = re.compile(
        rf"^(?P<left>[ \t]*{re.escape(name)}[ \t]*(?::[^=\n]+)?=[ \t]*)(?P<old>[^#\n]*?)(?P<tail>[ \t]*(?:#[^\n]*)?)$",
        re.M,
    )
    matches = list(pattern.finditer(source))
    if len(matches) != 1:
        raise error(f"{sets}, but {file} assigns it {len(matches)} times; exactly one line `{name} = …` is expected.")
    old = matches[0]["old"]
    # YAML reads `on` as true and `12:30` as text: a value of another kind than the baseline's was not meant.
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        before = ast.literal_eval(old)
        if before is not None and value is not None and isinstance(before, str) != isinstance(value, str):
            wanted = "text; put it in quotes" if isinstance(before, str) else "no text, as there"
            raise error(f"{sets} to {value!r}, and {file} has {old.strip()[:80]} there. Expected {wanted}.")
    return pattern.sub(lambda m: m["left"] + repr(value) + m["tail"], source)
