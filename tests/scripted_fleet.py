"""A scheduler's engine that plays a script, and the records of attempts that tests write."""

import asyncio
import dataclasses
import json

from conftest import run

from ideator_rl.environments.environment import Resources
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import Backend, Job, JobState
from ideator_rl.executor.record_store import QueueEntry
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.experiment import Experiment


def success(id):
    return Experiment(id, "succeeded", "", "toy", "cpu", metric={"name": "m", "value": 1.0, "direction": "min"})


def entry(id, **more):
    return QueueEntry(id, Resources(), 1, **more)


def claim(bucket, id, place="x"):
    """Claim the next attempt for a process of another machine."""
    number = len(record_store.attempts(bucket, id))
    body = record_store.Claim(id, number, "nonce", "far", place, 1, "1", 0.0)
    bucket.create(f"experiments/{id}/attempts/{number}/claim.json", json_of(body))
    record_store.write_beat(bucket, body)
    return body


def json_of(value):
    return json.dumps(dataclasses.asdict(value)).encode()


def attempt(bucket, id, kind=record_store.FAILED, reason="node on fire"):
    """An attempt of another machine, from its claim to its end."""
    body = claim(bucket, id)
    record_store.end_attempt(bucket, id, body.number, kind, reason)


class ScriptedEngine(Backend):
    """Plays a fleet: each job takes the next step of a script and is over at the next listing.

    Steps: `works`, a kind of an attempt's end, `unclaimed`, `refused`, `ended early` (by the engine).
    """

    def __init__(self, bucket, script, room=10**6):
        self.bucket, self.script, self.room = bucket, iter(script), room
        self.names, self.cancelled, self.over, self.away = [], [], {}, False

    @property
    def submitted(self):
        return [name.split("-")[1] for name in self.names]

    def submit(self, jobs: list[Job]):
        answers = {}
        for job in jobs[: max(0, self.room - len(self.names))]:
            self.names.append(job.name)
            answers[job.name] = self.play(job, next(self.script))
        return answers

    def play(self, job, step):
        if step == "refused":
            return "invalid partition"
        if step == "works":
            record_store.save_record(self.bucket, success(job.id))
        elif step not in ("unclaimed", "ended early"):
            attempt(self.bucket, job.id, step, f"reason {len(self.names)}")
        reasons = {"unclaimed": "failed", "ended early": "node_fail"}
        self.over[job.name] = JobState("over", reasons.get(step, ""))
        return None

    def listing(self):
        if self.away:
            return None
        over, self.over = self.over, {}
        return over

    def cancel(self, names):
        self.cancelled.append(names)

    def log_tail(self, name):
        return f"Traceback\nModuleNotFoundError: No module named 'numpy' ({name})\n"


def specify(bucket, id):
    """Store a specification, without which no worker can run an experiment."""
    texts = dict.fromkeys(("environment", "digest", "preset", "tree", "idea", "patch", "implementer", "hardware"), "")
    spec = record_store.Spec(id, seed=0, replicate=0, trusted=True, implement_seconds=0.0, created=0.0, **texts)
    bucket.create(f"experiments/{id}/spec.json", json_of(spec))


def result(scheduler, entry):
    """Put an experiment into the queue and request its record."""
    specify(scheduler.bucket, entry.id)
    record_store.enqueue(scheduler.bucket, entry)
    return scheduler.result(entry)


async def outcomes(scheduler, ids):
    futures = [result(scheduler, entry(id)) for id in ids]
    try:
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 20)
    finally:
        scheduler.close()


def outcome(bucket, engine, **more):
    [value] = run(outcomes(Scheduler(bucket, engine, **more), ["a"]))
    return value


async def outcomes_of(scheduler, *entries):
    futures = [result(scheduler, each) for each in entries]
    try:
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 20)
    finally:
        scheduler.close()
