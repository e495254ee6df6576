"""Reads an idea's words as edits of a catalogue: rules, no model.

An edit is meant where one of its names stands in a sentence, outside what the sentence rejects ("instead of …",
"replace … with", "do not …", "without …").  Where names overlap, the longest counts.  A number is read next to its
name ("learning rate of 3e-3", "4 layers", "from 16 to 8"), or relative to the baseline ("double the batch size").
The thought is not read.  What was not understood is reported, never guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from ideator_rl.catalogue_edits import Choice, Edit
from ideator_rl.ideas import Idea
from ideator_rl.patch import PatchError

NUMBER = r"(?<![\w.])(\d+(?:,\d{3})+|\d*\.?\d+(?:e-?\d+)?)(?! ?(?:gb|mb|gpus?|seconds?|minutes?)\b)( ?%| percent)?(?![\w])"
_STOP = r"(?=[,;:()|]|\b(?:with|by|use|uses|using|and|but|to|then|add|set|so|because|which)\b|$)"
_CONTRAST = re.compile(
    r"\b(?:instead of|rather than|in place of|in lieu of|as opposed to|unlike|compared (?:to|with)|than"
    rf"|not|don't|never|avoid\w*)\b(?: (?:to|use|using|add|set|adding))*.*?{_STOP}"
)
_REPLACED = re.compile(
    r"\b(?:replac(?:e|es|ing)|swap(?:s|ping)?|exchang(?:e|es|ing)|switch(?:es|ing)? from|mov(?:e|es|ing) from)\b"
    r"(?P<old>[^,;|]*?)\b(?:with|by|for|to)\b|(?P<passive>[^,;|]*)\breplaced (?:with|by)\b"
)
_REMOVED = re.compile(
    r"\b(?:without|no|remov\w+|delet\w+|disabl\w+|drop(?:s|ping|ped)?|turn(?:s|ing)? off|get(?:ting)? rid of"
    rf"|eliminat\w+|omit\w*)\b(?: (?:using|any))*(?P<what>.*?){_STOP}"
)
_KEPT = re.compile(
    r"\b(?:keep\w*|leav\w+|hold\w*)\b[^,;|]*?\b(?:unchanged|the same|as is|as it is|as they are|constant|fixed|intact"
    r"|at (?:its|their|the) (?:default|baseline)\w*)\b"
)
_FILL = r"(?: (?:the|a|an|our|its|number|value|of|model|total|peak|overall))*"
_MORE = r"(?:rais\w+|increas\w+|higher|larger|bigger|more|greater|boost\w*|enlarg\w+)"
_LESS = r"(?:lower\w*|reduc\w+|decreas\w+|smaller|fewer|less|shrink\w*|cut\w*)"
_TIMES = {"doubl": 2.0, "twice": 2.0, "tripl": 3.0, "quadrupl": 4.0, "halv": 0.5, "half": 0.5}
_WORDS = {
    w: str(n) for n, w in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)
}
_WORDS["sixteen"] = "16"


@dataclass(frozen=True)
class Reading:
    choices: tuple[Choice, ...]
    missed: tuple[str, ...]
    """Sentences of the code changes that named no edit."""


@dataclass(frozen=True)
class _Mention:
    edit: Edit
    value: float | None
    """None: the words name the edit without a number."""
    exact: bool
    """The number is stated, not relative to the baseline."""


def read(edits: dict[str, Edit], idea: Idea, numbers: dict[str, float]) -> Reading:
    """The edits that an idea names.  `numbers` holds the baseline's value of every number edit.

    Raises:
        PatchError: (unpatchable) no known edit, a value out of range, or two values for one number.
    """
    mentions: dict[str, list[_Mention]] = {}
    missed = []
    for section, wanted in ((idea.experiment, False), (idea.changes, True)):
        for original, sentence in _sentences(section):
            found = list(_sentence(edits, sentence, numbers))
            if wanted and not found:
                missed.append(original)
            for mention in found:
                mentions.setdefault(mention.edit.key, []).append(mention)
    named = [key for key in edits if key in mentions and not any(k in mentions for k in edits[key].unless)]
    if not named:
        raise PatchError(
            f"The idea {_short(idea.experiment + ' ' + idea.changes)!r} names no edit, with a value where it needs "
            f"one, that the catalogue knows; it knows: {', '.join(edits)}."
        )
    return Reading(tuple(_choice(mentions[key], numbers.get(key)) for key in named), tuple(missed))


def _choice(mentions: list[_Mention], base: float | None) -> Choice:
    edit = mentions[0].edit
    if edit.parameter is None:
        return Choice(edit.key)
    exact = {m.value for m in mentions if m.exact}
    if len(exact) > 1:
        exact.discard(base)
    if len(exact) > 1:
        listed = " and ".join(f"{value:g}" for value in sorted(v for v in exact if v is not None))
        raise PatchError(f"The idea gives {edit.key} {len(exact)} values, {listed}; one is expected.")
    stated = exact or {m.value for m in mentions if m.value is not None} or {edit.parameter.default}
    value = next(iter(stated))
    if value is None:
        raise PatchError(f"The idea names {edit.key} without a value.")
    whole = round(value) if edit.parameter.whole and not exact else value
    return Choice(edit.key, edit.parameter.accept(edit.key, whole))


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"(?<=[.!?;])\s+|\n+", text):
        if plain := _normal(part):
            yield part.strip(), plain


def _normal(text: str) -> str:
    """Lower case; hyphens, underscores and code marks are spaces; numbers in one spelling."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("−", "-")
    text = re.sub(r"(\d(?:\.\d+)?) ?[×x*] ?10 ?\^?\{? ?- ?(\d+)\}?", r"\1e-\2", text)
    text = re.sub(r"→|-+>", " to ", text)
    text = re.sub(r"(?<!\de)-|-(?!\d)|[_`*\"–—]", " ", text)
    text = re.sub(r"\b1 ?/ ?sqrt\b", "inverse sqrt", text)
    text = re.sub(r"\s*(=|×)\s*", r" \1 ", text)
    text = re.sub(r"\b(?:one|a single|single)(?= (?:transformer |attention )?(?:layer|head)\b)", "1", text)
    text = re.sub(r"\b[a-z]+\b", lambda m: _WORDS.get(m[0], m[0]), text)
    return re.sub(r"\s+", " ", text.rstrip(" .!?;")).strip()


