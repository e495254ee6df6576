"""The format reward: 1 for a text that holds an idea in its form, 0 for any other.

`ideator_rl.ideas.parse_idea` decides, as it does for whether an experiment is run.  So the reward repeats, earlier and
more cheaply, what `execution_reward` shows by its failure reward; ideas that fail later earn it too.  Sense is not
judged: `[Experiment] a [Code Changes] b [End]` earns 1.  Use it with the execution reward at a small weight, or in a
first phase, and never alone for long.

Option (a column, or `reward_options`): `format_strict`, false by default.  If true, only a text with *one* idea, and
with nothing but white space after its `[End]`, earns 1: later text is never read, and several ideas are a hedge.
"""

from __future__ import annotations

from ideator_rl.ideas import END, EXPERIMENT, Idea, MalformedIdea, parse_idea
from ideator_rl.text.thoughts import split_thoughts

from .support.decorator import Call
from .support.options import Option
from .support.shaping import Worth, shaping

OPTIONS = {"format_strict": Option(False)}


@shaping(OPTIONS)
def format_reward(call: Call) -> Worth:
    """1 for every completion that holds an idea, else 0; None where its experiment is lost.

    Raises:
        IdeatorError: an option cannot be what it is.
    """
    return Worth([float(holds_idea(text, call.options["format_strict"])) for text in call.texts])


def holds_idea(text: str, strict: bool = False) -> bool:
    """Whether a completion holds an idea.

    Args:
        strict: no text may follow it, and no second `[Experiment]` may precede it outside a model's marked thoughts.
    """
    idea = _idea(text)
    if idea is None or not strict:
        return idea is not None
    text = text.rstrip()
    closes = text.endswith(END) and _idea(text.removesuffix(END)) != idea  # no [End] before the last one ended it
    return closes and EXPERIMENT not in split_thoughts(idea.thought).answer


def _idea(text: str) -> Idea | None:
    try:
        return parse_idea(text)
    except MalformedIdea:
        return None
