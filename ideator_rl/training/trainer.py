"""`IdeatorGRPOTrainer`: TRL's `GRPOTrainer` for rewards that take hours.

A thin guest: it passes functions in, wraps with `super()` and copies nothing.  Sampling, log-probs, loss and optimizer
are TRL's; which batch is trained when, with which rewards and advantages, is decided by `pipeline`.  With
`max_staleness: 0` and every reward there, weights are those of stock TRL bit for bit.

Private names of TRL that are touched stand in `tests/test_trl_contract.py`, each with what breaks without it.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from trl import GRPOTrainer

from ideator_rl.errors import IdeatorError
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.training import assembling
from ideator_rl.training.advantages import Advantage, cluster_weighted, make_advantage
from ideator_rl.training.batch_assembly import Layout
from ideator_rl.training.checkpoints import checkpoints
from ideator_rl.training.imitation import Draw, Examples, imitation_loss
from ideator_rl.training.pipeline import Pipeline
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.prompts import DatasetPrompts, Prompts, refuse_stream
from ideator_rl.training.ranks import Ranks
from ideator_rl.training.reward_runner import Rewarding
from ideator_rl.training.rollouts import Batch, RolloutJournal, random_state

KEPT_CHECKPOINTS = 2
"""Batches since the second newest are kept: the newest may be lost with a machine that loses its power."""
SCALES = {"group": "grpo", "none": "dr_grpo"}
_MOST = {"reward_best", "reward_best_so_far", "pipeline/ratio_off_max"}
"""Figures of which the largest since the last log counts, not the mean."""


@dataclass
class Learning:
    """What is learned from rewards, beyond TRL's own configuration."""

    advantage: Advantage | None = None
    """None for TRL's `scale_rewards`: `group` is grpo, `none` is dr_grpo."""
    cluster_weight: str | None = None
    """`ips` or `share`: rewards are weighted by cluster before advantages are computed."""
    imitate: Draw | None = None
    """Examples to imitate beside a batch; asked in the first process only."""
    imitation_weight: float = 0.0


class IdeatorGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose batches wait for their rewards on the fleet, not in the training step.

    Args:
        pipeline: staleness, quorum, deadline; the default waits for every reward, as TRL does.
        learning: advantage, cluster weights, elite imitation.
        prompts: where a batch's prompts come from; the training dataset if not given.
        resume: go on with what an earlier life journaled even before its first checkpoint.
        buffer: runs the experiments of the reward functions; None where the dataset's columns say where to run.
        reward_columns: values that reward functions get for every completion, as if the dataset had these columns.

    Raises:
        IdeatorError: something is asked for that this trainer does not do: evaluation, reward models, a stream.

    Reward functions are called in the first process, on whole batches.  Checkpoints, journal and closings lie under
    `args.output_dir`, which all processes must share (each reads back only its own part).
    """

    args: Any  # TRL's GRPOConfig; these are Optional for transformers, and there once the trainer is made
    model: Any
    reward_funcs: Any
    num_generations: Any
    max_completion_length: Any

    def __init__(
        self,
        *args: Any,
        pipeline: PipelineConfig | None = None,
        learning: Learning | None = None,
        prompts: Prompts | None = None,
        resume: bool = False,
        buffer: RewardBuffer | None = None,
        reward_columns: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.buffer, self.reward_columns = buffer, reward_columns
        self.pipeline_config = pipeline or PipelineConfig()
        self.learning = learning or Learning()
        self.prompts = prompts
        self.pipeline: Pipeline | None = None
        self.rewarding: Rewarding | None = None
        self.best_reward: float | None = None
        self._advantage = self.learning.advantage or _advantage_of(self.args)
        self._caught: tuple[Any, ...] | None = None
        self._gauges: defaultdict[str, list[float]] = defaultdict(list)
        self._examples: Examples = []
        self._statuses: set[str] = set()
        self._old_logps: torch.Tensor | None = None
        self._resumed = resume
        _refuse_models(self.reward_funcs)
        _refuse_evaluation(self.args)
        if prompts is None:
            refuse_stream(self.train_dataset)
        self.add_callback(_Forget(self))

    # What the pipeline asks of its host.

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def sample(self, index: int) -> Batch:
        """A new batch: TRL samples and computes log-probs, with rewards left open."""
        assert self.pipeline is not None
        layout, ranks = self.pipeline.layout, self.pipeline.ranks
        uid, groups = ranks.share(
            f"rows/{index}", lambda: [uuid.uuid4().hex, self._prompts().rows(index, layout.groups)]
        )
        start = ranks.rank * layout.rows_per_rank
        rows = [dict(groups[row // layout.group_size]) for row in range(start, start + layout.rows_per_rank)]
        with self._rewards_left_open():
            output = super()._generate_and_score_completions(rows)
            assert self._caught is not None
            completions, ids = self._caught
        output.pop("advantages")
        if strange := [name for name, value in output.items() if not isinstance(value, torch.Tensor)]:
            raise IdeatorError(f"Batches with {', '.join(strange)} cannot be journaled: only text is trained on here.")
        everyone, all_ids = gather_object(completions), gather_object([list(map(int, each)) for each in ids])
        return Batch(index, self._batch_index(), groups, everyone, all_ids, output, random_state(), uid)

    def give_up(self) -> bool:
        """Whether an empty batch may be closed; a subclass that knows budgets says so."""
        return False

    # TRL's hooks.

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """
        Raises:
            IdeatorError: it has trained already, or its folder holds another run.
        """
        if self.pipeline is not None:
            raise IdeatorError("This trainer has trained already. Make a new one.")
        self._resumed = self._resumed or bool(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> Any:
        raise IdeatorError(NO_EVALUATION)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        if self._step == 0 and self.state.global_step > 0:  # TRL counts from zero again after a resume
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
        return super().training_step(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.pipeline is None:
            self.pipeline = self._open_pipeline()
        per_batch = self.args.steps_per_generation * self.num_iterations
        total = -(-self.state.max_steps * self.args.gradient_accumulation_steps // per_batch)
        closing, batches = self.pipeline.next(self._batch_index(), total)
        layout, ranks = self.pipeline.layout, self.pipeline.ranks
        weights = self.reward_weights.to(self.device)
        told = assembling.scores(closing, layout, weights, self.state.global_step / max(1, self.state.max_steps))
        pad = self._tokenizer.pad_token_id
        output: dict[str, Any] = dict(assembling.assemble(closing, batches, layout, ranks.rank, told.kept_PG, pad))
        rewards_PG = told.rewards_PG
        if self.learning.cluster_weight:
            rewards_PG = cluster_weighted(rewards_PG, told.facts, self.learning.cluster_weight)
        advantages = self._advantage(rewards_PG, told.facts).reshape(-1)
        start = ranks.rank * layout.rows_per_rank
        output["advantages"] = advantages[start : start + layout.rows_per_rank]
        if not bool(told.kept_PG.all()) or any(seat.batch != closing.index for seat in closing.seats):
            mask = output["completion_mask"] * output.get("tool_mask", 1)
            output["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        scale = assembling.row_scale(told.kept_PG, self.loss_type)
        if scale != 1.0:
            output["row_scale"] = torch.tensor(scale, device=self.device)
        self._examples = closing.examples
        self._tell(closing, batches, told, advantages)
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        self._caught = completions, completion_ids_list
        rows = len(prompts) * self.accelerator.num_processes
        return torch.full((rows, len(self.reward_funcs)), torch.nan, device=self.device)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._old_logps = inputs.get("old_per_token_logps") if self.model.training else None
        self._loss_mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        beta, scale = self.beta, inputs.get("row_scale")
        if scale is not None:  # of the policy's and the KL term: entropy bonus and router loss do not divide by rows
            inputs = {**inputs, "advantages": inputs["advantages"] * scale}
            self.beta = beta * float(scale)
        try:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.beta, self._old_logps = beta, None
        if self._examples and self.model.training and self._step % self.args.gradient_accumulation_steps == 0:
            near = imitation_loss(model, self._tokenizer, self._examples, self.device, self.max_completion_length)
            near = near * self.learning.imitation_weight
            self._gauges["imitation_loss"].append(near.item())
            loss = loss + near
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; while a loss is computed its ratio to the log-probs of sampling time is noted."""
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._old_logps is not None:
            mask = self._loss_mask.bool()
            off = (torch.exp(found[0].detach() - self._old_logps)[mask] - 1).abs()
            if off.numel():
                self._gauges["pipeline/ratio_off_mean"].append(off.mean().item())
                self._gauges["pipeline/ratio_off_max"].append(off.max().item())
        return found

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.model.training:
            for name, values in self._gauges.items():
                if values:
                    logs[name] = max(values) if name in _MOST else sum(values) / len(values)
            self._gauges.clear()
        super().log(logs, *args, **kwargs)

    # Our own.

    def _batch_index(self) -> int:
        return self._step // (self.args.steps_per_generation * self.num_iterations)

    def _open_pipeline(self) -> Pipeline:
        args, ranks = self.args, Ranks()
        rows = args.per_device_train_batch_size * args.steps_per_generation
        layout = Layout(rows * ranks.world // self.num_generations, self.num_generations, rows)
        if ranks.first:
            self.rewarding = Rewarding(self.reward_funcs, self.reward_func_names, self.buffer, self.reward_columns)
        draw, run = self.learning.imitate, Path(args.output_dir)
        if not self._resumed and RolloutJournal(run, ranks.rank, ranks.world).any():
            raise IdeatorError(
                f"The folder {run} holds batches of an earlier run. Give another output_dir, go on with that run "
                "(resume_from_checkpoint, or resume=True before its first checkpoint), or remove its rollouts folder."
            )
        pipeline = Pipeline(self.pipeline_config, layout, run, self, ranks, self.rewarding, draw)
        pipeline.reattach = self.reattach
        return pipeline

    def forget_batches(self) -> None:
        """Remove journaled batches that no checkpoint in the folder goes back to."""
        if self.pipeline is not None and (kept := checkpoints(Path(self.args.output_dir))[-KEPT_CHECKPOINTS:]):
            per_batch = self.args.steps_per_generation * self.num_iterations
            self.pipeline.forget(kept[0] * self.args.gradient_accumulation_steps // per_batch)

    def reattach(self, submitted: set[int]) -> None:
        """Called in the first process of a resumed run; `submitted` batches are submitted again anyway."""

    def _prompts(self) -> Prompts:
        if self.prompts is None:
            uses = self.num_iterations * self.args.steps_per_generation
            sampler = self._get_train_sampler(self.train_dataset)
            self.prompts = DatasetPrompts(self.train_dataset, sampler, uses, self.num_generations)
        return self.prompts

    @contextmanager
    def _rewards_left_open(self) -> Iterator[None]:
        """Inside, TRL logs no rewards, and computes log-probs of sampling time if they may be needed."""
        kept = {name: list(values) for name, values in self._metrics["train"].items()}
        logs: Any = self._logs
        nowhere: Any = defaultdict(list, {"rewards": defaultdict(list), "extra": defaultdict(list)})
        self._logs = nowhere
        iterations = self.num_iterations
        if self.pipeline_config.off_policy:
            # TRL keeps them where generation and optimizer steps do not align; with this they do not.
            self.num_iterations = self.args.gradient_accumulation_steps + 1
        try:
            yield
        finally:
            self.num_iterations, self._logs = iterations, logs
            for name in ("reward", "reward_std", "frac_reward_zero_std", *self._reward_names()):
                if name in self._metrics["train"]:
                    self._metrics["train"][name] = kept.get(name, [])

    def _reward_names(self) -> list[str]:
        return [f"rewards/{name}/{what}" for name in self.reward_func_names for what in ("mean", "std")]

    def _tell(self, closing: Any, batches: Any, told: Any, advantages: torch.Tensor) -> None:
        """Log what was trained, where TRL logs it, and what the pipeline did."""
        assert self.pipeline is not None
        for name, value in assembling.trl_rewards(told, self.reward_func_names).items():
            self._metrics["train"][name].append(value)
        figures = assembling.figures(closing, batches, self.pipeline.layout, told)
        self._statuses |= {each.status for seat in closing.seats for each in seat.outcomes if each and each.status}
        figures = {f"execution/{status}": 0.0 for status in self._statuses} | figures  # none is a share too
        for name, value in figures.items():
            self._gauges[name].append(value)
        if told.kept_PG.any():
            best = told.rewards_PG[told.kept_PG].max().item()
            before = [logs["reward_best_so_far"] for logs in self.state.log_history if "reward_best_so_far" in logs]
            self.best_reward = max(best, self.best_reward if self.best_reward is not None else max([best, *before]))
            self._gauges["reward_best"].append(best)
            self._gauges["reward_best_so_far"].append(self.best_reward)
        for name, values in closing.metrics.items():
            if name not in figures:  # of the whole batch as far as it was known; ours are of what was trained
                self._gauges[name].append(sum(values) / len(values))
        logs = cast(Any, self._logs)
        prompts, completions = assembling.texts(closing, batches, self.pipeline.layout)
        logs["prompt"].extend(prompts)
        logs["completion"].extend(completions)
        for index, name in enumerate(self.reward_func_names):
            logs["rewards"][name].extend(told.rewards_PGF[..., index].reshape(-1).tolist())
        logs["advantages"].extend(advantages.tolist())


def _advantage_of(args: Any) -> Advantage:
    """The advantage that TRL's own keys ask for.

    Raises:
        IdeatorError: they ask for one that is not ours to give.
    """
    if args.multi_objective_aggregation != "sum_then_normalize":
        raise IdeatorError(
            f"multi_objective_aggregation is {args.multi_objective_aggregation!r}; expected sum_then_normalize: "
            "rewards are summed, then compared within their group."
        )
    scale = {True: "group", False: "none"}.get(args.scale_rewards, args.scale_rewards)
    if scale not in SCALES:
        raise IdeatorError(f"scale_rewards is {scale!r}; expected group or none, or an `advantage` in its place.")
    return make_advantage(SCALES[scale])


NO_EVALUATION = (
    "Evaluation during training is not done here: its experiments would stand among those of training. Leave "
    "eval_strategy out, and measure checkpoints apart."
)


def _refuse_evaluation(args: Any) -> None:
    if str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no":
        raise IdeatorError(NO_EVALUATION)


class _Forget(TrainerCallback):
    """After a checkpoint, journaled batches that are older than any are removed."""

    def __init__(self, trainer: IdeatorGRPOTrainer):
        self._trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.forget_batches()


def _refuse_models(functions: list[Any]) -> None:
    if any(isinstance(function, torch.nn.Module) for function in functions):
        raise IdeatorError("A reward model was given as a reward function. Wrap it in a function that scores texts.")
