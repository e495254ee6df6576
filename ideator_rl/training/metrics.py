"""Metrics for trackers: what a batch was trained on, what the fleet does, and what the run has cost.

`pipeline/…` and `execution/…` are of trained rows.  `fleet/busy` is the mean number of experiments that ran at once
since the last reading: wall seconds of those that ended, over the seconds between the readings.  Where experiments run
on this machine, `fleet/use` is the busy share of its slots.  `fleet/running` and `fleet/waiting` are of the moment.
`fleet/queue_p50` and `fleet/queue_p90` are seconds that experiments of this reading waited for a machine,
`fleet/attempts` their mean number of attempts; `fleet/lost` and `fleet/store_requests` count since the session's start.
`cost/…` is the ledger's, over all sessions of the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from ideator_rl.executor.share import cpu_share
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.training.batch_closing import Layout, Outcome, TrainBatch
from ideator_rl.training.batch_tensors import Scores
from ideator_rl.training.rollouts import Batch


def batch_metrics(
    train_batch: TrainBatch, batches: Mapping[int, Batch], layout: Layout, scores: Scores
) -> dict[str, float]:
    """How a batch was closed, and what came of its experiments."""
    outcomes = [outcome for slot in train_batch.slots for outcome in slot.outcomes if outcome is not None]
    # Age counts batches since the group was sampled; staleness counts updates since its weights.
    ages = [train_batch.index - slot.batch for slot in train_batch.slots]
    staleness = [train_batch.index - batches[slot.batch].policy_version for slot in train_batch.slots]
    metrics = {
        "pipeline/wait_seconds": train_batch.waited,
        "pipeline/staleness": sum(staleness) / max(1, len(staleness)),
        "pipeline/trained_share": float(scores.kept_PG.sum()) / (layout.groups * layout.group_size),
        "pipeline/groups_parked": float(len(train_batch.deferred)),
        "pipeline/groups_dropped": float(len(train_batch.dropped)),
        "pipeline/groups_from_before": float(sum(age > 0 for age in ages)),
    }
    if any(outcome.forecast is not None for outcome in outcomes):
        metrics["screen/trained_on_forecasts"] = 0.0 if train_batch.is_dry else 1.0
        metrics["screen/stepped_back"] = float(train_batch.is_dry)
    return {**metrics, **_status_metrics([outcome for outcome in outcomes if outcome.status])}


def _status_metrics(outcomes: list[Outcome]) -> dict[str, float]:
    """Shares of statuses, and the rewards of successes alone: the mean over all rows hides which of the two moved."""
    if not outcomes:
        return {}
    statuses = sorted({outcome.status for outcome in outcomes})
    metrics = {
        f"execution/{status}": sum(outcome.status == status for outcome in outcomes) / len(outcomes)
        for status in statuses
    }
    # Lost experiments have no reward, and are not the idea's fault: they are no part of the success rate.
    with_reward = [outcome for outcome in outcomes if outcome.has_reward]
    if with_reward:
        metrics["execution/success"] = sum(outcome.status == SUCCEEDED for outcome in with_reward) / len(with_reward)
    successes = [outcome for outcome in with_reward if outcome.status == SUCCEEDED]
    rewards = [outcome.execution_reward for outcome in successes if outcome.execution_reward is not None]
    if rewards:
        metrics["execution/success_reward_mean"] = sum(rewards) / len(rewards)
        metrics["execution/success_reward_best"] = max(rewards)
    return metrics


def trl_reward_metrics(scores: Scores, names: list[str]) -> dict[str, Any]:
    """The reward metrics that TRL logs, of what was trained: TRL computes its own before rewards are known."""
    metrics: dict[str, Any] = {}
    for index, name in enumerate(names):
        metrics |= _mean_and_std(scores.rewards_PGF[..., index], f"rewards/{name}/mean", f"rewards/{name}/std")
    metrics |= _mean_and_std(scores.rewards_PG, "reward", "reward_std")
    # A group whose rewards are equal has no gradient.
    groups = [targets[~torch.isnan(targets)] for targets in scores.targets_PG]
    flat = [bool(rewards.std(unbiased=False) < 1e-8) for rewards in groups if len(rewards) > 1]
    metrics["frac_reward_zero_std"] = sum(flat) / len(flat) if flat else float("nan")
    return metrics


def _mean_and_std(values: torch.Tensor, mean: str, std: str) -> dict[str, float]:
    present = values[~torch.isnan(values)]
    return {
        mean: present.mean().item() if len(present) else float("nan"),
        std: present.std().item() if len(present) > 1 else float("nan"),
    }


class FleetMetrics:
    """Reads a buffer's experiments and costs; each experiment counts in the first reading after its end."""

    def __init__(self, buffer: RewardBuffer):
        self._buffer = buffer
        self._read_at = time.monotonic()
        # Experiments of earlier sessions are in the history from the start, and kept no machine busy in this one.
        self._read_until = len(buffer.history)

    def read(self) -> dict[str, float]:
        """The metrics since the last reading."""
        buffer, now, end = self._buffer, time.monotonic(), len(self._buffer.history)
        seconds = max(now - self._read_at, 1e-6)
        # The event loop appends to the history while this thread reads: only what was there at `end` counts.
        ended = buffer.history[self._read_until : end]
        self._read_at, self._read_until = now, end
        counts, spent = buffer.counts(), buffer.executor.ledger.spent
        busy = sum(record.seconds.get("run", 0.0) for record in ended if not record.replayed) / seconds
        metrics = {"fleet/busy": busy, "fleet/running": counts["running"], "fleet/waiting": counts["waiting"]}
        metrics["fleet/lost"] = counts["lost"]
        ran = [record for record in ended if record.tree and not record.replayed]
        if ran:
            queue_seconds = torch.tensor([record.seconds.get("queue", 0.0) for record in ran])
            for percent in (50, 90):
                metrics[f"fleet/queue_p{percent}"] = queue_seconds.quantile(percent / 100).item()
            metrics["fleet/attempts"] = sum(record.attempt + 1 for record in ran) / len(ran)
        if buffer.executor.bucket.remote:
            metrics["fleet/store_requests"] = sum(buffer.executor.bucket.requests.values())
        # Only on this machine is the number of slots known.
        if buffer.config.backend == "local":
            cpus = buffer.executor.environment.preset(buffer.config.preset).resources.cpus
            metrics["fleet/use"] = busy * cpus / (buffer.config.slots or cpu_share())
        return metrics | {"cost/usd": spent.usd, "cost/tokens": spent.tokens, "cost/gpu_hours": spent.gpu_hours}
