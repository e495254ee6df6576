"""`IdeatorGRPOTrainer`: TRL's `GRPOTrainer` for rewards that take hours.

TRL is the host: this class passes functions, wraps methods with `super()`, and copies nothing.  Sampling, log-probs,
loss and optimizer are TRL's.  `pipeline` decides which batch is trained when, and with which rewards.  With
`max_staleness: 0` and every reward there, the weights are those of stock TRL, bit for bit.

`tests/test_trl_contract.py` pins every private name of TRL that is used here, with what would break without it.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from trl import GRPOTrainer

from ideator_rl.errors import IdeatorError
from ideator_rl.llm.prompt_form import PromptForm
from ideator_rl.llm.sampled_text import marked_completions
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.training.advantages import advantage_of_trl, cluster_weighted
from ideator_rl.training.batch_closing import Layout, TrainBatch
from ideator_rl.training.batch_tensors import Scores, batch_scores, batch_tensors, batch_texts, row_scale
from ideator_rl.training.checkpoints import checkpoint_steps
from ideator_rl.training.imitation import Examples, imitation_loss, share_of
from ideator_rl.training.learning import Learning
from ideator_rl.training.metrics import batch_metrics, trl_reward_metrics
from ideator_rl.training.micro_steps import micro_steps
from ideator_rl.training.pipeline import Pipeline
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.prompts import DatasetPrompts, Prompts, refuse_stream
from ideator_rl.training.ranks import Ranks
from ideator_rl.training.reward_runner import RewardRunner
from ideator_rl.training.rollouts import Batch, RolloutStore, random_state
from ideator_rl.training.screening import RowChooser
from ideator_rl.training.start_weights import start_weights
from ideator_rl.training.unsupported import NO_EVALUATION, refuse_evaluation, refuse_models
from ideator_rl.training.vllm_cpu import prepare_engine

RESUMABLE_CHECKPOINTS = 2
"""Journaled batches are kept from the second newest checkpoint on: the newest may be lost in a power failure."""
MAXIMA = {"reward_best", "reward_best_so_far", "pipeline/ratio_off_max"}
"""Metrics of which the largest value since the last log is logged; of all others the mean."""


class IdeatorGRPOTrainer(GRPOTrainer):
    """A `GRPOTrainer` whose batches wait for their rewards outside the training step.

        from datasets import load_dataset
        from trl import GRPOConfig
        from ideator_rl import IdeatorGRPOTrainer, execution_reward
        from ideator_rl.training.pipeline_config import PipelineConfig

        trainer = IdeatorGRPOTrainer(
            model="Qwen/Qwen3-0.6B",
            reward_funcs=execution_reward,
            args=GRPOConfig("runs/mine", per_device_train_batch_size=8, num_generations=8),
            train_dataset=load_dataset("json", data_files="train.jsonl")["train"],
            pipeline=PipelineConfig(max_staleness=1, quorum=0.9),
        )
        trainer.train()

    The rows of the dataset are the prompts and the columns that reward functions are given: `execution_reward` needs
    `environment`, `preset` and `bucket`.  `ideator-rl env show NAME --dataset train.jsonl` writes such a dataset.

    Args:
        *args, **kwargs: as `GRPOTrainer` takes them.  Reward functions are called at rank 0, on whole batches; one with
            an attribute `as_completed` gives its rewards one by one, which a quorum needs.
        pipeline: staleness, quorum and deadline; the default waits for every reward, as TRL does.
        learning: advantage, cluster weights and imitation; the default is what TRL's `scale_rewards` asks for.
        prompts: a source of prompts instead of the training dataset.
        buffer: runs the experiments of the reward functions; None where the dataset's columns say where to run.
        reward_columns: values that reward functions are given for every completion, as if the dataset had these
            columns.
        chooser: chooses the completions of a batch that get rewards; the others are masked.  None for all.
        resume: continue an earlier session that was killed before its first checkpoint.  From a checkpoint, call
            `train(resume_from_checkpoint=…)`.

    Raises:
        IdeatorError: what this trainer does not support: evaluation, a reward model, a streamed dataset.

    Checkpoints and sampled batches are in `args.output_dir`, which all ranks share; each reads only its own part.
    """

    args: Any  # TRL's GRPOConfig; transformers declares these as Optional, and the constructor sets them
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
        buffer: RewardBuffer | None = None,
        reward_columns: dict[str, Any] | None = None,
        chooser: RowChooser | None = None,
        resume: bool = False,
        **kwargs: Any,
    ):
        prepare_engine(kwargs.get("args", args[2] if len(args) > 2 else None))
        super().__init__(*args, **kwargs)
        self.buffer, self.reward_columns, self.prompts, self._resumed = buffer, reward_columns, prompts, resume
        self._chooser = chooser
        self.pipeline_config, self.learning = pipeline or PipelineConfig(), learning or Learning()
        self.pipeline: Pipeline | None = None
        """Opened by the first training step."""
        self.reward_runner: RewardRunner | None = None
        """At rank 0, opened with the pipeline."""
        self.best_reward: float | None = None
        """Of this session's batches and of the log of earlier ones."""
        self._advantage = self.learning.advantage or advantage_of_trl(self.args)
        # All fields below belong to the thread that trains.
        self._sampled_texts: tuple[Any, Any] | None = None
        """Completions and token ids of the batch being sampled: `_calculate_rewards` writes, `sample` reads."""
        self._metric_values: defaultdict[str, list[float]] = defaultdict(list)
        """Values since the last log; `log` reads and clears them."""
        self._examples: Examples = []
        """What to imitate with the current batch; set for each batch, read by `compute_loss`."""
        self._statuses: set[str] = set()
        """Every status that was logged: one that no row has any more is logged as 0."""
        self._is_dry = False
        """The current batch trains nothing; set for each batch, read by `compute_loss`."""
        self._start_weights = start_weights(self) if self.learning.from_forecasts else None
        self._old_logps: torch.Tensor | None = None
        """Log-probs of sampling time, while `compute_loss` runs with such; `_get_per_token_logps…` reads them."""
        refuse_models(self.reward_funcs)
        refuse_evaluation(self.args)
        if prompts is None:
            refuse_stream(self.train_dataset)
        self.add_callback(_BatchCleaner(self))

    # What the pipeline calls (see `pipeline.Host`).

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def sample(self, index: int) -> Batch:
        """A new batch: TRL samples it and computes log-probs; its rewards are left open."""
        assert self.pipeline is not None
        layout, ranks = self.pipeline.layout, self.pipeline.ranks
        uid, groups = ranks.broadcast(
            f"rows/{index}", lambda: [uuid.uuid4().hex, self._prompt_source().rows(index, layout.groups)]
        )
        start = ranks.rank * layout.rows_per_rank
        rows = [dict(groups[row // layout.group_size]) for row in range(start, start + layout.rows_per_rank)]
        with self._rewards_left_open():
            output = super()._generate_and_score_completions(rows)
            assert self._sampled_texts is not None
            completions, ids = self._sampled_texts
        completions = marked_completions(self._prompt_form(), rows, completions, ids, self.max_completion_length)
        # Of rewards that are not known yet; computed when the batch is closed.
        output.pop("advantages")
        if names := [name for name, value in output.items() if not isinstance(value, torch.Tensor)]:
            raise IdeatorError(f"Batches with {', '.join(names)} cannot be stored: only text is trained on here.")
        # Rank 0 needs the completions of all ranks for the reward functions.
        all_completions = gather_object(completions)
        all_ids = gather_object([list(map(int, row)) for row in ids])
        return Batch(index, self._batch_index(), groups, all_completions, all_ids, output, random_state(), uid)

    def _prompt_form(self) -> PromptForm:
        return PromptForm(self._tokenizer, cast(dict[str, Any], self.chat_template_kwargs))

    def give_up(self) -> bool:
        """False; a subclass returns whether its budget is spent, so that an empty batch may be closed."""
        return False

    def reattach(self, submitted: set[int]) -> None:
        """Does nothing; a subclass may wait for the experiments of earlier sessions."""

    # TRL's methods.

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """
        Raises:
            IdeatorError: this trainer has trained already, or its folder holds another run.
        """
        if self.pipeline is not None:
            raise IdeatorError("This trainer has trained already. Make a new one.")
        self._resumed = self._resumed or bool(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluate(self, *_: Any, **__: Any) -> Any:
        raise IdeatorError(NO_EVALUATION)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        # TRL counts from zero again after a resume, and the index of a batch would be wrong.
        if self._step == 0 and self.state.global_step > 0:
            self._step = micro_steps(self, self.state.global_step)
        return super().training_step(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors to train on now, in place of TRL's: of a batch that may have been sampled long before."""
        if self.pipeline is None:
            self.pipeline = self._open_pipeline()
        # No batch is sampled ahead that the last optimizer step would not train.
        per_batch = self.args.steps_per_generation * self.num_iterations
        total = -(-micro_steps(self, self.state.max_steps) // per_batch)
        train_batch, batches = self.pipeline.next_batch(self._batch_index(), total)
        layout, rank = self.pipeline.layout, self.pipeline.ranks.rank
        progress = self.state.global_step / max(1, self.state.max_steps)
        scores = batch_scores(train_batch, layout, self.reward_weights.to(self.device), progress)
        pad = self._tokenizer.pad_token_id
        output: dict[str, Any] = dict(batch_tensors(train_batch, batches, layout, rank, scores.kept_PG, pad))
        targets_PG = scores.targets_PG
        if self.learning.cluster_weight:
            targets_PG = cluster_weighted(targets_PG, scores.facts, self.learning.cluster_weight)
        # Computed for the whole batch at every rank, which then takes its own rows.
        advantages = self._advantage(targets_PG, scores.facts).reshape(-1)
        start = rank * layout.rows_per_rank
        output["advantages"] = advantages[start : start + layout.rows_per_rank]
        # TRL counted the tokens when the batch was sampled: with masked or moved rows there are others.
        is_changed = any(slot.batch != train_batch.index for slot in train_batch.slots)
        if is_changed or not bool(scores.kept_PG.all()):
            mask = output["completion_mask"] * output.get("tool_mask", 1)
            output["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        scale = row_scale(scores.kept_PG, self.loss_type)
        if scale != 1.0:
            output["row_scale"] = torch.tensor(scale, device=self.device)
        self._examples, self._is_dry = train_batch.examples, train_batch.is_dry
        # Not again where a run goes on from a checkpoint within the batch: its weights have stepped back already.
        if train_batch.is_dry and self._step % per_batch == 0:
            self.step_back(train_batch.index)
        self._log_batch(train_batch, batches, scores, advantages)
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        """No rewards yet: only takes the completions, from the one place where TRL has them all."""
        self._sampled_texts = completions, completion_ids_list
        rows = len(prompts) * self.accelerator.num_processes
        return torch.full((rows, len(self.reward_funcs)), torch.nan, device=self.device)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, scaled where rows are masked, plus the imitation loss once an optimizer step."""
        if self.learning.is_frozen or self._is_dry:
            # It leads to no parameter, so that the optimizer has no gradients and changes nothing, decay included.
            return torch.zeros((), device=self.device, requires_grad=True)
        self._old_logps = inputs.get("old_per_token_logps") if self.model.training else None
        self._loss_mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        beta, scale = self.beta, inputs.get("row_scale")
        # Only the policy term and the KL term divide by rows; entropy bonus and router loss do not.
        if scale is not None:
            inputs = {**inputs, "advantages": inputs["advantages"] * scale}
            self.beta = beta * float(scale)
        try:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.beta, self._old_logps = beta, None
        examples, share = share_of(self._examples, self._step, self.args)
        if examples and self.model.training:
            nll = imitation_loss(
                lambda *batch: self._get_per_token_logps_and_entropies(model, *batch)[0],
                self._prompt_form(), examples, self.device, self.max_completion_length,
            )  # fmt: skip
            imitation = nll * self.learning.imitation_weight
            self._metric_values["imitation_loss"].append(imitation.item())
            loss = loss + imitation * share
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; while a loss is computed, logs how far its ratio to the log-probs of sampling time is from 1."""
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._old_logps is not None:
            mask = self._loss_mask.bool()
            distance = (torch.exp(result[0].detach() - self._old_logps)[mask] - 1).abs()
            if distance.numel():
                self._metric_values["pipeline/ratio_off_mean"].append(distance.mean().item())
                self._metric_values["pipeline/ratio_off_max"].append(distance.max().item())
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.model.training:
            for name, values in self._metric_values.items():
                if values:
                    logs[name] = max(values) if name in MAXIMA else sum(values) / len(values)
            self._metric_values.clear()
        super().log(logs, *args, **kwargs)

    # Our own.

    def forget_batches(self) -> None:
        """Remove stored batches to which no checkpoint goes back; later checkpoints are of a branch that was left."""
        steps = [step for step in checkpoint_steps(Path(self.args.output_dir)) if step <= self.state.global_step]
        if self.pipeline is not None and steps:
            per_batch = self.args.steps_per_generation * self.num_iterations
            self.pipeline.forget(micro_steps(self, steps[-RESUMABLE_CHECKPOINTS:][0]) // per_batch)

    def step_back(self, index: int) -> bool:
        """Move the weights towards those of the start: few ideas of batch `index` were new.  Called at every rank.

        Returns:
            False where these are not kept, since every process holds a part of the weights.
        """
        if self._start_weights is not None:
            self._start_weights.step_back(self.accelerator.unwrap_model(self.model))
        return self._start_weights is not None

    def _batch_index(self) -> int:
        """The batch that the current micro-step trains."""
        return self._step // (self.args.steps_per_generation * self.num_iterations)

    def _open_pipeline(self) -> Pipeline:
        args, ranks = self.args, Ranks()
        rows = args.per_device_train_batch_size * args.steps_per_generation
        layout = Layout(rows * ranks.world // self.num_generations, self.num_generations, rows)
        if ranks.is_zero:
            self.reward_runner = RewardRunner(
                self.reward_funcs, self.reward_func_names, self.buffer, self.reward_columns, self._chooser
            )
        run = Path(args.output_dir)
        # Batches of another run would be taken for this run's own.
        if not self._resumed and RolloutStore(run, ranks.rank, ranks.world).has_batches():
            raise IdeatorError(
                f"The folder {run} holds batches of an earlier run. Give another output_dir, go on with that run "
                "(resume_from_checkpoint, or resume=True before its first checkpoint), or remove its rollouts folder."
            )
        return Pipeline(self.pipeline_config, layout, run, self, ranks, self.reward_runner, self.learning.imitate)

    def _prompt_source(self) -> Prompts:
        if self.prompts is None:
            uses = self.num_iterations * self.args.steps_per_generation
            sampler = self._get_train_sampler(self.train_dataset)
            self.prompts = DatasetPrompts(self.train_dataset, sampler, uses, self.num_generations)
        return self.prompts

    @contextmanager
    def _rewards_left_open(self) -> Iterator[None]:
        """Inside, TRL logs no rewards, and computes log-probs of sampling time if they may be needed."""
        metrics_before = {name: list(values) for name, values in self._metrics["train"].items()}
        logs: Any = self._logs
        discarded: Any = defaultdict(list, {"rewards": defaultdict(list), "extra": defaultdict(list)})
        self._logs = discarded
        iterations = self.num_iterations
        if self.pipeline_config.off_policy:
            # TRL computes them where generation and optimizer steps do not align; with this number they do not.
            self.num_iterations = self.args.gradient_accumulation_steps + 1
        try:
            yield
        finally:
            self.num_iterations, self._logs = iterations, logs
            reward_metrics = [f"rewards/{name}/{kind}" for name in self.reward_func_names for kind in ("mean", "std")]
            for name in ("reward", "reward_std", "frac_reward_zero_std", *reward_metrics):
                if name in self._metrics["train"]:
                    self._metrics["train"][name] = metrics_before.get(name, [])

    def _log_batch(
        self, train_batch: TrainBatch, batches: Mapping[int, Batch], scores: Scores, advantages: torch.Tensor
    ) -> None:
        """Log what is trained where TRL logs it, and how the batch was closed."""
        assert self.pipeline is not None
        layout = self.pipeline.layout
        for name, value in trl_reward_metrics(scores, self.reward_func_names).items():
            self._metrics["train"][name].append(value)
        metrics = batch_metrics(train_batch, batches, layout, scores)
        outcomes = [outcome for slot in train_batch.slots for outcome in slot.outcomes if outcome is not None]
        self._statuses |= {outcome.status for outcome in outcomes if outcome.status}
        metrics = {f"execution/{status}": 0.0 for status in self._statuses} | metrics
        for name, value in metrics.items():
            self._metric_values[name].append(value)
        has_reward_PG = ~torch.isnan(scores.rewards_PG)
        if has_reward_PG.any():
            best = scores.rewards_PG[has_reward_PG].max().item()
            # The trainer's state holds the log of earlier sessions up to the checkpoint.
            logged = [logs["reward_best_so_far"] for logs in self.state.log_history if "reward_best_so_far" in logs]
            self.best_reward = max(best, self.best_reward if self.best_reward is not None else max([best, *logged]))
            self._metric_values["reward_best"].append(best)
            self._metric_values["reward_best_so_far"].append(self.best_reward)
        # Reward functions log about the whole batch as far as they know it; our metrics are of what is trained.
        for name, values in train_batch.metrics.items():
            if name not in metrics:
                self._metric_values[name].append(sum(values) / len(values))
        # The table of completions that TRL prints: what is trained, row by row.
        logs = cast(Any, self._logs)
        prompts, completions = batch_texts(train_batch, batches, layout)
        logs["prompt"].extend(prompts)
        logs["completion"].extend(completions)
        for index, name in enumerate(self.reward_func_names):
            logs["rewards"][name].extend(scores.rewards_PGF[..., index].reshape(-1).tolist())
        logs["advantages"].extend(advantages.tolist())


class _BatchCleaner(TrainerCallback):
    """Removes stored batches after each checkpoint."""

    def __init__(self, trainer: IdeatorGRPOTrainer):
        self._trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.forget_batches()