def _sentence(edits: dict[str, Edit], sentence: str, numbers: dict[str, float]) -> Iterator[_Mention]:
    kept, removed = _without_rejected(sentence)
    for edit in edits.values():
        if any(p.search(part) for p in edit.absent for part in removed):
            yield _Mention(edit, edit.absent_value, exact=edit.absent_value is not None)
    spans = _longest(edits, kept)
    for n, (start, end, edit) in enumerate(spans):
        left = max((e for _, e, _ in spans[:n]), default=0)
        right = min((s for s, _, other in spans[n + 1 :] if other is not edit), default=len(kept))
        before, after = kept[left:start], kept[end:right]
        value, exact = _value(edit, before, after, kept, numbers.get(edit.key))
        if (
            value is not None
            or edit.assign is None
            or edit.parameter is not None
            and edit.parameter.default is not None
        ):
            yield _Mention(edit, value, exact)
    for edit in edits.values():
        for patterns, factor in ((edit.up, 2.0), (edit.down, 0.5)):
            if any(p.search(kept) for p in patterns):
                yield _Mention(edit, numbers[edit.key] * factor, exact=False)


def _without_rejected(sentence: str) -> tuple[str, list[str]]:
    """The sentence with what it rejects blanked out (lengths kept), and the things it removes."""
    removed = []

    def blank(match: re.Match[str], group: str | int = 0) -> str:
        whole, (start, end) = match[0], match.span(group)
        return whole[: start - match.start()] + "|" * (end - start) + whole[end - match.start() :]

    def replaced(match: re.Match[str]) -> str:
        group = "old" if match["old"] is not None else "passive"
        return match[0] if re.search(r"\d", match[group]) else blank(match, group)

    def remove(match: re.Match[str]) -> str:
        removed.append(match["what"])
        return blank(match)

    sentence = _KEPT.sub(blank, sentence)
    sentence = _CONTRAST.sub(blank, _REPLACED.sub(replaced, sentence))
    return _REMOVED.sub(remove, sentence), removed


