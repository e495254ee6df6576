"""Trusted: measures what an experiment left.  Runs in a process of its own; nothing of the experiment is imported here.

The experiment reads the inputs that prepare.py wrote to `public`, and leaves its predictions for them in its artifact;
their true values are in `run.private / run.split`.  docs/how-to/environments.md of ideator_rl shows three honest ways.
"""

from ideator_rl.evaluation import ScorerFailed  # noqa: F401  raise it for an answer that cannot be used


def evaluate(run) -> float:
    """__METRIC__.

    `run.artifact` is what the experiment left: untrusted.  Read plain numbers of a known count, or bounded JSON, from
    it; never load code or pickles.  Raise `ScorerFailed` for an answer that cannot be used (status `failed`).
    """
    raise NotImplementedError("compute __METRIC__ from run.artifact and run.private / run.split")
