"""What of a run may be published: texts and recipes without secrets, and without this machine's folders.

Guarantees: no user or password in a URL, no value of an environment variable that looks like a secret by its name, no
token of a well-known form, no recipe value whose key looks like a secret.  Absolute paths of a recipe keep their last
part.  Does not know a secret that looks like ordinary words; a person should read what is published.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from ideator_rl.text import HIDDEN, SECRET_KEY, encodable
from ideator_rl.training.recipe.recipe import Recipe

SHORTEST = 8
"""Characters from which a value of the environment is taken for a secret and not for a word."""
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|AKIA[0-9A-Z]{16})"
)
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@\"'<>]+@", re.IGNORECASE)
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Published:
    """Takes secrets out; made once for an export, with the secrets that this process's environment holds."""

    def __init__(self, environ: Mapping[str, str] = os.environ, names: tuple[str, ...] = ()):
        """`names`: further environment variables that hold a secret, whatever they are called."""
        found = {value for name, value in environ.items() if SECRET_KEY.search(name) or name in names}
        values = sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, values))) if values else None

    def text(self, text: str) -> str:
        """The text without secrets, and encodable: a model may have written half of a character."""
        text = encodable(text)
        if self._values is not None:
            text = self._values.sub(HIDDEN, text)
        return _TOKEN.sub(HIDDEN, _USER.sub(r"\1", text))

    def recipe(self, recipe: Recipe) -> str:
        """The recipe as YAML."""
        shown = {key: self._value(key, value) for key, value in yaml.safe_load(recipe.text()).items()}
        return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)

    def name(self, name: str) -> str:
        """A name or path, of a model or an environment, fit to be read by strangers."""
        return str(self._value("", name))

    def _value(self, key: Any, value: Any) -> Any:
        if value and SECRET_KEY.search(str(key)):
            return HIDDEN
        if isinstance(value, dict):
            return {name: self._value(name, inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._value("", inner) for inner in value]
        return self._words(value) if isinstance(value, str) else value

    def _words(self, value: str) -> str:
        if value.startswith(("/", "~", "file:")):
            return "…/" + self.text(value.rstrip("/").rpartition("/")[2])
        if _URL.match(value):
            value = re.split(r"[?#]", value, maxsplit=1)[0]
        return self.text(value)


def of_recipe(recipe: Recipe) -> Published:
    """With the key of the recipe's coder, whatever its variable is called."""
    name = (recipe.ours.coder or {}).get("api_key_env")
    return Published(names=(name,) if isinstance(name, str) else ())
