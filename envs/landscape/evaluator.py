"""The trusted evaluator: the outcome of an idea on the preset's landscape.

A codebase is a list of edits, and none of its code is run.
"""

from ideator_rl.envs.landscape.certificate import certified_landscape
from ideator_rl.envs.landscape.edits import NotAnIdea, read_listing
from ideator_rl.evaluation import ScorerFailed

SEEDS_A_REPLICATE = 1000
MOST_BYTES = 4096


def measured(tree, settings, replicate) -> float:
    """The metric of a codebase, in the caller's process: `backend: in_process`.

    Raises:
        ScorerFailed: the run failed, with the idea's own probability, or the listing is no idea.
    """
    try:
        edits = read_listing(tree["edits.yaml"])
    except NotAnIdea as error:
        raise ScorerFailed(str(error)) from error
    outcome = certified_landscape(settings["seed"]).outcome(edits, replicate)
    if not outcome.succeeded:
        raise ScorerFailed("the run failed: one of the edits did not work")
    return outcome.metric


def evaluate(run) -> float:
    """The metric of a run's artifact, for every other backend; with `seed: 0` in the recipe the same as `measured`."""
    text, seed = ((run.artifact / name).read_bytes()[:MOST_BYTES].decode() for name in ("edits.yaml", "seed"))
    return measured({"edits.yaml": text}, run.settings, int(seed) // SEEDS_A_REPLICATE)
