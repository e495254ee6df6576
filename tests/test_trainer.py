"""The pipelined trainer: equal to stock TRL without lag, and right ratios to the sampling weights with it."""

import asyncio
import threading

import pytest
import torch
from tiny_policy import arguments, build, by_text, draw, save_policy, weights
from transformers import AutoTokenizer
from trl import GRPOTrainer

from ideator_rl.errors import IdeatorError
from ideator_rl.llm.prompt_form import PromptForm
from ideator_rl.reward import RowReward
from ideator_rl.training.batch_tensors import row_scale
from ideator_rl.training.imitation import _token_ids, imitation_loss, share_of
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.trainer import IdeatorGRPOTrainer, Learning

STOCK = {
    "one step a batch": {},
    "accumulated": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "several steps a batch": {"steps_per_generation": 2, "per_device_train_batch_size": 4},
    "a batch used twice": {"num_iterations": 2},
    "no scale, rows, reference": {"loss_type": "grpo", "scale_rewards": "none", "beta": 0.1},
    "weighted functions": {"reward_weights": [0.3, 2.0]},
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


def sometimes(completions, **_):
    """Scores every other text only."""
    return [None if draw(text) < 0.5 else float(len(text)) for text in completions]


@pytest.mark.parametrize("more", STOCK.values(), ids=STOCK)
def test_without_lag_and_with_every_reward_the_weights_are_those_of_stock_trl_bit_for_bit(policy, tmp_path, more):
    functions = [by_text, sometimes] if "reward_weights" in more else by_text
    stock = build(GRPOTrainer, policy, arguments(tmp_path / "stock", max_steps=7, **more), functions)
    stock.train()
    ours = build(IdeatorGRPOTrainer, policy, arguments(tmp_path / "ours", max_steps=7, **more), functions)
    before = weights(ours)
    ours.train()
    assert all(torch.equal(tensor, weights(ours)[name]) for name, tensor in weights(stock).items())
    assert any(not torch.equal(tensor, weights(ours)[name]) for name, tensor in before.items())
    for our_log, stock_log in zip(ours.state.log_history[:-1], stock.state.log_history[:-1], strict=True):
        for name in ("loss", "reward", "reward_std", "grad_norm", "frac_reward_zero_std", "completions/mean_length"):
            assert (name in our_log) == (name in stock_log), name
            assert our_log.get(name, 0) == pytest.approx(stock_log.get(name, 0), rel=1e-5), name


class Watched(IdeatorGRPOTrainer):
    """Records the weights that each batch was sampled from, the batches, and the ratios to the old log-probs."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.snapshots, self.sampled, self.trained, self.ratios = {}, [], [], []
        self.batches = {}

    def sample(self, index):
        self.snapshots[index] = weights(self)
        self.sampled.append((index, self._batch_index()))
        batch = super().sample(index)
        self.batches[index] = batch
        return batch

    def _log_batch(self, train_batch, batches, scores, advantages):
        self.trained.append(train_batch)
        super()._log_batch(train_batch, batches, scores, advantages)

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        if self._old_logps is not None:
            self.ratios.append(torch.exp(result[0].detach() - self._old_logps))
        return result


def logps(trainer, tensors):
    ids = torch.cat([tensors["prompt_ids"], tensors["completion_ids"]], 1)
    mask = torch.cat([tensors["prompt_mask"], tensors["completion_mask"]], 1)
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, tensors["completion_ids"].size(1))[
            0
        ]


@pytest.mark.parametrize("lag", [1, 2])
def test_with_lag_the_ratio_is_that_between_now_and_the_weights_of_sampling_time(policy, tmp_path, lag):
    trainer = build(Watched, policy, arguments(tmp_path, max_steps=6), pipeline=PipelineConfig(max_staleness=lag))
    trainer.train()
    assert trainer.sampled == [(i, max(0, i - lag)) for i in range(6)], "batch t + lag is sampled at step t"
    assert [train_batch.index for train_batch in trainer.trained] == list(range(6))
    assert len(trainer.ratios) == 6
    now = weights(trainer)
    for index, ratio in enumerate(trainer.ratios):
        tensors = trainer.batches[index].tensors
        mask = tensors["completion_mask"].bool()
        trainer.model.load_state_dict(trainer.snapshots[index])
        assert torch.allclose(logps(trainer, tensors)[mask], tensors["old_per_token_logps"][mask], atol=1e-6)
        assert ratio.shape == mask.shape
    trainer.model.load_state_dict(now)
    spread = [(ratio - 1).abs().max().item() for ratio in trainer.ratios]
    assert spread[0] < 1e-5 and max(spread[lag:]) > 1e-3, "the first batch is on policy, later ones are not"
    staleness = [log["pipeline/staleness"] for log in trainer.state.log_history if "pipeline/staleness" in log]
    assert staleness == [min(i, lag) for i in range(6)]
    logged = [log["pipeline/ratio_off_max"] for log in trainer.state.log_history if "pipeline/ratio_off_max" in log]
    assert len(logged) == 6 and logged[0] < 1e-5 and max(logged[lag:]) > 1e-3


def test_the_ratio_of_a_trained_batch_is_exactly_new_over_old(policy, tmp_path):
    """Recompute step 3's ratio from the snapshots: weights then (batch 4 was sampled there) over weights at sampling."""
    trainer = build(Watched, policy, arguments(tmp_path, max_steps=5), pipeline=PipelineConfig(max_staleness=1))
    trainer.train()
    tensors = trainer.batches[3].tensors
    trainer.model.load_state_dict(trainer.snapshots[4])
    new = logps(trainer, tensors)
    trainer.model.load_state_dict(trainer.snapshots[3])
    want = torch.exp(new - logps(trainer, tensors))
    mask = tensors["completion_mask"].bool()
    assert torch.allclose(torch.sort(trainer.ratios[3][mask])[0], torch.sort(want[mask])[0], atol=1e-5)


LOSSES = ["grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo"]


@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_loss_of_a_batch_with_masked_rows_is_that_of_the_batch_without_them(policy, tmp_path, loss_type):
    """With a KL term and an entropy bonus, which no row's absence may make larger either."""
    more = {"beta": 0.1, "entropy_coef": 0.05}
    trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, loss_type=loss_type, max_steps=1, **more))
    trainer.train()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 200, (8, 9), generator=generator)
    lengths = torch.tensor([9, 4, 7, 9, 2, 9, 5, 6])
    full = {
        "prompt_ids": ids[:, :3], "prompt_mask": torch.ones(8, 3, dtype=torch.long), "completion_ids": ids,
        "completion_mask": (torch.arange(9) < lengths[:, None]).long(),
        "advantages": torch.randn(8, generator=generator), "num_items_in_batch": lengths.sum(),
        "old_per_token_logps": torch.randn(8, 9, generator=generator) * 0.1 - 5,
        "ref_per_token_logps": torch.randn(8, 9, generator=generator) * 0.1 - 5,
    }  # fmt: skip
    kept_rows = torch.tensor([1, 1, 0, 1, 0, 0, 1, 1]).bool()
    reduced = {name: value if value.ndim == 0 else value[kept_rows] for name, value in full.items()}
    reduced["num_items_in_batch"] = lengths[kept_rows].sum()
    masked = dict(
        full, tool_mask=full["completion_mask"] * 0 + kept_rows[:, None], num_items_in_batch=lengths[kept_rows].sum()
    )
    masked["advantages"] = full["advantages"] * kept_rows
    masked["row_scale"] = torch.tensor(row_scale(kept_rows, loss_type))
    grads = []
    for inputs in (masked, reduced, full):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        grads.append((loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    assert torch.allclose(grads[0][1], grads[1][1], atol=1e-7, rtol=1e-4)
    assert not torch.allclose(grads[0][1], grads[2][1], atol=1e-7, rtol=1e-3), "the mask would do nothing"


class Slow:
    """A streamed reward function; `late` rows, by batch, wait until `gate` is set."""

    __name__ = "slow"

    def __init__(self, late, lost=()):
        self.late, self.lost, self.gate, self.late_answers = dict(late), set(lost), threading.Event(), []

    async def __call__(self, **_):
        raise AssertionError("a streamed function is read row by row")

    async def as_completed(self, completions, trainer_state, **_):
        batch = trainer_state.global_step
        late = [row for row in range(len(completions)) if row in self.late.get(batch, ())]
        for row in [row for row in range(len(completions)) if row not in late]:
            yield RowReward(row, None if (batch, row) in self.lost else draw(completions[row]), "succeeded")
        while late and not self.gate.is_set():
            await asyncio.sleep(0.01)
        for row in late:
            self.late_answers.append((batch, row))
            yield RowReward(row, draw(completions[row]), "succeeded")


def test_with_a_quorum_training_goes_on_and_a_deferred_group_is_trained_when_its_rewards_have_come(policy, tmp_path):
    reward = Slow({0: [1, 2]})

    class OpensGate(Watched):
        def sample(self, index):
            if index == 2:
                reward.gate.set()
                reward.late[2] = [5, 6]  # which leaves a free slot
                self.pipeline.pending[0].wait(1)
            return super().sample(index)

    config = PipelineConfig(quorum=0.75, max_age=3)
    trainer = build(OpensGate, policy, arguments(tmp_path, max_steps=4), reward, pipeline=config)
    trainer.train()
    assert [slot.slot for slot in trainer.trained[0].slots] == [1] and trainer.trained[0].deferred == [(0, 0)]
    when = [
        (train_batch.index, slot.slot)
        for train_batch in trainer.trained
        for slot in train_batch.slots
        if slot.batch == 0
    ]
    assert when[0] == (0, 1) and len(when) <= 2 and reward.late_answers[:2] == [(0, 1), (0, 2)]


def test_a_deadline_closes_a_batch_with_the_rewards_it_has(policy, tmp_path):
    reward = Slow({0: [1, 2, 3], 1: [6]})
    config = PipelineConfig(deadline=0.3, max_age=1)
    trainer = build(Watched, policy, arguments(tmp_path, max_steps=3), reward, pipeline=config)
    trainer.train()
    assert trainer.trained[0].deferred == [(0, 0)] and trainer.trained[1].dropped == [(0, 0)]
    reward.gate.set()


def test_a_deadline_closes_a_batch_of_one_group(policy, tmp_path):
    reward = Slow({0: range(2, 8)})
    one_group, config = arguments(tmp_path, max_steps=1, num_generations=8), PipelineConfig(deadline=0.3)
    trainer = build(Watched, policy, one_group, reward, pipeline=config)
    trainer.train()
    (slot,) = trainer.trained[0].slots
    assert [outcome is not None for outcome in slot.outcomes] == [True] * 2 + [False] * 6
    reward.gate.set()


def test_lost_rows_have_no_advantage_and_no_tokens_in_the_loss(policy, tmp_path):
    reward = Slow({}, lost={(0, 0), (0, 5), (0, 6), (0, 7)})

    class KeepsOutput(Watched):
        def _generate_and_score_completions(self, inputs):
            self.output = super()._generate_and_score_completions(inputs)
            return self.output

    trainer = build(KeepsOutput, policy, arguments(tmp_path, max_steps=1), reward)
    trainer.train()
    mask = trainer.output["tool_mask"][:, 0].tolist()
    assert mask == [0, 1, 1, 1, 0, 0, 0, 0], "row 0 was lost, and the second group has a single reward to compare"
    items = trainer.output["completion_mask"][1:4].sum()
    assert (
        trainer.output["num_items_in_batch"] == items and trainer.output["advantages"][[0, 4, 5, 6, 7]].abs().sum() == 0
    )
    assert trainer.output["advantages"][1:4].sum().abs() < 1e-5


def test_a_batch_of_lost_experiments_ends_the_run(policy, tmp_path):
    reward = Slow({}, lost={(0, row) for row in range(8)})
    trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path), reward)
    with pytest.raises(IdeatorError, match="Every experiment of this batch was lost"):
        trainer.train()


