"""Prints what a run's folder and bucket hold, by the library's functions: `python -m old_plugin.look RUN`."""

import asyncio
import json
import sys
from pathlib import Path

from ideator_rl import __version__
from ideator_rl.bucket import BucketError, FileBucket, open_bucket
from ideator_rl.diagnostics.collapse import alarms
from ideator_rl.diagnostics.diversity import clusters, vendi_score
from ideator_rl.diagnostics.population import population
from ideator_rl.diagnostics.records import NoRun, Rollout, Run, read_run
from ideator_rl.diagnostics.report import write_report
from ideator_rl.diagnostics.summary import summary
from ideator_rl.environment import Environment, Metric, load_environment
from ideator_rl.executor import attempts
from ideator_rl.executor.scoring import Implausible, ScorerFailed
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED, UNPATCHABLE, Experiment
from ideator_rl.journal import Journal, JournalError
from ideator_rl.patch import read_tree, tree_hash
from ideator_rl.registry import UnknownName, environment_names, resolve_reward
from ideator_rl.rerun import place_of_run
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.rollout_prompts import prompt_rows
from ideator_rl.search.asking import Subject
from ideator_rl.search.config import SearchConfig, load_search
from ideator_rl.search.engine import run_search
from ideator_rl.search.figures import figures
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.run import search
from ideator_rl.search.strategies import get_search_strategy
from ideator_rl.training.recipe import load_recipe
from ideator_rl.training.run import buffer_config
from old_plugin import embedders, prompt_strategies

NEWEST = "old_plugin.prompt_strategies.Newest"
KNOWN = (FAILED, INVALID, SUCCEEDED, UNPATCHABLE)
USED_ELSEWHERE = (BucketError, NoRun, Implausible, ScorerFailed, Journal, JournalError, UnknownName, load_recipe,
                  buffer_config, vendi_score, clusters, Rollout, search, RewardBuffer, embedders.reference(),
                  prompt_strategies.reference(2, 5))  # fmt: skip


def looked(folder: Path) -> dict:
    run: Run = read_run(folder)
    bucket = open_bucket((folder / "bucket").absolute().as_uri())
    assert isinstance(bucket, FileBucket)
    records: list[Experiment] = [attempts.load_result(bucket, id) for id in bucket.names("experiments")]
    environment: Environment = load_environment("hill")
    metric: Metric = environment.metric
    windows = population(run, embedders.Letters(), per_window=6)
    write_report([folder], folder / "looked.html", "hashed")
    return {
        "version": __version__,
        "rows": len(run.rollouts),
        "statuses": sorted({row.status for row in run.rollouts}),
        "best": run.ranked[0].metric["value"],
        "best_by_bucket": place_of_run(folder).best(1)[0].id == run.ranked[0].id,
        "implementers": sorted({record.implementer for record in records}),
        "better": metric.better(2.0, 1.0),
        "environments": environment_names(),
        "reward": resolve_reward("old_brief").__module__,
        "charged": figures(folder).charged if figures(folder) else None,
        "windows": [window.figures.get("clusters") is not None for window in windows],
        "alarms": len(alarms(windows)),
        "summary": summary(folder),
        "baseline": tree_hash(read_tree(environment.root / "baseline")) != "",
        "report": (folder / "looked.html").stat().st_size,
        "known": set(KNOWN) >= {record.status for record in records},
    }


def searched(recipe: str, folder: Path) -> dict:
    """docs/search.md, "From Python": a search with parts built one by one."""
    config: SearchConfig = load_search(recipe, ["--output_dir", str(folder), "--max_experiments", "3"])
    where: BufferConfig = config.buffer()
    buffer = open_buffer(where)
    rows = prompt_rows(buffer.executor.environment, where, 2, "short", False)
    ideator = get_ideator(config.ideator, config.ideator_options, Subject(buffer.executor.environment, config.preset))
    try:
        ending = asyncio.run(
            run_search(config, buffer, ideator, get_search_strategy(NEWEST, {"shown": 1, "elites": 3}))
        )
    finally:
        buffer.close()
    return {"ended_by": ending.budget, "rows": len(rows)}


if __name__ == "__main__":
    print(json.dumps(looked(Path(sys.argv[1])) if len(sys.argv) == 2 else searched(sys.argv[1], Path(sys.argv[2]))))
