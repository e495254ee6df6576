"""Reward functions: of the experiment, of the words, and of the patch."""

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.patch.cells import cell_of
from ideator_rl.reward import RowReward
from old_plugin import note
from rewards.execution import execution_reward, outcomes, text_of
from rewards.options import Option
from rewards.shaping import Call, Worth, shaping
from rewards.simplicity import size


async def altitude_reward(prompts, completions, trainer_state=None, log_metric=None, **columns):
    """A tenth of the altitude of each row's experiment; 0 for a failure, None for what was lost."""
    rewards = [None] * len(completions)
    async for each in altitude_as_completed(prompts, completions, trainer_state=trainer_state, **columns):
        rewards[each.row] = each.reward
    return rewards


async def altitude_as_completed(prompts, completions, trainer_state=None, log_metric=None, **columns):
    columns.pop("log_extra", None)
    columns.pop("completion_ids", None)
    async for row, record, _ in outcomes(completions, columns, trainer_state):
        reward = None if record.status == LOST else 0.0
        if record.status == SUCCEEDED and record.metric is not None:
            reward = record.metric["value"] / 10
        note("altitude", reward=reward, text=text_of(completions[row]))
        yield RowReward(row, reward, record.status, record.id, cell_of(record.patch) if record.patch else "")


altitude_reward.as_completed = altitude_as_completed
altitude_reward.runs_experiments = execution_reward.runs_experiments
altitude_reward.options = {}


@shaping({"brief_words": Option(100, least=1)})
def brief_reward(call: Call) -> Worth:
    """1 for an idea of at most so many words, else 0."""
    most = call.options["brief_words"]
    if most > 10_000:
        raise IdeatorError("brief_words is no limit.")
    note("brief", most=most)
    return Worth([float(_words(text) <= most) for text in call.texts])


def _words(text: str) -> float:
    try:
        return len(parse_idea(text).text.split())
    except MalformedIdea:
        return float("inf")


@shaping({}, needs_experiments=True)
def lean_reward(call: Call) -> Worth:
    """1 / (1 + changed lines) of a success."""

    def judged(row: int, record: Experiment) -> float:
        note("lean", status=record.status)
        return 1 / (1 + size(record.patch)[0]) if record.status == SUCCEEDED else 0.0

    return Worth([0.0] * len(call.texts), judged)
