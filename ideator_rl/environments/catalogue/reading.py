"""Reads an idea's text as edits of a catalogue, by rules and without a model.

A sentence names an edit if it contains one of its names, outside what the sentence rejects ("instead of …", "replace …
with", "do not …", "without …").  Of overlapping names the longest counts.  A number is read next to its name ("learning
rate of 3e-3", "4 layers", "from 16 to 8"), or relative to the baseline ("double the batch size").  The thought is not
read.  Sentences that name no edit are reported, never guessed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from ideator_rl.environments.catalogue.edits import Choice, Edit
from ideator_rl.environments.catalogue.numbers import direction, factor, stated
from ideator_rl.ideas import Idea
from ideator_rl.patch import PatchError
from ideator_rl.text.thoughts import split_thoughts

SENTENCE = 400
"""Characters; longer sentences are read in pieces, which bounds the time that a hostile text can take."""
_STOP = r"(?=[,;:()|]|\b(?:with|by|use|uses|using|and|but|to|then|add|set|so|because|which)\b|$)"
_CONTRAST = re.compile(
    r"\b(?:instead of|rather than|in place of|in lieu of|as opposed to|unlike|compared (?:to|with)|than"
    rf"|not|don't|never|avoid\w*)\b(?: (?:to|use|using|add|set|adding))*.*?{_STOP}"
    r"|\((?:currently|current|was|from|baseline|default)\b[^)]*\)"
)
_REPLACED = re.compile(
    r"\b(?:replac(?:e|es|ing)|swap(?:s|ping)?|exchang(?:e|es|ing)|(?:switch(?:es|ing)?|mov(?:e|es|ing)) from)"
    r"\b(?P<old>[^,;|]*?)\b(?:with|by|for|to)\b|(?P<passive>[^,;|]*)\breplaced (?:with|by)\b"
)
_REMOVED = re.compile(
    r"\b(?:without|no|remov\w+|delet\w+|disabl\w+|drop(?:s|ping|ped)?|turn(?:s|ing)? off|get(?:ting)? rid of"
    rf"|eliminat\w+|omit\w*)\b(?: (?:using|any))*(?P<removed>.*?){_STOP}"
)
_KEPT = re.compile(
    r"\b(?:keep\w*|leav\w+|hold\w*)\b[^,;|]*?\b(?:unchanged|the same|as is|as it is|as they are|constant"
    r"|fixed|intact|at (?:its|their|the) (?:default|baseline)\w*)\b"
)
_IT = re.compile(r"\b((?:increas|rais|lower|reduc|decreas|chang|set|mov|bump|doubl|halv|tripl)\w*) (?:it|this)\b")
_DASH = re.compile(r"(?<=\de)-(?=\d)|(?<![\w.)\]}%])-(?=\.?\d)|([-_`*\"—])")
"""A dash in an exponent and the sign of a number stay; group 1 is what only joins or marks words."""
_WORDS = dict(two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10, twelve=12, sixteen=16)


@dataclass(frozen=True)
class Reading:
    choices: tuple[Choice, ...]
    missed: tuple[str, ...]
    """Sentences of the code changes that named no edit."""


@dataclass(frozen=True)
class _Span:
    """A name in a sentence, from `start` to `end`."""

    start: int
    end: int
    edit: Edit
    factor: float | None = None
    """The multiple of the baseline's value that the name itself means ("deeper")."""
    weak: bool = False


@dataclass(frozen=True)
class _Mention:
    edit: Edit
    value: float | None
    """None: the text names the edit without a number."""
    exact: bool
    """The number is stated, not relative to the baseline."""
    weak: bool = False
    """Dropped if another edit of the family is named."""


