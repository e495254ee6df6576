"""Why a search ended, and its patience with questions that lead to nothing new.

An ideator that only repeats itself would use up no budget, and be paid for ever.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ideator_rl.experiment import LOST, NEAR_DUPLICATE, Experiment
from ideator_rl.llm.faults import MAX_QUOTED
from ideator_rl.search.config import SearchConfig
from ideator_rl.text.display import shorten

KNOWN = "known already"
"""An outcome: the codebase is one that this search has asked for before."""


@dataclass(frozen=True)
class StopReason:
    """Why a search ended."""

    budget: str
    """The recipe key that ended it."""
    text: str
    """For a person."""


def used_up(config: SearchConfig, experiments: int, ideas: int, epochs: int, seconds: float) -> StopReason | None:
    """The budget of the recipe that is used up; None while all have room.

    Args:
        epochs: whose ideas were all proposed.
        seconds: wall seconds.
    """
    if config.max_experiments is not None and experiments >= config.max_experiments:
        return StopReason("max_experiments", f"{experiments} experiments were run, the most that the recipe allows")
    if config.max_ideas is not None and ideas >= config.max_ideas:
        return StopReason("max_ideas", f"{ideas} ideas were proposed, the most that the recipe allows")
    if config.max_epochs is not None and epochs >= config.max_epochs:
        return StopReason("max_epochs", f"{epochs} epochs have ended")
    if config.max_seconds is not None and seconds >= config.max_seconds:
        return StopReason("max_seconds", f"{seconds:.0f} seconds have passed")
    return None


class Patience:
    """Counts questions in a row that led to no new codebase, and what became of the ideas that answered them.

    Only the event loop of the search reads and writes it.

    Args:
        limit: such questions after which a search ends.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._productive: set[int] = set()
        """Questions with open answers that led to a new codebase."""
        self._questions = 0
        """In a row without a new codebase.  This and the next two are reset by a question that led to one."""
        self._outcomes: Counter[str] = Counter()
        self._message = ""
        """Of the last outcome that has one."""

    def outcome(self, question: int, record: Experiment, is_new: bool) -> None:
        """An idea that answers this question has an outcome.

        Args:
            is_new: it led to a codebase that this search had not asked for.
        """
        if is_new:
            self._productive.add(question)
            return
        if record.error_kind == NEAR_DUPLICATE:
            outcome = "near-duplicates"
        else:
            outcome = KNOWN if record.tree and record.status != LOST else record.status
        self._outcomes[outcome] += 1
        if record.error is not None and outcome != KNOWN:
            self._message = shorten(record.error.get("message", ""), MAX_QUOTED)

    def screened(self, count: int) -> None:
        """A screen dropped all answers of a round, so many, since they are known or cannot be run."""
        if count:
            self._outcomes["known or unusable"] += count

    def question_ended(self, question: int) -> None:
        """All answers to a question have an outcome."""
        self._questions += 1
        if question in self._productive:
            self._productive.remove(question)
            self._questions = 0
            self._outcomes.clear()
            self._message = ""

    def reason(self) -> StopReason | None:
        """Why the search has to end; None while it may go on."""
        if self._questions < self._limit:
            return None
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self._outcomes.most_common())
        message = f". The last message: {self._message.rstrip('.')}" if self._message else ""
        text = f"the last {self._questions} questions led to no new codebase. Their ideas: {outcomes or 'none'}"
        return StopReason("patience", text + message)
