"""Environment variables in texts of a recipe: `${NAME}`, so that a secret need not be in the file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class UnsetVariable(KeyError):
    """A text names a variable that is not set; `str` of the error is its name."""

    def __str__(self) -> str:
        return str(self.args[0])


def variables(text: str) -> list[str]:
    """The names of the variables in a text."""
    return _VARIABLE.findall(text)


def fill(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with the values of its variables, without the line end that a file of a key may have left.

    Raises:
        UnsetVariable: a variable is not set, or empty.
    """
    for name in variables(text):
        if not environ.get(name, "").strip():
            raise UnsetVariable(name)
    return _VARIABLE.sub(lambda match: environ[match[1]].strip(), text)
