"""Made-up records and journals of runs, for tests of what reads them."""

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
    """A run's journal: for each step the records of its proposals, None for one without an outcome."""
    book = Journal(folder / "buffer.sqlite")
    for one in extra:
        book.record(one)
    for step, records in enumerate(steps):
        book.propose(step, [text(f"change {i} of step {step}") for i in range(len(records))])
        for position, one in enumerate(records):
            if one is not None:
                book.settle(step, position, one)
    book.close()
    return folder
