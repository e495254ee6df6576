"""Invented records and journals of runs, for tests of their readers."""

from ideator_rl.experiment import Experiment
from ideator_rl.storage.journal import Journal


def text(changes):
    return f"A thought. [Experiment] Try it. [Code Changes] {changes} [End]"


def record(id, status="succeeded", value=None, **more):
    metric = {"name": "height", "value": value, "direction": "min"} if value is not None else None
    fields = {"idea": f"idea {id}", "environment": "toy", "preset": "cpu", "tree": f"tree-{id}", "implementer": "rules"}
    fields |= {"isolation": "bwrap"}
    reward = {"succeeded": 1 / value if value else None, "lost": None}.get(status, 0.0)
    return Experiment(id, status, metric=metric, reward=reward, **{**fields, **more})


def baseline(replicate, value):
    return record(f"base{replicate}", value=value, implementer="baseline", idea="", replicate=replicate)


def journal(folder, steps, extra=()):
    """A run's journal: for each step the records of its proposals, None for a proposal without an outcome."""
    run_journal = Journal(folder / "buffer.sqlite")
    for experiment in extra:
        run_journal.record(experiment)
    for step, records in enumerate(steps):
        run_journal.propose(step, [text(f"change {i} of step {step}") for i in range(len(records))])
        for position, experiment in enumerate(records):
            if experiment is not None:
                run_journal.settle(step, position, experiment)
    run_journal.close()
    return folder
