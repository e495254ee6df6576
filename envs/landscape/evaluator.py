"""Trusted: what an idea is worth on the preset's landscape.  A codebase is a list of edits; nothing of it is run."""

from ideator_rl.envs.landscape.edits import NotAnIdea, listed
from ideator_rl.envs.landscape.landscape import landscape
from ideator_rl.evaluation import ScorerFailed

SEEDS_A_REPLICATE = 1000
MOST_BYTES = 4096


def measured(tree, settings, replicate) -> float:
    """The metric of a codebase, in the caller's process: `backend: in_process`.

    Raises:
        ScorerFailed: the run failed, as ideas do with a probability of their own; or the listing is no idea.
    """
    try:
        edits = listed(tree["edits.yaml"])
    except NotAnIdea as error:
        raise ScorerFailed(str(error)) from error
    outcome = landscape(settings["seed"]).outcome(edits, replicate)
    if not outcome.succeeded:
        raise ScorerFailed("the run broke: a setting did not hold")
    return outcome.metric


def evaluate(run) -> float:
    """The same of what a run left, for every other backend; with `seed: 0` in the recipe it is the very same."""
    text, seed = ((run.artifact / name).read_bytes()[:MOST_BYTES].decode() for name in ("edits.yaml", "seed"))
    return measured({"edits.yaml": text}, run.settings, int(seed) // SEEDS_A_REPLICATE)
