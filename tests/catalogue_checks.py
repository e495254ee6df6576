"""What every catalogue of edits of a one-file baseline must satisfy."""

import itertools

from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import Environment
from ideator_rl.ideas import Idea
from ideator_rl.patch import PatchError, apply_patch, diff, judge


class CatalogueChecks:
    """Checks of an environment's catalogue, whose edits change `file`."""

    def __init__(self, environment: Environment, preset: str, file: str):
        self.environment, self.base, self.file = environment, environment.baseline(preset), file
        self.catalogue = environment_catalogue(environment)

    def values(self, key):
        parameter = self.catalogue.edits[key].parameter
        return parameter.sample if parameter else (None,)

    def applied(self, *keys):
        """The baseline with these edits, each at its first value; None where they contradict each other."""
        try:
            return self.catalogue.apply(self.base, [Choice(key, self.values(key)[0]) for key in keys])
        except PatchError as error:
            assert error.kind == "unpatchable" and "contradict each other" in str(error)
            return None

    def check_each(self, preset):
        """Every edit applies to a preset's baseline at every value, compiles, and travels as a diff."""
        base = self.environment.baseline(preset)
        for key in self.catalogue.edits:
            for value in self.values(key):
                tree = self.catalogue.apply(base, [Choice(key, value)])
                compile(tree[self.file], key, "exec")
                if tree != base:
                    assert apply_patch(base, diff(base, tree)) == tree
                    judge(base, tree, self.environment.rules)

    def check_phrasings(self):
        """Every phrasing of an edit is read as that edit."""
        for key, edit in self.catalogue.edits.items():
            for value, written, changed in itertools.product(self.values(key), edit.says, edit.changes):
                idea = Idea(written.replace("{value}", str(value)), changed.replace("{value}", str(value)))
                assert self.catalogue.read(idea, self.base).choices == (Choice(key, value),), idea

    def check_pairs(self):
        """Every pair gives one tree in both orders, which compiles; only edits of one family contradict each other."""
        for one, other in itertools.combinations(self.catalogue.edits, 2):
            tree = self.applied(one, other)
            assert tree == self.applied(other, one)
            same = self.catalogue.edits[one].family == self.catalogue.edits[other].family
            assert same or tree is not None, (one, other)
            if tree is not None:
                compile(tree[self.file], f"{one}+{other}", "exec")
