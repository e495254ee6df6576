"""The reader of a model's thoughts: which characters of a text are thoughts, and which are the answer.

Marks in pairs: `<think>`, `<thinking>`, `<thought>`, `<reasoning>`, `<seed:think>`, `[THINK]`, `<|begin_of_thought|>`
and every tag with such a word in its name, in any case.  Channels: those of gpt-oss (harmony), with or without their
special tokens.  A closing mark without an opening one ends thoughts that the prompt's template opened: everything
before it is thought.  Thoughts without an end leave no answer.

Marks inside SEARCH/REPLACE blocks, hunks, patches and fences are code; marks in quotes, or in the middle of a sentence,
are words about marks.  In doubt a text counts as thought, because an answer is acted on.

Not covered: thoughts without any mark, and marks that a tokenizer dropped as special tokens (`[THINK]`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ideator_rl.text.code_spans import FENCE, Cover, Span, code_spans
from ideator_rl.text.thought_marks import (
    CONTEXT,
    Closings,
    Mark,
    after_thoughts,
    begins,
    is_mentioned,
    marks_in,
    unquoted,
)

_HEADER = re.compile(
    r"(?:<\|start\|>[^<\n]{0,80})?<\|channel\|>(?P<channel>(?:(?!<\|message\|>|<\|end\|>|<\|start\|>).){0,200})<\|message\|>",
    re.S,
)
_BODY_END = re.compile(r"<\|(?:end|return|call)\|>")
_BARE_CHANNEL = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?=\S)")
_BARE_SENTENCE = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)[A-Z][a-z']*[ ,]")
_BARE_FINAL = "assistantfinal"
_ANSWER = re.compile(r"<(?:final_)?answer>|<\|begin_of_solution\|>", re.I)
_FIELD = "field"


@dataclass(frozen=True)
class Thoughts:
    """A text with its thoughts marked."""

    text: str
    spans: tuple[Span, ...]
    """The thoughts with their marks, in order, without overlap."""
    ended: bool = True
    """Whether an answer may follow; False for thoughts that never end."""
    mentions: tuple[Span, ...] = ()
    """Pairs of marks inside one line of the answer: more likely words about marks than thoughts."""
    answer_starts: tuple[int, ...] = ()
    """Where the answer may begin in what is no thought: after a closing mark inside a sentence, or the first tag
    `<answer>`."""

    @property
    def answer(self) -> str:
        """The text without its thoughts."""
        starts = [0, *(end for _, end in self.spans)]
        ends = [*(start for start, _ in self.spans), len(self.text)]
        return "".join(self.text[start:end] for start, end in zip(starts, ends, strict=True))

    @property
    def thought(self) -> str:
        """The thoughts with their marks, without what follows the answer."""
        follows = self.ended and len(self.spans) > 1 and self.spans[-1][1] == len(self.text)
        spans = self.spans[:-1] if follows else self.spans
        return "".join(self.text[start:end] for start, end in spans)


def split_thoughts(text: str) -> Thoughts:
    """Which parts of a text are thoughts."""
    # Most texts have no mark at all, and then none of them need be placed.
    if "<|channel|>" not in text and not _BARE_CHANNEL.match(text) and not has_marks(text):
        return Thoughts(text, (), answer_starts=_answer_tag(text))
    code = code_spans(text, after_thoughts)
    return _harmony(text, code) or _bare_harmony(text) or _tagged(text, code)


def opening_mark(prompt: str) -> str:
    """The mark at the end of a prompt that opens thoughts; empty if it ends with none."""
    end = prompt.rstrip()
    for mark in marks_in(end[-CONTEXT:]):
        if not mark.closing and mark.end == min(len(end), CONTEXT):
            return prompt[len(end) - (mark.end - mark.start) :]
    return ""


def has_marks(text: str) -> bool:
    """Whether there is a mark of thoughts in a text."""
    return any(True for _ in marks_in(text))


def thoughts_from_field(text: str, field: str, are_all: bool) -> str:
    """Thoughts that came in a field of a message, as the beginning of a text.

    Args:
        are_all: nothing came in the content, so the thoughts stay open.
    """
    return f'<think {_FIELD}="{field}">\n{text}' if are_all else f"<think>\n{text}\n</think>\n"


def field_of_thoughts(text: str) -> str:
    """The field that all of a text came in, by `thoughts_from_field`; empty for any other text."""
    match = re.match(rf'<think {_FIELD}="([^"\n]*)">', text)
    return match[1] if match else ""


def _tagged(text: str, code: Sequence[tuple[Span, str]]) -> Thoughts:
    """Thoughts between tags."""
    outside_quotes = list(unquoted(text, marks_in(text)))
    in_code = Cover(span for span, _ in code)
    marks = [mark for mark in outside_quotes if mark.start not in in_code]
    mentioned = {mark.start for mark in marks if is_mentioned(text, mark)}
    closings = Closings([mark for mark in marks if mark.start not in mentioned])
    any_closings = Closings(marks)
    # A fence that the thoughts left open may have swallowed their closing mark.
    in_edit = Cover(span for span, kind in code if kind != FENCE)
    fenced = max(
        (m.end for m in outside_quotes if m.closing and m.start in in_code and m.start not in in_edit), default=0
    )
    spans: list[Span] = []
    mentions: list[Span] = []
    starts = list(_answer_tag(text))
    handled = 0  # marks before this position belong to a pair
    for mark in marks:
        if mark.start < handled:
            continue
        if mark.closing:
            # Its opening mark was in the prompt: whatever came before is thought, earlier answers too.
            if mark.start in mentioned:
                starts.append(mark.start)
            else:
                spans, mentions = [(0, mark.end)], []
            continue
        if mark.start in mentioned or not begins(text, mark, spans[-1][1] if spans else 0):
            # In the middle of a line, a pair on that line is a mention; a pair over several lines holds thoughts.
            same_line = any_closings.after(mark)
            if same_line and "\n" not in text[mark.end : same_line]:
                mentions.append((mark.start, same_line))
                handled = same_line
            elif mark.start not in mentioned and (end := closings.after(mark)):
                spans.append((mark.start, end))
                handled = end
            continue
        end = closings.after(mark) or (fenced if fenced > mark.end else None)
        if end is not None:
            spans.append((mark.start, end))
            handled = end
        # `[Thought]` may head a section; only the mark of Mistral's models opens thoughts without an end.
        elif not mark.in_brackets or text[mark.start : mark.end] in ("[THINK]", "[THINKING]"):
            return Thoughts(text, (*spans, (mark.start, len(text))), ended=False)
    return Thoughts(text, tuple(spans), mentions=tuple(mentions), answer_starts=tuple(sorted(starts)))


def _answer_tag(text: str) -> tuple[int, ...]:
    match = _ANSWER.search(text)
    return (match.start(),) if match else ()


def _harmony(text: str, code: Sequence[tuple[Span, str]]) -> Thoughts | None:
    """The channels of gpt-oss with their special tokens: the last one named final is the answer."""
    in_code = Cover(span for span, _ in code)

    def real(pattern: re.Pattern[str]) -> list[re.Match[str]]:
        matches = {match.start(): match for match in pattern.finditer(text)}
        marks = unquoted(text, (Mark(*match.span(), "channel", False) for match in matches.values()))
        return [matches[mark.start] for mark in marks if mark.start not in in_code]

    headers = real(_HEADER)
    if not headers:
        # A damaged header at the start has no message, so no answer either.
        starts = re.match(r"\s*(?:<\|start\|>\w*)?<\|channel\|>", text)
        return Thoughts(text, ((0, len(text)),), ended=False) if starts else None
    finals = [match for match in headers if match["channel"].strip().startswith("final")]
    if not finals:
        return Thoughts(text, ((0, len(text)),), ended=False)
    start = finals[-1].end()
    ends = [match.start() for match in (*headers, *real(_BODY_END)) if match.start() >= start]
    end = min(ends, default=len(text))
    return Thoughts(text, ((0, start), (end, len(text))) if end < len(text) else ((0, start),))


def _bare_harmony(text: str) -> Thoughts | None:
    """The same channels after a tokenizer dropped the special tokens: `analysisWe need …assistantfinal…`."""
    if not _BARE_CHANNEL.match(text):
        return None
    final = text.rfind(_BARE_FINAL)
    if final >= 0:
        return Thoughts(text, ((0, final + len(_BARE_FINAL)),))
    # Without the last channel, only a sentence shows that this is no path such as analysis/plot.py.
    return Thoughts(text, ((0, len(text)),), ended=False) if _BARE_SENTENCE.match(text) else None
