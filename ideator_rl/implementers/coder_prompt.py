"""The prompt of a coder: the templates in `prompts/`, filled in with the environment, the codebase and the idea.

The system message is the same for every idea of an environment and preset, and the idea comes last in the user
message.  So a server's prefix cache serves all drafts, all revisions and, where the codebase fits, all ideas.
Guaranteed: an idea cannot leave its section.  The mark that closes it is a hash of the idea's text, which that text
cannot contain.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined

from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import Idea
from ideator_rl.patch import PatchError, Rules, Tree, judge
from ideator_rl.patch.import_graph import third_party_packages
from ideator_rl.patch.shown_files import BYTES_PER_TOKEN, shown_files, tokens, without_foreign_tokens
from ideator_rl.text.special_tokens import without_special_tokens

FOLDER = Path(__file__).with_name("prompts")
AGENT_TEMPLATE = "agent/idea.md.j2"
"""In a folder of its own: `prompts_version` is part of every coder's stored answers."""
REVISION_SHARE = 4
"""One part in so many of the prompt's tokens is reserved for a revision: the last answer and its error."""

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


def debug_version() -> str:
    """SHA-256, hex, of the prompt file of the debug step."""
    return hashlib.sha256((FOLDER / "debug" / "debug.md.j2").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Prompt:
    """All messages about one idea."""

    idea: Idea
    base: Tree
    environment: Environment
    preset: str
    edit_format: str
    budget: int
    """Tokens of the model's context without the longest answer."""

    def messages(self, halvings: int = 0) -> list[Message]:
        """The first messages; each halving shows half as much of the codebase."""
        command, budget = self.environment.command, self._codebase_budget >> halvings
        files = shown_files(self._visible, command, self.idea.text, budget, self._numbered)
        return [{"role": "system", "content": self._system}, {"role": "user", "content": self._user(files)}]

    def revision(self, answer: str, reason: str, error: str) -> list[Message]:
        """The messages that follow the first ones in a revision: the last answer and its error, each clipped."""
        template = _templates.get_template("revise.md.j2")
        request = template.render(reason=reason, error=_clipped(self._safe(error), self._revision_budget // 4))
        last_answer = _clipped(self._safe(answer.strip()) or "(no text)", self._revision_budget * 3 // 4)
        return [{"role": "assistant", "content": last_answer}, {"role": "user", "content": request}]

    def debug(self, change: str, words: str) -> list[Message]:
        """The messages that follow the first ones after a failed experiment: the change as a diff, and why it failed.

        Args:
            words: of the run, cleaned and untrusted.
        """
        error = _clipped(self._safe(words), self._revision_budget // 4)
        # The mark depends on the text, which so cannot contain it: the output cannot leave its section.
        mark = hashlib.sha256(error.encode("utf-8", "replace")).hexdigest()[:16]
        request = _templates.get_template("debug/debug.md.j2").render(error=error, mark=mark)
        last_answer = _clipped(f"```diff\n{self._safe(change)}```", self._revision_budget * 3 // 4)
        return [{"role": "assistant", "content": last_answer}, {"role": "user", "content": request}]

    def _safe(self, text: str) -> str:
        """A text of a model's, or with quotes of one, without special tokens in what the baseline lacks.

        Lines of the baseline stay, since a change must repeat them letter by letter; a diff marks each at its start.
        """
        lines, own = text.split("\n"), self._own_lines
        return "\n".join(line if line in own or line[1:] in own else without_special_tokens(line) for line in lines)

    @cached_property
    def _own_lines(self) -> set[str]:
        texts = self.environment.baseline(self.preset).values()
        return {line for text in texts for line in text.split("\n")}

    @property
    def _revision_budget(self) -> int:
        return self.budget // REVISION_SHARE

    @property
    def _numbered(self) -> bool:
        return self.edit_format == "diff"

    @cached_property
    def _codebase_budget(self) -> int:
        """Tokens for the codebase: what fits into the context, at most its own size, so that a halving has effect."""
        fixed_size = tokens(self._system) + tokens(self._user(""))
        full_size = tokens(shown_files(self._visible, (), "", 1 << 62, self._numbered))
        return min(full_size, max(0, self.budget - self._revision_budget - fixed_size))

    @cached_property
    def _visible(self) -> Tree:
        visible = {path: text for path, text in self.base.items() if path not in self._hidden}
        # The base may be the code of an earlier idea.
        return without_foreign_tokens(visible, self.environment.baseline(self.preset))

    @cached_property
    def _hidden(self) -> list[str]:
        """Paths of the codebase that the environment hides: the prompt names them and does not show them."""
        return hidden_paths(self.environment, self.base)

    @cached_property
    def _system(self) -> str:
        facts = rule_facts(self.environment, self.preset, self.base)
        return _templates.get_template("system.md.j2").render(
            edit_format=self.edit_format, numbered=self._numbered, **facts
        )

    def _user(self, files: str) -> str:
        read_only = sorted(path for path in self._visible if _is_fixed(path, self.environment.rules))
        return _templates.get_template("implement.md.j2").render(
            task=self.environment.task,
            read_only=read_only,
            hidden=self._hidden,
            files=files,
            # As a special token of a chat template, a part of the idea could end the user's message.
            idea=without_special_tokens(self.idea.text),
            mark=_mark(self.idea),
        )


def agent_brief(idea: Idea, base: Tree, environment: Environment, preset: str) -> str:
    """What an agent reads in the codebase's folder: the rules, the task and the idea."""
    return _templates.get_template(AGENT_TEMPLATE).render(
        task=environment.task,
        hidden=hidden_paths(environment, base),
        # An agent puts what it reads into the messages of its own model.
        idea=without_special_tokens(idea.text),
        mark=_mark(idea),
        **rule_facts(environment, preset, base),
    )


def agent_brief_version() -> str:
    """SHA-256, hex, of the template of `agent_brief`."""
    return hashlib.sha256((FOLDER / AGENT_TEMPLATE).read_bytes()).hexdigest()


def hidden_paths(environment: Environment, base: Tree) -> list[str]:
    """Paths of the codebase that the environment shows to no coder."""
    return sorted(path for path in base if environment.is_hidden(path))


def rule_facts(environment: Environment, preset: str, base: Tree) -> dict[str, Any]:
    """What templates need to state the rules."""
    keys, rules = environment.preset(preset), environment.rules
    return {
        "editable": rules.editable,
        "protected": rules.protected,
        "rules": rules,
        "command": environment.command,
        "budget": keys.budget,
        "resources": keys.resources,
        "packages": installed_packages((*third_party_packages(base), *environment.packages)),
        "preload": environment.preload,
        "python": platform.python_version(),
        "metric": environment.metric,
        "scorer": environment.scorer if environment.scorer_code == "patched" else "",
    }


def _mark(idea: Idea) -> str:
    return hashlib.sha256(idea.text.encode("utf-8", "replace")).hexdigest()[:16]


def installed_packages(names: Iterable[str]) -> list[str]:
    """Those of the top-level names that are installed here, each with its version where one is known."""
    return [f"{name} {_version(name)}".rstrip() for name in sorted(set(names)) if _is_installed(name)]


@cache
def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@cache
def _version(name: str) -> str:
    # The name of a distribution is often another: scikit-learn has sklearn.
    distributions = _distributions().get(name, [name])
    try:
        return importlib.metadata.version(distributions[0])
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _is_fixed(path: str, rules: Rules) -> bool:
    """Whether the rules forbid every change of a file."""
    try:
        judge({path: ""}, {}, rules)
    except PatchError:
        return True
    return False


def _clipped(text: str, max_tokens: int) -> str:
    """The beginning and the end of a text, with at most so many tokens."""
    # Errors name the file at their beginning and quote its lines at their end: the middle matters least.
    half = max_tokens * BYTES_PER_TOKEN // 2
    if tokens(text) <= max_tokens:
        return text
    data = text.encode("utf-8", "replace")
    head, tail = data[:half].decode("utf-8", "ignore"), data[len(data) - half :].decode("utf-8", "ignore")
    return f"{head}\n[{len(data) - 2 * half} bytes are left out here]\n{tail}"
