"""The format reward: 1 for a text that holds an idea in its form, 0 for any other.

What counts is `ideator_rl.ideas.parse_idea`, the same judge that decides whether an experiment is run; so the reward
only says earlier and more cheaply what `execution_reward` says by its failure reward, and it says it also of ideas that
then fail.  Sense is not looked at: `[Experiment] a [Code Changes] b [End]` earns 1.  It belongs beside the execution
reward with a small weight, or into a first phase, and never alone for long.

Option (a column, or `reward_options`): `format_strict`, false by default.  With it, 1 is only for *one* idea with
nothing but white space after its `[End]`: what stands there is never read, and several ideas in one text are a hedge.
"""

from __future__ import annotations

from ideator_rl.ideas import END, EXPERIMENT, Idea, MalformedIdea, parse_idea

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
        strict: nothing may stand after it, and no second `[Experiment]` before it.
    """
    idea = _idea(text)
    if idea is None or not strict:
        return idea is not None
    text = text.rstrip()
    closes = text.endswith(END) and _idea(text.removesuffix(END)) != idea  # no [End] before the last one ended it
    return closes and EXPERIMENT not in idea.thought


def _idea(text: str) -> Idea | None:
    try:
        return parse_idea(text)
    except MalformedIdea:
        return None
