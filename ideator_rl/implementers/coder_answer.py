"""One answer of a coder, read as what it is: a codebase, or the reason why it is none.

Guaranteed: nothing of an answer that was cut off is ever applied, nor anything that stands in a model's thoughts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ideator_rl.llm import Reply
from ideator_rl.patch import PatchError, Rules, Tree, patched_tree
from ideator_rl.patch.edit import Kind

DECLINED = re.compile(r"^[ \t*_>`]*CANNOT:[ \t*_]*(\S.*)", re.M)
"""How the prompt asks a coder to say that an idea cannot be done."""
_OPENED = re.compile(r"\s*<think(?:ing)?>")
_CLOSED = re.compile(r"</think(?:ing)?>")
_LONE = re.compile(r"^</think(?:ing)?>[ \t]*$", re.M)
_EDIT = re.compile(r"^(?:<{5,9} ?SEARCH|@@|diff --git )", re.M)
_BLOCK_EDGE = re.compile(r"^(?:<{5,9} ?SEARCH|>{5,9} ?REPLACE|`{3,}|~{3,})", re.M)


@dataclass(frozen=True)
class Fault:
    """Why no codebase came out of an answer."""

    reason: str
    """One of the values of REASONS."""
    message: str
    kind: Kind = "unpatchable"

    @property
    def final(self) -> bool:
        """Asking the same conversation again would only get the same again."""
        return self.reason in (REFUSED, GAVE_UP)


EMPTY, CUT_OFF, REFUSED, GAVE_UP = "empty", "cut off", "refused", "declined"
UNFIT, BROKE_RULE = "unfit", "rule"
REASONS = {
    EMPTY: "the answer held no text",
    CUT_OFF: "the answer was cut off at its greatest length",
    REFUSED: "the model refused to answer",
    GAVE_UP: "the coder said that the idea cannot be done",
    UNFIT: "the patch did not apply",
    BROKE_RULE: "the patched codebase broke a rule",
}
"""In words for a person."""


def read_answer(reply: Reply, base: Tree, rules: Rules) -> Tree | Fault:
    """The codebase that an answer leads to, or what is wrong with it."""
    if reply.finish == "length":
        return Fault(CUT_OFF, f"the answer was cut off after {reply.completion_tokens} tokens, and nothing was applied")
    if reply.finish == "refused":
        return Fault(REFUSED, f"the model refused: {_start(reply.text)}")
    text = without_thoughts(reply.text)
    if reply.finish == "empty" or not text.strip():
        return Fault(EMPTY, "the answer held no text" + (" after the model's thoughts" if reply.text.strip() else ""))
    try:
        return patched_tree(base, text, rules)
    except PatchError as error:
        if error.kind == "rejected":
            return Fault(BROKE_RULE, str(error), "rejected")
        if (said := DECLINED.search(text)) and not _EDIT.search(text):
            return Fault(GAVE_UP, f"the coder said: {_start(said[1])}")
        return Fault(UNFIT, str(error))


def without_thoughts(text: str) -> str:
    """An answer without what a reasoning model wrote before it; nothing if the thoughts never end.

    Some servers cut off the mark that opens the thoughts: a closing mark on a line of its own, outside of blocks and
    fences, then ends them.
    """
    if opened := _OPENED.match(text):
        closed = _CLOSED.search(text, opened.end())
        return text[closed.end() :] if closed else ""
    for lone in _LONE.finditer(text):
        if len(_BLOCK_EDGE.findall(text, 0, lone.start())) % 2 == 0:
            return text[lone.end() :]
    return text


def _start(text: str, length: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[:length] + "…"
