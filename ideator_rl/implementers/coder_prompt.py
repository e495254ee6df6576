"""What a coder is asked: the files of `prompts/`, filled in with the environment's facts, the codebase and the idea.

The system message is the same for every idea of an environment and preset, and the idea comes last in the user
message, so that a server's prefix cache serves all drafts, all revisions and, where the codebase fits, all ideas.
Guaranteed: an idea ends where it ends: its section is closed by a mark made from a hash of its text, which
nobody can write into that text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined

from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import Idea
from ideator_rl.implementers.import_graph import third_party_packages
from ideator_rl.implementers.shown_files import BYTES_PER_TOKEN, Shown, View, shown_files, tokens
from ideator_rl.patch import PatchError, Rules, Tree, judge

FOLDER = Path(__file__).with_name("prompts")
FORMATS = ("blocks", "diff", "auto")
QUOTED_SHARE = 4
"""One part in so many of the context that an answer leaves is kept for a revision: the answer before, and its error."""

_templates = Templates(
    loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)

Message = dict[str, str]


def prompts_version() -> str:
    """SHA-256, hex, of all prompt files."""
    digest = hashlib.sha256()
    for file in sorted(FOLDER.glob("*.j2")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class Prompt:
    """All that is asked about one idea."""

    idea: Idea
    base: Tree
    environment: Environment
    preset: str
    edit_format: str
    room: int
    """Tokens that the model's context has beside the longest answer."""

    def messages(self, halvings: int = 0) -> list[Message]:
        """The first messages; each halving shows half as much of the codebase."""
        shown = self.shown(halvings)
        return [{"role": "system", "content": self._system}, {"role": "user", "content": self._user(shown.text)}]

    def shown(self, halvings: int = 0) -> Shown:
        """What of the codebase is shown."""
        view = View(self.environment.command, self.idea.text, self._numbered)
        return shown_files(self._visible, view, self._budget >> halvings)

    def revision(self, answer: str, reason: str, error: str) -> list[Message]:
        """The messages that follow the first ones when an answer is to be revised: the answer, and what was wrong."""
        asked = _templates.get_template("revise.md.j2").render(reason=reason, error=_clipped(error, self._quoted // 4))
        said = _clipped(answer.strip() or "(no text)", self._quoted * 3 // 4)
        return [{"role": "assistant", "content": said}, {"role": "user", "content": asked}]

    @property
    def _quoted(self) -> int:
        return self.room // QUOTED_SHARE

    @property
    def _numbered(self) -> bool:
        return self.edit_format == "diff"

    @cached_property
    def _budget(self) -> int:
        """Tokens for the codebase: what fits into the context, and no more than there is."""
        fixed = tokens(self._system) + tokens(self._user(""))
        most = tokens(shown_files(self._visible, View((), "", self._numbered), 1 << 62).text)
        return min(most, max(0, self.room - self._quoted - fixed))

    @cached_property
    def _visible(self) -> Tree:
        return {path: text for path, text in self.base.items() if path not in self._hidden}

    @cached_property
    def _hidden(self) -> list[str]:
        """Files of the codebase that the environment hides."""
        return sorted(path for path in self.base if self.environment.is_hidden(path))

    @cached_property
    def _system(self) -> str:
        preset, rules = self.environment.preset(self.preset), self.environment.rules
        return _templates.get_template("system.md.j2").render(
            editable=rules.editable,
            protected=rules.protected,
            rules=rules,
            command=self.environment.command,
            budget=preset.budget,
            resources=preset.resources,
            packages=third_party_packages(self.base),
            metric=self.environment.metric,
            scorer=self.environment.scorer if self.environment.scorer_code == "patched" else "",
            edit_format=self.edit_format,
            numbered=self._numbered,
        )

    def _user(self, files: str) -> str:
        mark = hashlib.sha256(self.idea.text.encode("utf-8", "replace")).hexdigest()[:16]
        read_only = sorted(path for path in self._visible if _is_fixed(path, self.environment.rules))
        return _templates.get_template("implement.md.j2").render(
            task=self.environment.task,
            read_only=read_only,
            hidden=self._hidden,
            files=files,
            idea=self.idea.text,
            mark=mark,
        )


def _is_fixed(path: str, rules: Rules) -> bool:
    """Whether the rules forbid to change a file."""
    try:
        judge({path: ""}, {}, rules)
    except PatchError:
        return True
    return False


def _clipped(text: str, most: int) -> str:
    """A text of at most so many tokens: its beginning and its end."""
    half = most * BYTES_PER_TOKEN // 2
    if tokens(text) <= most:
        return text
    data = text.encode("utf-8", "replace")
    head, tail = data[:half].decode("utf-8", "ignore"), data[len(data) - half :].decode("utf-8", "ignore")
    return f"{head}\n[{len(data) - 2 * half} bytes are left out here]\n{tail}"