async def short(completions, **_):
    return [1.0]


async def broken(**_):
    raise ZeroDivisionError("in the reward")


def test_an_error_names_the_reward_function_that_breaks_its_contract(policy, tmp_path):
    with pytest.raises(IdeatorError, match="short returned 1 rewards for 8 completions"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path / "a"), short).train()
    with pytest.raises(ZeroDivisionError, match="in the reward"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path / "b"), broken).train()


def test_a_reward_function_gets_the_arguments_that_trl_passes(policy, tmp_path):
    calls = []

    async def record_call(prompts, completions, completion_ids, *, trainer_state, log_metric, log_extra, number):
        calls.append((prompts[0], len(completions), len(completion_ids[0]), trainer_state.global_step, number))
        log_metric("mine", 2.0)
        log_extra("note", ["x"] * len(completions))
        return [draw(text) for text in completions]

    trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path, max_steps=2), record_call)
    trainer.train()
    prompt, count, tokens, step, number = calls[0]
    assert count == 8 and 0 < tokens <= 12 and step == 0 and calls[1][3] == 1
    assert prompt == f"Propose an idea {number[0]}." and len(set(number)) == 2 and number[0] == number[3]
    assert trainer.state.log_history[0]["mine"] == 2.0


@pytest.mark.parametrize(
    "wrong", [{"max_staleness": -1}, {"quorum": 0.0}, {"quorum": 1.1}, {"deadline": 0.0}, {"max_age": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PipelineConfig(**wrong)


def test_other_values_of_scale_rewards_are_refused(policy, tmp_path):
    with pytest.raises(IdeatorError, match="scale_rewards is 'batch'"):
        build(IdeatorGRPOTrainer, policy, arguments(tmp_path, scale_rewards="batch"))


def imitated(trainer, examples, max_tokens):
    def log_probs(ids, attention, count):
        return trainer._get_per_token_logps_and_entropies(trainer.model, ids, attention, count)[0]

    with torch.no_grad():
        form = PromptForm(trainer.processing_class)
        return imitation_loss(log_probs, form, examples, torch.device("cpu"), max_tokens).item()


def test_the_imitation_loss_of_padded_rows_is_that_of_each_example_alone(policy, tmp_path):
    trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path))
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    examples = [
        {"prompt": "Propose an idea.", "completion": "[Experiment] Set the rate."},
        {"prompt": "Propose an idea. " * 3, "completion": "Set the rate " * 9},  # longer than allowed: cut
        {"prompt": "Idea.", "completion": "Rate."},
    ]
    losses = []
    for example in examples:
        prompt = tokenizer(example["prompt"])["input_ids"]
        completion = [*tokenizer(example["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([prompt + completion[:12]])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        of_targets = log_probs.gather(1, ids[0, 1:, None])[:, 0]
        losses.append(-of_targets[len(prompt) - 1 :].mean().item())
    assert imitated(trainer, examples, 12) == pytest.approx(sum(losses) / 3, abs=1e-5)


def test_imitation_is_spread_over_the_micro_steps_of_an_optimizer_step(policy, tmp_path, monkeypatch):
    """Their gradients add up to that of all examples, and none has more examples than completions."""
    examples = [{"prompt": "Propose an idea.", "completion": "Set the rate. " * count} for count in (1, 2, 3, 4, 5)]
    rows = []

    class CountsRows(IdeatorGRPOTrainer):
        def _get_per_token_logps_and_entropies(self, model, ids, *args, **kwargs):
            rows.append(len(ids))
            return super()._get_per_token_logps_and_entropies(model, ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "compute_loss", lambda *_, **__: torch.zeros(()))
    args = arguments(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    trainer = build(CountsRows, policy, args, learning=Learning(imitation_weight=1.0))
    model = trainer.model.train()

    def gradient(losses):
        model.zero_grad()
        for loss in losses:
            loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    def part(step):
        trainer._examples, trainer._step = examples, step
        return trainer.compute_loss(model, {"completion_mask": torch.ones(1, 1)})

    def log_probs(*batch):
        return IdeatorGRPOTrainer._get_per_token_logps_and_entropies(trainer, model, *batch)[0]

    whole = imitation_loss(log_probs, PromptForm(trainer.processing_class), examples, torch.device("cpu"), 12)
    assert torch.allclose(gradient(map(part, (2, 3))), gradient([whole]), atol=1e-6, rtol=1e-4) and rows == [3, 2]
    few = trainer.args.per_device_train_batch_size = 1
    assert [len(share_of(examples, step, trainer.args)[0]) for step in (0, 1)] == [few, few]


def test_a_special_token_that_an_example_spells_out_is_text_unless_it_marks_thoughts(policy):
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|im_end|>"]})
    end, marks = tokenizer.eos_token, tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]"])
    text = f"[THINK]Set.[/THINK]The rate{end}<|im_end|>."
    ids = _token_ids(PromptForm(tokenizer), {"prompt": "Idea.", "completion": text}, 99)[1]
    assert [token for token in ids if token in tokenizer.all_special_ids] == [*marks, tokenizer.eos_token_id]
    assert ids[0] == marks[0] and ids[-1] == tokenizer.eos_token_id


def test_imitation_raises_the_likelihood_of_its_examples(policy, tmp_path):
    examples = [{"prompt": "Propose an idea.", "completion": "[Experiment] Set the rate."}]
    losses = {}
    for weight in (0.0, 2.0):
        learning = Learning(imitate=lambda index: examples, imitation_weight=weight)
        trainer = build(IdeatorGRPOTrainer, policy, arguments(tmp_path / str(weight), max_steps=6), learning=learning)
        trainer.train()
        losses[weight] = imitated(trainer, examples, 12)
    assert losses[2.0] < losses[0.0] - 0.5
