"""Reads the number that belongs to a name in a sentence, from the text right before and after the name."""

from __future__ import annotations

import re

# A sign belongs to the number: behind one, a match must not begin.
_DIGITS = r"(?<![\w.-])(-?(?:\d+(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+(?:e-?\d+)?))"
_PERCENT = r"( ?%| percent)?(?: ?[x×])?(?!\w)"
NUMBER = rf"{_DIGITS}(?![.,]\d)(?! ?(?:gb|mb|gpus?|seconds?|minutes?)\b){_PERCENT}"
"""Group 1 is the number, group 2 a percent sign."""
_FILL = r"(?: (?:the|a|an|our|its|number|value|of|model|total|peak|overall))*"
_MORE = r"(?:rais\w+|increas\w+|higher|larger|bigger|more|greater|boost\w*|enlarg\w+)"
_LESS = r"(?:lower\w*|reduc\w+|decreas\w+|smaller|fewer|less|shrink\w*|cut\w*)"
_ABOUT = r"(?:about |around |roughly |just )?"
_IS = r"of|=|:|at|is|as|be|to be|should|will|equal to|equals|value|such as|like|eg,?"
_BECOMES = r"|to|set|changed|raised|lowered|increased|reduced"
_TIMES = {"doubl": 2.0, "twice": 2.0, "tripl": 3.0, "quadrupl": 4.0, "halv": 0.5, "half": 0.5}
_FACTOR = r"(\d+(?:\.\d+)?)"
_SCALE = re.compile(rf"\b{_FACTOR} ?(?:x|×|times|fold)(?: ({_MORE}|{_LESS}|wider|deeper|as large|as high))?{_FILL} $")
_BY = re.compile(
    rf"^ ?(?:by a factor of {_FACTOR}|(?:by )?{_FACTOR} ?(?:x|×|times|fold)\b(?: \w+)?|by {_FACTOR} ?(?:%|percent))"
)
_MULTIPLY = re.compile(rf"\b(?:scal|multipl|divid)\w*{_FILL} $")
_REASON = re.compile(r"\b(?:so|because|since|as|that|allow\w*|enabl\w*|permit\w*|makes?)\b[^,;|]*$")
"""The text after it gives a reason, and requests no change."""


def stated(before: str, after: str, adjacent: bool, steady: bool) -> float | None:
    """A number in plain sight: "4 layers", "learning rate of 3e-3", "batch size from 16 to 8".

    Args:
        adjacent: The number must directly follow the name, as a setting's does; else a few words may be between.
        steady: The sentence speaks of a change over time, so that "to 0" is not the setting.
    """
    match = re.search(rf"(?<!from ){NUMBER}(?: steps?)? ?(?:of )?$", before)
    match = match or (_close(after, steady) if adjacent else re.match(rf"[^\d,;|]{{0,45}}?{NUMBER}", after))
    match = match or re.search(rf"{NUMBER} (?:as|for|in)(?: the| a)? $", before)
    if match is None:
        return None
    return float(match[1].replace(",", "")) / (100 if match[2] else 1)


def factor(before: str, after: str) -> float | None:
    """The requested multiple of the baseline's value; 2 or 1/2 for "doubled", "half" and the like."""
    if match := re.search(rf"\b(doubl|twice|tripl|quadrupl|halv|half)\w*(?: as \w+)?{_FILL} $", before):
        return _TIMES[match[1]]
    if match := _SCALE.search(before):
        return _scaled(float(match[1]), match[2] or "")
    if _MULTIPLY.search(before) and (match := re.match(rf" by {_FACTOR}", after)):
        return _scaled(float(match[1]), before)
    if match := _BY.search(after):
        if match[3]:
            share = float(match[3]) / 100
            return 1 - share if re.search(_LESS, before) else 1 + share
        return _scaled(float(match[1] or match[2]), before + match[0])
    return None


def direction(before: str) -> float | None:
    """2 or 1/2 where the text before a name requests more or less of it, without a number."""
    for pattern, times in ((_MORE, 2.0), (_LESS, 0.5)):
        if (match := re.search(rf"\b{pattern}{_FILL} $", before)) and not _REASON.search(before[: match.start()]):
            return times
    return None


def _close(after: str, steady: bool) -> re.Match[str] | None:
    after = re.sub(r"^ ?\|+", "", after)
    links = _IS if steady else _IS + _BECOMES
    change = re.match(
        rf"(?: (?:of|value|is|are|was|goes|raised|increased|lowered|reduced|changed))*(?: ?[=:] | )?(?:from )?"
        rf"{_ABOUT}{NUMBER} (?:to|with|by) {_ABOUT}",
        after,
    )
    if change and not steady and (second := re.match(NUMBER, after[change.end() :])):
        return second
    return re.match(rf"\)?,?(?: ?\(?\b(?:{links})\b| ?[=:])* ?{_ABOUT}\(?{NUMBER}", after)


def _scaled(n: float, text: str) -> float:
    """A factor, inverted where the text requests less."""
    return 1 / n if re.search(rf"\b{_LESS}\b|divid", text) and n else n