def _longest(edits: dict[str, Edit], text: str) -> list[tuple[int, int, Edit]]:
    """Spans of names, none overlapping, in order; longer ones win, then earlier ones."""
    found = [
        (m.start(), m.end(), e) for e in edits.values() for p in e.names for m in p.finditer(text) if m[0]
    ]
    chosen: list[tuple[int, int, Edit]] = []
    for start, end, edit in sorted(found, key=lambda f: (f[0] - f[1], f[0])):
        if all(end <= s or start >= e for s, e, _ in chosen):
            chosen.append((start, end, edit))
    return sorted(chosen, key=lambda f: f[0])


def _value(
    edit: Edit, before: str, after: str, sentence: str, base: float | None
) -> tuple[float | None, bool]:
    """The number that goes with a name, and whether it is stated (else relative to the baseline, or absent)."""
    if edit.parameter is None:
        return None, False
    guarded = edit.guard is not None and edit.guard.search(sentence) is not None
    if base is not None and not guarded and (factor := _factor(before, after)) is not None:
        return base * factor, False
    match = re.search(rf"(?<!from ){NUMBER}(?: steps?)? ?(?:of )?$", before)
    match = (
        match or _after(edit, after, guarded) or re.search(rf"{NUMBER} (?:as|for|in)(?: the| a)? $", before)
    )
    if match:
        return float(match[1].replace(",", "")) / (100 if match[2] else 1), True
    if base is not None and not guarded:
        for words, factor in ((_MORE, 2.0), (_LESS, 0.5)):
            if re.search(rf"\b{words}{_FILL} $", before):
                return base * factor, False
    return None, False


def _after(edit: Edit, after: str, guarded: bool) -> re.Match[str] | None:
    """The number after a name: close by for a setting, within a few words for an algorithm."""
    if edit.assign is None:
        return re.match(rf"[^\d,;|]{{0,45}}?{NUMBER}", after)
    about = r"(?:about |around |roughly |just )?"
    change = re.match(
        rf"(?: (?:of|value))*(?: = | )?(?:from )?{about}\(?{NUMBER}\)? (?:to|with|by) {about}", after
    )
    if change and not guarded and (second := re.match(NUMBER, after[change.end() :])):
        return second
    links = r"of|=|:|at|is|as|be|equal|equals|value" + (
        "" if guarded else r"|to|set|changed|raised|lowered|increased|reduced"
    )
    return re.match(rf"\)?(?: ?\b(?:{links})\b| ?[=:])* ?{about}\(?{NUMBER}", after)


def _factor(before: str, after: str) -> float | None:
    """How many times the baseline's value, where the words say so."""
    if match := re.search(rf"\b(doubl|twice|tripl|quadrupl|halv|half)\w*{_FILL} $", before):
        return _TIMES[match[1]]
    scale = rf"\b(?P<n>\d+(?:\.\d+)?) ?(?:x|×|times|fold)(?: (?P<how>{_MORE}|{_LESS}|wider|deeper|as large|as high))?{_FILL} $"
    if match := re.search(scale, before):
        return _scaled(float(match["n"]), match["how"] or "")
    by = r"^ ?by (?:a factor of (?P<f>\d+(?:\.\d+)?)|(?P<x>\d+(?:\.\d+)?) ?(?:x|×|times|fold)\b|(?P<p>\d+(?:\.\d+)?) ?(?:%|percent))"
    if match := re.search(by, after):
        if match["p"]:
            share = float(match["p"]) / 100
            return 1 - share if re.search(_LESS, before) else 1 + share
        return _scaled(float(match["f"] or match["x"]), before)
    return None


def _scaled(n: float, words: str) -> float:
    return 1 / n if re.search(rf"\b{_LESS}\b|divid", words) else n


def _short(text: str, length: int = 120) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[:length] + "…"