def read(edits: dict[str, Edit], idea: Idea, numbers: dict[str, float]) -> Reading:
    """The edits that an idea names.  `numbers` holds the baseline's value of every number edit.

    Raises:
        PatchError: (unpatchable) no known edit, a value out of range, or two values for one number.
    """
    mentions: dict[str, list[_Mention]] = {}
    missed = []
    last = ""
    for section, is_code in ((idea.experiment, False), (idea.changes, True)):
        for original, sentence in _sentences(split_thoughts(section).answer):
            # "increase it": the pronoun means the last setting that was named.
            if last:
                sentence = _IT.sub(rf"\1 {last}", sentence)
            last = _last_setting(edits, sentence) or last
            in_sentence = list(_mentions(edits, sentence, numbers))
            if is_code and not in_sentence:
                missed.append(original)
            for mention in in_sentence:
                mentions.setdefault(mention.edit.key, []).append(mention)
    keys = [key for key in edits if key in mentions and not _gives_way(mentions[key], mentions)]
    if not keys:
        excerpt = _short(f"{idea.experiment} {idea.changes}")
        raise PatchError(
            f"The idea {excerpt!r} names no edit of the catalogue, with a value where it needs one; "
            f"the catalogue has: {', '.join(edits)}."
        )
    return Reading(tuple(_choice(mentions[key], numbers.get(key)) for key in keys), tuple(missed))


def _last_setting(edits: dict[str, Edit], sentence: str) -> str:
    """The last name of a number edit in a sentence, which "it" means in the next sentence."""
    spans = [span for span in _longest(edits, sentence) if span.edit.assign is not None and span.factor is None]
    return sentence[spans[-1].start : spans[-1].end] if spans else ""


def _gives_way(own: list[_Mention], mentions: dict[str, list[_Mention]]) -> bool:
    """Whether an edit is dropped, since another edit that excludes it is named."""
    edit = own[0].edit
    if any(key in mentions for key in edit.unless):
        return True
    family = [key for key, group in mentions.items() if key != edit.key and group[0].edit.family == edit.family]
    return bool(family) and all(mention.weak for mention in own)


def _choice(mentions: list[_Mention], base: float | None) -> Choice:
    """The edit with the value that its mentions agree on.

    Raises:
        PatchError: two values, none where one is needed, or one out of range.
    """
    edit = mentions[0].edit
    if edit.parameter is None:
        return Choice(edit.key)
    exact = {m.value for m in mentions if m.exact and m.value is not None}
    if len(exact) > 1:
        exact -= {base}  # "from 16 to 8" states the baseline's value too
    if len(exact) > 1:
        listed = " and ".join(f"{value:g}" for value in sorted(exact))
        raise PatchError(f"The idea gives {edit.key} {len(exact)} values, {listed}; one is expected.")
    relative = [m.value for m in mentions if m.value is not None]
    if exact:
        value: float | None = exact.pop()
    else:
        value = relative[0] if relative else edit.parameter.default
        # A factor of a few hundred digits is infinite, and not a number times a baseline of 0: `accept` refuses both.
        if value is not None and edit.parameter.whole and math.isfinite(value):
            value = round(value)
    if value is None:
        raise PatchError(f"The idea names {edit.key} without a value.")
    return Choice(edit.key, edit.parameter.accept(edit.key, value))


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """Sentences as written, and as the patterns read them."""
    text = re.sub(r"\be\.g\.", "eg", text)
    for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text):
        for start in range(0, len(sentence), SENTENCE):
            piece = sentence[start : start + SENTENCE]
            if plain := _normal(piece):
                yield piece.strip(), plain


def _normal(text: str) -> str:
    """Lower case; hyphens, underscores and code marks are spaces; numbers in one spelling."""
    text = re.sub(r"(?<![\d.×x*])(?<![×x*] )10⁻(?=[⁰¹²³⁴-⁹])", "1e-", text)
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"[−‐–]", "-", re.sub(r"(?<=\d)\.(?=e-?\d)", "", text))
    text = re.sub(r"(\d(?:\.\d+)?) ?[×x*] ?10 ?\^?\{? ?- ?(\d+)\}?", r"\1e-\2", text)
    text = re.sub(r"(?<![\d.])10 ?(?:\^|\*\*) ?\{? ?- ?(\d+)\}?", r"1e-\1", text)
    text = re.sub(r"→|-+>", " to ", text)
    text = re.sub(r"\b(?:minus|negative) (?=\.?\d)", "-", text)
    text = re.sub(r"(?<![\w.)\]}%])\+(?=\.?\d)|\$", " ", text)
    text = _DASH.sub(lambda match: " " if match[1] else match[0], text)
    text = re.sub(r"\b1 ?/ ?sqrt\b", "inverse sqrt", text)
    text = re.sub(r"\s*(=|×)\s*", r" \1 ", text)
    text = re.sub(r"\b(?:one|a single|single)(?= (?:transformer |attention )?(?:layer|head)\b)", "1", text)
    text = re.sub(r"\b[a-z]+\b", lambda m: str(_WORDS.get(m[0], m[0])), text)
    return re.sub(r"\s+", " ", text.rstrip(" .!?;")).strip()


