"""Removes secrets from texts and settings that strangers may read: exports, cards and reports.

Removed: users and passwords in URLs, values of environment variables whose names look secret, tokens of well-known
forms, and settings whose keys look secret.  Not recognised: a secret that looks like ordinary words.  A person should
read what is published.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.text.display import encodable
from ideator_rl.text.variables import variables

HIDDEN = "(hidden)"
"""Replaces a secret."""
WIRE_SETTINGS = ("extra_headers", "extra_query")
"""Settings of an LLM whose values are shown only where they name an environment variable."""
MIN_SECRET_LENGTH = 8
"""Characters; a shorter value of an environment variable is taken for an ordinary word."""
MAX_SECRET_LENGTH = 512
"""Characters of the longest secret whose rest `end_of` removes."""
_WORD = re.compile(rf"\S{{1,{MAX_SECRET_LENGTH}}}")
_SECRET_KEY = re.compile(
    r"token$|secret|passw|api[_-]?key|access[_-]?key|credential|authorization|cookie|(?:^|[_-])(?:key|auth)$|[_-]pwd$",
    re.IGNORECASE,
)
_SECRET_SETTING = re.compile(
    r"(?:^|_)(?:hub|hf|auth|access|api|bearer)_token$|secret$|passw(?:ord|d)$|api_?key$|access_?key(?:_id)?$|^authorization$",
    re.IGNORECASE,
)
"""Names of settings that are given only for their secret; `eos_token` and `api_key_env` are not."""
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|AKIA[0-9A-Z]{16}"
    r"|gsk_[A-Za-z0-9]{16,}|xai-[A-Za-z0-9]{16,}|AIza[A-Za-z0-9_-]{35})"
)
# Hostile texts may hold a scheme of any length, so its last character stands for it: every pattern takes linear time.
_LOGIN = re.compile(r"([a-z0-9+.-]://)[^/\s@\"'<>]+@", re.IGNORECASE)
_QUERY = re.compile(r"([a-z0-9+.-]://[^\s?\"'<>]*)(\?[^\s\"'<>]+)?", re.IGNORECASE)
"""It matches a URL without a query too: else each `://` in a long one would be searched to its end."""
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def refuse_secrets(settings: Any, lead: str, error: type[IdeatorError]) -> None:
    """
    Args:
        lead: how a message begins, such as `The recipe r.yaml has`.

    Raises:
        error: settings of any depth hold a secret, by its key or by its form, which run folders, buckets and trackers
            would store.
    """
    items = (
        settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list) else ()
    )
    for key, value in items:
        # Headers may name variables instead; the settings of the LLM look at each.
        if key in WIRE_SETTINGS:
            continue
        name = str(key).replace("-", "_")
        text = value if isinstance(value, str) and not variables(value) else ""
        # Some paste the key itself where its variable is to be named.
        is_token = _TOKEN.search(text) is not None
        if is_token or (text and _SECRET_SETTING.search(name)):
            advice = "Set HF_TOKEN in the environment, or run `hf auth login`"
            if re.search("hub|hf", name) is None and not text.startswith("hf_"):
                advice = "Set it as an environment variable, and name that in `api_key_env`; a header takes `${NAME}`"
            secret = f"a token in {key!r}" if is_token else f"the key {key!r}, a secret"
            raise error(f"{lead} {secret} that run folders and trackers would store. {advice}.")
        refuse_secrets(value, lead, error)


def without_tokens(text: str) -> str:
    """A text without what looks like a secret by itself: logins and queries of URLs, and tokens of known forms."""
    text = _QUERY.sub(lambda url: f"{url[1]}?{HIDDEN}" if url[2] else url[0], _LOGIN.sub(r"\1", text))
    return _TOKEN.sub(HIDDEN, text)


def end_of(text: str, length: int) -> str:
    """The end of a text, at most `length` characters, without the word that the cut went through.

    The rest of a secret would not be known as one.  Of a word without end, `MAX_SECRET_LENGTH` characters are left out.
    """
    length = max(0, length)
    if len(text) <= length:
        return text
    end = text[len(text) - length :]
    cut_word = None if text[len(text) - len(end) - 1].isspace() else _WORD.match(end)
    return end[cut_word.end() :] if cut_word else end


def beginning_of(text: str, length: int) -> str:
    """The first characters of a text, `length` at most, without the word that the cut went through: see `end_of`."""
    return end_of(text[::-1], length)[::-1]


def is_secret_key(key: str) -> bool:
    """Whether a setting of this name usually holds a secret."""
    return _SECRET_KEY.search(key) is not None


class Redactor:
    """Removes secrets, those of the environment variables at the time of its construction included."""

    def __init__(self, recipe: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ):
        """
        Args:
            recipe: a recipe, which may name the environment variables of keys and headers.
        """
        named = set(_variables_of(recipe))
        values = {value.strip() for name, value in environ.items() if is_secret_key(name) or name in named}
        # Longest first: one secret may be the beginning of another.
        secrets = sorted((value for value in values if len(value) >= MIN_SECRET_LENGTH), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, secrets))) if secrets else None

    def text(self, text: str) -> str:
        """The text without secrets, and without halves of surrogate pairs, which a model may have written."""
        text = encodable(text)
        if self._secrets is not None:
            text = self._secrets.sub(HIDDEN, text)
        return _TOKEN.sub(HIDDEN, _LOGIN.sub(r"\1", text))

    def settings(self, value: Any, shorten_paths: bool = True) -> Any:
        """Settings of any depth without secrets and without the queries of URLs.

        Args:
            shorten_paths: reduce absolute paths to their last part, because they describe a machine.
        """
        if isinstance(value, dict):
            return {
                key: self._wire(inner) if key in WIRE_SETTINGS and isinstance(inner, dict)
                else HIDDEN if inner and is_secret_key(str(key)) else self.settings(inner, shorten_paths)
                for key, inner in value.items()
            }  # fmt: skip
        if isinstance(value, list):
            return [self.settings(inner, shorten_paths) for inner in value]
        if not isinstance(value, str):
            return value
        if shorten_paths and value.startswith(("/", "~", "file:")):
            return "…/" + self.text(value.rstrip("/").rpartition("/")[2])
        return self.text(re.split(r"[?#]", value, maxsplit=1)[0] if _URL.match(value) else value)

    def _wire(self, values: dict[str, Any]) -> dict[str, Any]:
        """Headers and parameters of an address: only a text that names an environment variable is shown."""
        return {key: self.text(text) if variables(str(text)) else HIDDEN for key, text in values.items()}


def _variables_of(value: Any) -> Iterator[str]:
    """The environment variables that a recipe names, at any depth: `api_key_env: NAME`, and `${NAME}` in a text."""
    if isinstance(value, Mapping):
        if isinstance(name := value.get("api_key_env"), str):
            yield name
        for inner in value.values():
            yield from _variables_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _variables_of(inner)
    elif isinstance(value, str):
        yield from variables(value)
