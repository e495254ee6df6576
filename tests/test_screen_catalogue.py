"""A search whose ideas are the catalogue's, with a screen, that ends and goes on."""

import shutil

import pytest
from conftest import TOY
from search_runs import go
from test_screen_search import forecasts, journal, screened

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.search.ideator import Subject
from ideator_rl.search.ideators.catalogue import CatalogueIdeator, CatalogueSettings


@pytest.fixture(scope="module")
def bowl(tmp_path_factory):
    """The toy, which has a catalogue, with experiments that are computed in this process."""
    folder = tmp_path_factory.mktemp("bowl") / "toy"
    shutil.copytree(TOY, folder)
    with open(folder / "env.yaml", "a") as manifest:
        manifest.write("in_process: true\n")
    with open(folder / "evaluator.py", "a") as evaluator:
        evaluator.write(MEASURED)
    return folder


MEASURED = r"""

import re


def measured(tree, settings, replicate):
    values = dict(re.findall(r"^([xyz]) = (\S+)", tree["train.py"], re.M))
    x, y, z = (float(values[name]) for name in "xyz")
    return 0.5 + (x - 1) ** 2 + (y + 2) ** 2 + 0.1 * (z - 3) ** 2
"""


class StoppingCatalogue(CatalogueIdeator):
    """The catalogue, which fails before a round as a kill ends a session there."""

    rounds: float = float("inf")

    async def ideas_many(self, asks, archive):
        if self.rounds <= 0:
            raise IdeatorError("killed")
        self.rounds -= 1
        return await super().ideas_many(asks, archive)


def go_with_catalogue(folder, environment, rounds=float("inf")):
    config = screened(folder, env=str(environment), preset="cpu", implementer="rules", batch=3, max_experiments=40)
    subject = Subject(load_environment(str(environment)), "cpu")
    ideator = StoppingCatalogue(CatalogueSettings(), subject)
    ideator.rounds = rounds
    return go(config, ideator)


def test_a_resumed_catalogue_repeats_no_answer_that_a_screen_did_not_run(bowl, tmp_path):
    """It avoids its earlier answers, most of which were outranked and are among the forecasts alone."""
    go_with_catalogue(tmp_path / "untouched", bowl)
    assert len(forecasts(tmp_path / "untouched")) > 80
    for rounds in (3, 3, 4):
        with pytest.raises(IdeatorError, match="killed"):
            go_with_catalogue(tmp_path / "resumed", bowl, rounds)
    go_with_catalogue(tmp_path / "resumed", bowl)
    assert journal(tmp_path / "resumed") == journal(tmp_path / "untouched")