def _mentions(edits: dict[str, Edit], sentence: str, numbers: dict[str, float]) -> Iterator[_Mention]:
    """The edits that a sentence names."""
    text, removed = _without_rejected(sentence)
    for edit in edits.values():
        if any(pattern.search(phrase) for pattern in edit.absent for phrase in removed):
            yield _Mention(edit, edit.absent_value, exact=edit.absent_value is not None)
    spans = _longest(edits, text)
    for n, span in enumerate(spans):
        # A number belongs to a name if no other name is between them.
        left = spans[n - 1].end if n else 0
        right = min((s.start for s in spans[n + 1 :] if s.edit is not span.edit), default=len(text))
        base = numbers.get(span.edit.key)
        mention = _mention(span, text[left : span.start], text[span.end : right], text, base)
        if mention.value is not None or not span.edit.needs_value:
            yield mention


def _mention(span: _Span, before: str, after: str, sentence: str, base: float | None) -> _Mention:
    edit = span.edit
    if edit.parameter is None:
        return _Mention(edit, None, exact=False, weak=span.weak)
    steady = edit.guard is not None and edit.guard.search(sentence) is not None
    if base is not None and span.factor is not None:
        return _Mention(edit, base * span.factor, exact=False)
    if base is not None and not steady and (times := factor(before, after)) is not None:
        return _Mention(edit, base * times, exact=False)
    if (value := stated(before, after, adjacent=edit.assign is not None, steady=steady)) is not None:
        return _Mention(edit, value, exact=True, weak=span.weak)
    if base is not None and not steady and (times := direction(before)) is not None:
        return _Mention(edit, base * times, exact=False)
    return _Mention(edit, None, exact=False, weak=span.weak)


def _without_rejected(sentence: str) -> tuple[str, list[str]]:
    """The sentence with rejected phrases blanked out at equal length, and the phrases that it removes."""
    removed = []

    def blank(match: re.Match[str], group: str | int = 0) -> str:
        phrase, (start, end) = match[0], match.span(group)
        return phrase[: start - match.start()] + "|" * (end - start) + phrase[end - match.start() :]

    def replaced(match: re.Match[str]) -> str:
        group = "old" if match["old"] is not None else "passive"
        return match[0] if re.search(r"\d", match[group]) else blank(match, group)

    def remove(match: re.Match[str]) -> str:
        removed.append(match["removed"])
        return blank(match)

    sentence = _KEPT.sub(blank, sentence)
    sentence = _CONTRAST.sub(blank, _REPLACED.sub(replaced, sentence))
    return _REMOVED.sub(remove, sentence), removed


def _longest(edits: dict[str, Edit], text: str) -> list[_Span]:
    """Names in the text in order, without overlaps; longer names win, then earlier ones."""
    spans = []
    for edit in edits.values():
        kinds = (
            (edit.names, None, False),
            (edit.up, 2.0, False),
            (edit.down, 0.5, False),
            (edit.weak, None, True),
        )
        for patterns, times, weak in kinds:
            for pattern in patterns:
                spans += [_Span(*m.span(), edit, times, weak) for m in pattern.finditer(text) if m[0]]
    chosen: list[_Span] = []
    for span in sorted(spans, key=lambda s: (s.start - s.end, s.start)):
        if all(span.end <= s.start or span.start >= s.end for s in chosen):
            chosen.append(span)
    return sorted(chosen, key=lambda s: s.start)


def _short(text: str, length: int = 120) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[:length] + "…"
