"""Records of other runs that a search knows from its start: the recipe key `archive_from`.

Read once, when the search begins, and kept in its folder, so that a resumed search knows the same.  Their codebases are
copied into this run's bucket with their results: an idea that leads to one of them is not run again under the same
seed.  It is charged all the same (`search_summary`), since the search would have had to run it.

A source is refused if it holds nothing of this environment and preset: a metric measured with other code, data or
budget is another metric.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ideator_rl.config.reader import MAX_DATA_BYTES, read_text
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.experiment import FINAL_REPLICATE, LOST, Experiment
from ideator_rl.files import write_atomic
from ideator_rl.reward import reward_rule
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.rerun import bucket_of_run
from ideator_rl.storage.bucket import Bucket, DamagedObject, bucket_at
from ideator_rl.storage.index import read_results
from ideator_rl.storage.run_reader import JOURNAL, read_run

FILE = "archive_from.jsonl"


def imported_records(buffer: RewardBuffer, sources: list[str], folder: Path) -> list[Experiment]:
    """The records of these runs and buckets that fit the buffer's environment and preset, with the buffer's rewards.

    Raises:
        IdeatorError: a source is neither a run nor a bucket, or holds no record that fits.
    """
    saved = folder / FILE
    if not sources:
        return []
    # A resumed search keeps the records it began with, even if the sources have grown.
    if saved.is_file():
        lines = read_text(saved, max_bytes=MAX_DATA_BYTES).split("\n")
        try:
            return [Experiment.from_json(line) for line in lines if line.strip()]
        except ValueError as error:
            raise IdeatorError(
                f"{saved} is damaged: {error}. Restore it, or remove it to read {', '.join(sources)} anew."
            ) from None
    rule = reward_rule(buffer.executor.environment, buffer.config.preset, buffer.config.reward_transform)
    records: dict[str, Experiment] = {}
    for source in sources:
        for record in _fitting_records(source, buffer):
            records.setdefault(record.id, replace(record, log="", reward=rule.reward(record)))
    write_atomic(saved, "".join(json.dumps(asdict(record)) + "\n" for record in records.values()))
    return list(records.values())


def import_note(records: Sequence[Experiment], seed: int) -> str:
    """One line about the imported records, for a search with this seed."""
    other_seeds = sum(record.seed != seed and bool(record.tree) for record in records)
    text = f"{len(records)} records of other runs are known from the start"
    if other_seeds:
        text += f"; {other_seeds} of them have another seed: an idea that leads to the same codebase is run again"
    return text


def _fitting_records(source: str, buffer: RewardBuffer) -> list[Experiment]:
    bucket, results, count = _read_source(source)
    digest, preset = buffer.executor.environment.digest(buffer.config.preset), buffer.config.preset
    fitting, unfit = [], Counter[str]()
    # Lost experiments have no outcome, and this search measures the baseline itself.  A leaderboard's results are of
    # the hidden split, which no search may see.
    for record in results:
        if record.status == LOST or record.is_baseline or record.replicate >= FINAL_REPLICATE:
            continue
        if record.hashes.get("environment") == digest and record.preset == preset:
            fitting.append(record)
        else:
            unfit[f"{record.environment}/{record.preset}"] += 1
    # Two errors: the bucket is not the one that was written to, or it belongs to another environment.
    if count and not results:
        raise IdeatorError(
            f"archive_from: {source} names {count} experiments, but its bucket {bucket.url} holds no result of "
            "them. A memory:// bucket ends with its process; for another, check that it is the one of that run."
        )
    if not fitting:
        contents = ", ".join(f"{count} of {name}" for name, count in unfit.items()) or "none"
        raise IdeatorError(
            f"archive_from: {source} holds no ideas of {buffer.executor.environment.name}/{preset} in its present "
            f"version (it holds {contents}). Results of other code, data or budgets cannot be compared; leave it out."
        )
    # With their code in this bucket, an idea that leads to one of them finds its result and is not run.
    if bucket.url != buffer.executor.bucket.url:
        for record in fitting:
            _copy(bucket, buffer.executor.bucket, record)
    # The order of a bucket's listing must not decide the order of the archive.
    fitting.sort(key=lambda record: (record.finished, record.id))
    return fitting


def _read_source(source: str) -> tuple[Bucket, list[Experiment], int]:
    """The bucket of a run folder or URL, the results in it, and how many experiments the run has."""
    folder = Path(source)
    if not (folder / JOURNAL).is_file():
        bucket = bucket_at(source)
        results = read_results(bucket, record_store.load_records)
        return bucket, results, len(results) or len(bucket.names("experiments"))
    run = read_run(folder)
    bucket = bucket_of_run(run)
    records = [record for _, record in record_store.load_records(bucket, run.experiments)]
    for record in records:
        if isinstance(record, DamagedObject):
            raise record
    return bucket, [record for record in records if isinstance(record, Experiment)], len(run.experiments)


def _copy(source: Bucket, target: Bucket, record: Experiment) -> None:
    """Copy the files of an experiment, the result last.

    Code of another bucket is never trusted here: it is not run again without a sandbox, whatever its record claims.
    """
    spec = record_store.Spec.load(source, record.id)
    tree = record_store.load_tree(source, spec.tree) if spec is not None else None
    if spec is None or tree is None:
        return
    record_store.save_tree(target, spec.tree, tree)
    replace(spec, trusted=False).save(target)
    record_store.save_record(target, record)
