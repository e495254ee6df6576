"""A scripted implementer: the code changes of the idea are the patch.  Stands for a code LLM in tests."""

from ideator_rl.executor.implementer import Implementation
from ideator_rl.patch import PatchError


class ScriptedImplementer:
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
