"""What other runs found, known to a search from its start: `archive_from`.

Their records are read once, when the search begins, and kept in its folder, so that a resumed search knows the same.
Codebases that they ran are copied into this run's bucket with their results: an idea that leads to one of them is not
run again under the seed it was run with; under another it is another experiment, and is run.  It is charged all the
same (`search_summary`): a search that was spared experiments has not become cheaper.

Refused is a source that holds nothing of this environment, as it stands, and preset: a metric measured with other code,
data or budget is another metric.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.executor import store
from ideator_rl.experiment import LOST, Experiment
from ideator_rl.files import write_atomic
from ideator_rl.reward import reward_rule
from ideator_rl.reward_buffer import BASELINE, RewardBuffer
from ideator_rl.storage.bucket import Bucket, bucket_at, open_bucket
from ideator_rl.storage.records import JOURNAL, read_run

KEPT = "archive_from.jsonl"


def known_elsewhere(buffer: RewardBuffer, sources: list[str], folder: Path) -> list[Experiment]:
    """The records of these runs and buckets that are of the buffer's environment and preset, with its own rewards.

    Raises:
        IdeatorError: a source is neither a run nor a bucket, or holds nothing that belongs here.
    """
    kept = folder / KEPT
    if not sources:
        return []
    if kept.is_file():
        return [Experiment.from_json(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    environment = buffer.executor.environment
    rule = reward_rule(environment, buffer.config.preset, buffer.config.reward_transform)
    found: dict[str, Experiment] = {}
    for source in sources:
        for record in _of(source, buffer):
            found.setdefault(record.id, replace(record, log="", reward=rule.reward(record)))
    write_atomic(kept, "".join(json.dumps(asdict(record)) + "\n" for record in found.values()))
    return list(found.values())


def words_of(records: Sequence[Experiment], seed: int) -> str:
    """One line about what is known from elsewhere, to a search with this seed."""
    others = sum(record.seed != seed and bool(record.tree) for record in records)
    words = f"{len(records)} records of other runs are known from the start"
    if others:
        words += f"; {others} of them are of another seed: an idea that leads to the same codebase is run all the same"
    return words


def _of(source: str, buffer: RewardBuffer) -> list[Experiment]:
    bucket, ids = _opened(source)
    digest, preset = buffer.executor.environment.digest(buffer.config.preset), buffer.config.preset
    found, others = [], Counter[str]()
    results = [record for id in ids if (record := store.load_record(bucket, id)) is not None]
    for record in results:
        if record.status == LOST or record.implementer == BASELINE:
            continue
        if record.hashes.get("environment") == digest and record.preset == preset:
            found.append(record)
        else:
            others[f"{record.environment}/{record.preset}"] += 1
    if ids and not results:
        raise IdeatorError(
            f"archive_from: {source} names {len(ids)} experiments, and its bucket {bucket.url} holds the result of "
            "none. A memory:// bucket ends with its process; of another, see that it is the one that was written to."
        )
    if not found:
        held = ", ".join(f"{count} of {name}" for name, count in others.items()) or "none"
        raise IdeatorError(
            f"archive_from: {source} holds no ideas of {buffer.executor.environment.name}/{preset} as that environment "
            f"stands (it holds {held}). Results of other code, data or budgets cannot be compared; leave it out."
        )
    if bucket.url != buffer.executor.bucket.url:
        for record in found:
            _copy(bucket, buffer.executor.bucket, record)
    found.sort(key=lambda record: (record.finished, record.id))
    return found


def _opened(source: str) -> tuple[Bucket, list[str]]:
    """The bucket of a source, and the ids of its experiments there."""
    folder = Path(source)
    if not (folder / JOURNAL).is_file():
        bucket = bucket_at(source)
        return bucket, bucket.names("experiments")
    run = read_run(folder)
    given = run.recipe.get("bucket")
    return open_bucket(str(given or (folder / "bucket").absolute().as_uri())), list(run.experiments)


def _copy(source: Bucket, target: Bucket, record: Experiment) -> None:
    """What running it again, or asking for it, would need; the result last.

    Whatever the source says, its code is a stranger's here: it is never run again without a sandbox.
    """
    spec = store.Spec.load(source, record.id)
    tree = store.load_tree(source, spec.tree) if spec is not None else None
    if spec is None or tree is None:
        return
    store.save_tree(target, spec.tree, tree)
    replace(spec, trusted=False).save(target)
    store.save_record(target, record)
