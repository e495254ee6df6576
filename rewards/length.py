"""The length reward: a bonus for a long thought, the second of three remedies that Si et al. (arXiv 2601.14525) tried.

    length_most · min(1, length / length_cap)

Length is that of the thought: the text before the idea, and the `reasoning_content` or `thinking` of a message, which
TRL fills.  A text without an idea earns no bonus.  The length is counted in tokens where `completion_ids` are given,
else in words:

- tokens: the completion's ids times the thought's share of its visible characters (all but white space).  A reward
  function gets no tokenizer, so this is an estimate; tokens without text, or with white space only, count for no more
  than one for each visible character of the thought.
- words: runs of visible characters; one longer than `WORD` characters is cut into pieces of that length.

Repetition counts once: the length is multiplied by the share of the thought's trigrams of words that are distinct,
close to 1 for prose and near 0 for one sentence over and over.  That is ours; `length_repeats: true` leaves it out,
for the plain bonus.

The reward cannot distinguish thinking from chatter, and policies exploit that: with such a bonus the thoughts of a
simulated policy grew by padding while 97 % of its ideas stayed simple, and in the paper it did not help.

Options (columns, or `reward_options`): `length_most`, 0.3, the paper's; `length_cap`, 1000, the length that earns it
all, our choice; `length_unit`, `tokens` or `words`; `length_repeats`, false.
"""

from __future__ import annotations

from ideator_rl.ideas import MalformedIdea, parse_idea

from .support.decorator import Call
from .support.options import Option
from .support.shaping import Worth, shaping

OPTIONS = {
    "length_most": Option(0.3, least=0),
    "length_cap": Option(1000.0, least=1),
    "length_unit": Option("tokens", among=("tokens", "words")),
    "length_repeats": Option(False),
}
WORD = 20
"""Characters; hardly a word of any language is longer, and scripts without spaces are not one word."""


@shaping(OPTIONS)
def length_reward(call: Call) -> Worth:
    """The bonus for the length of every completion's thought, from 0 to `length_most`; None where its experiment is
    lost.

    Raises:
        IdeatorError: an option cannot be what it is.
    """
    most, cap = call.options["length_most"], call.options["length_cap"]
    tokens = call.options["length_unit"] == "tokens" and call.completion_ids is not None
    counts = [len(ids) for ids in call.completion_ids] if tokens and call.completion_ids else [None] * len(call.texts)
    lengths = [
        thought_length(text, count, reasoning, call.options["length_repeats"])
        for text, count, reasoning in zip(call.texts, counts, call.reasoning, strict=True)
    ]
    if lengths:
        call.log("length/thought", sum(lengths) / len(lengths))
    return Worth([most * min(1.0, length / cap) for length in lengths])


def thought_length(text: str, tokens: int | None = None, reasoning: str = "", repeats: bool = False) -> float:
    """The length of a completion's thought; 0 without an idea.

    Args:
        tokens: of the whole completion; None to count words.
        reasoning: the part of the thought that is not in the text.
        repeats: count repetitions in full.
    """
    try:
        thought = f"{reasoning} {parse_idea(text).thought}"
    except MalformedIdea:
        return 0.0
    pieces = [word[at : at + WORD] for word in thought.split() for at in range(0, len(word), WORD)]
    visible = sum(map(len, pieces))
    if not visible:
        return 0.0
    length = (
        len(pieces) if tokens is None else min(tokens * visible / sum(map(len, f"{reasoning} {text}".split())), visible)
    )
    return length if repeats else length * _distinct(pieces)


def _distinct(pieces: list[str]) -> float:
    """The share of trigrams that are distinct, by letters and digits; of pieces themselves where there are fewer."""
    plain = ["".join(filter(str.isalnum, piece.casefold())) for piece in pieces]
    grams: list[tuple[str, ...]] = list(zip(plain, plain[1:], plain[2:], strict=False))
    grams = grams or [(piece,) for piece in plain]
    return len(set(grams)) / len(grams)
