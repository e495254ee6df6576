"""Scripted implementers, in place of a code LLM."""

from ideator_rl.implementers.implementer import Implementation
from ideator_rl.implementers.rules import RulesImplementer
from ideator_rl.patch import PatchError
from ideator_rl.storage.ledger import Spent


class ScriptedImplementer:
    """Writes the patch that the idea's code changes spell out, as `name = value`."""

    name = "scripted"
    trusted = True

    def __init__(self):
        self.asked = []

    def version(self, environment):
        return self.name

    async def implement(self, idea, base, environment, preset):
        self.asked.append(idea.changes)
        name, _, value = idea.changes.partition("=")
        line = next((row for row in base["train.py"].splitlines() if row.startswith(f"{name.strip()} = ")), None)
        if line is None:
            raise PatchError(f"no line assigns {name.strip()!r}")
        new = f"{name.strip()} = {value.strip()}"
        return Implementation(f"train.py\n<<<<<<< SEARCH\n{line}\n=======\n{new}\n>>>>>>> REPLACE\n")


def idea(changes, thought=""):
    return f"{thought} [Experiment] Try it. [Code Changes] {changes} [End]"


class PaidImplementer:
    """Reads ideas against the catalogue, and spends 1 USD and 100 tokens for each, as a code LLM would."""

    name = "paid"
    trusted = True

    def __init__(self, ledger):
        self._ledger = ledger

    @classmethod
    def from_settings(cls, settings, ledger):
        return cls(ledger)

    def version(self, environment):
        return self.name

    async def implement(self, idea, base, environment, preset):
        with self._ledger.reserve(Spent(usd=1.0, tokens=100)):
            implementation = await RulesImplementer().implement(idea, base, environment, preset)
        return Implementation(
            implementation.patch, {"usd": 1.0, "prompt_tokens": 60, "completion_tokens": 40, "calls": 1}
        )
