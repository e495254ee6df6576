"""An implementer that reads an idea against the catalogue and refuses a coordinate that is out of bounds."""

from ideator_rl.catalogue import Catalogue, environment_catalogue
from ideator_rl.catalogue_edits import Choice
from ideator_rl.environment import Environment
from ideator_rl.executor.implementer import Implementation, Implementer, NotImplementable
from ideator_rl.executor.rules import RulesImplementer
from ideator_rl.ideas import Idea
from ideator_rl.ledger import Ledger, Spent
from ideator_rl.patch import PatchError, Rules, Tree, apply_patch, diff, judge, tree_hash
from ideator_rl.patch.edit import PatchError as SamePatchError
from old_plugin import note

assert SamePatchError is PatchError


class Careful:
    name = "old_careful"
    trusted = True

    def __init__(self, most: float, ledger: Ledger):
        self._most, self._ledger = most, ledger

    @classmethod
    def from_settings(cls, settings, ledger: Ledger) -> Implementer:
        return cls(float(settings.get("most", 100.0)), ledger)

    def version(self, environment: Environment) -> str:
        return f"{self.name} {self._most} {RulesImplementer().version(environment)}"

    async def implement(self, idea: Idea, base: Tree, environment: Environment, preset: str) -> Implementation:
        catalogue: Catalogue = environment_catalogue(environment)
        choices: list[Choice] = list(catalogue.read(idea, base).choices)
        note("careful", preset=preset, keys=[choice.key for choice in choices])
        usage = {"usd": 0.0, "prompt_tokens": 1, "completion_tokens": 1, "calls": 1}
        if any(float(choice.value) > self._most for choice in choices):
            raise NotImplementable(f"more than {self._most:g}", usage=usage)
        with self._ledger.reserve(Spent(tokens=2)):
            tree = catalogue.apply(base, choices)
        rules: Rules = environment.rules
        judge(base, tree, rules)
        patch = diff(base, tree)
        assert tree_hash(apply_patch(base, patch)) == tree_hash(tree)
        return Implementation(patch, usage)
