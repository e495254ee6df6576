"""Reads one answer of a coder: a patched codebase, or the fault that prevents it.

Guaranteed: nothing is applied from an answer that was or may be cut off, nor from a model's thoughts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ideator_rl.llm import Reply
from ideator_rl.llm.faults import MAX_QUOTED
from ideator_rl.patch import PatchError, Rules, Tree, patched_tree
from ideator_rl.patch.edit import Kind
from ideator_rl.text.display import shorten
from ideator_rl.text.thoughts import split_thoughts

DECLINED = re.compile(r"^[ \t*_>`]*CANNOT:[ \t*_]*(\S.*)", re.M)
"""How the prompt asks a coder to state that an idea cannot be done."""
_EDIT = re.compile(r"^(?:<{5,9} ?SEARCH|@@|diff --git )", re.M)


@dataclass(frozen=True)
class Fault:
    """Why an answer gives no codebase."""

    reason: str
    """One of the keys of REASONS."""
    message: str
    kind: Kind = "unpatchable"

    @property
    def final(self) -> bool:
        """Whether a revision is useless: the same conversation would get the same answer."""
        return self.reason in (REFUSED, GAVE_UP)


EMPTY, CUT_OFF, REFUSED, GAVE_UP = "empty", "cut off", "refused", "declined"
UNFIT, BROKE_RULE = "unfit", "rule"
REASONS = {
    EMPTY: "the answer held no text",
    CUT_OFF: "the answer was cut off, or ended for an unknown reason",
    REFUSED: "the model refused to answer",
    GAVE_UP: "the coder answered that the idea cannot be done",
    UNFIT: "the patch did not apply",
    BROKE_RULE: "the patched codebase broke a rule",
}
"""Each reason as a clause of an error message."""


def read_answer(reply: Reply, base: Tree, rules: Rules, baseline: Tree | None = None) -> Tree | Fault:
    """The codebase that an answer leads to, or its fault; see `patched_tree`."""
    if reply.finish == "length":
        return Fault(CUT_OFF, f"{reply.lack}; nothing was applied")
    if reply.finish == "refused":
        return Fault(REFUSED, f"the model refused: {shorten(reply.text, MAX_QUOTED)}")
    thoughts = split_thoughts(reply.text)
    text = thoughts.answer
    if reply.finish == "empty":
        return Fault(EMPTY, reply.lack)
    if not thoughts.ended:
        return Fault(EMPTY, "the answer held no whole text: the model's thoughts in it never end")
    if not text.strip():
        return Fault(EMPTY, "the answer held no text after the model's thoughts")
    try:
        return patched_tree(base, text, rules, baseline)
    except PatchError as error:
        if error.kind == "rejected":
            return Fault(BROKE_RULE, str(error), "rejected")
        # A patch may quote the word in a comment: only an answer without any edit declines.
        if (declined := DECLINED.search(text)) and not _EDIT.search(text):
            return Fault(GAVE_UP, f"the coder answered: {shorten(declined[1], MAX_QUOTED)}")
        return Fault(UNFIT, str(error))
