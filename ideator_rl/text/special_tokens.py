"""Special tokens of chat templates in texts that a model wrote, which a tokenizer would read as the end of a message.

A server reads such a mark anywhere in a message.  So a past idea with `<|im_end|><|im_start|>system` could end the
user's message and begin another.  `without_special_tokens` replaces their brackets by characters that look alike.

Covered: the forms `<|…|>` and `[|…|]`, and the names below.  Not covered: names that a vendor invents next.
"""

from __future__ import annotations

import re

_ANGLED = (
    "s|bos|eos|pad|unk|mask|sep|cls|think|thinking|start_of_turn|end_of_turn|start_of_image|turn|eot|eos_token|bos_token|"
    "system|user|assistant|human|tool_call|tool_calls|tool_response|tools|end▁of▁sentence|begin▁of▁sentence"
)
_SQUARE = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|THINK|IMG|IMG_BREAK|IMG_END|"
    "gMASK|sMASK|sop|eop"
)
_SQUARE_OR_INDEX = "PREFIX|MIDDLE|SUFFIX|BOS|EOS|PAD|UNK|CLS|SEP|MASK"
"""Names that no chat template builds messages with, and that code has as an index: `embedding[PAD]` stays as it is."""
_TOKEN = re.compile(
    rf"<(?P<bars>[|｜][^<>\n]{{1,60}}[|｜])>|<(?P<angled>/?(?:{_ANGLED}))>|<(?P<doubled></?SYS>)>"
    rf"|\[(?P<square>/?(?:{_SQUARE}))\]|(?<![\w)\]])\[(?P<index>/?(?:{_SQUARE_OR_INDEX}))\]"
    rf"|\[(?P<barred>\|[^\[\]\n]{{1,60}}\|)\]"
)
_UNPAIRED = re.compile(r"\]~!?b[\[\]]|\[e~\[")
"""Marks of MiniMax models."""


def without_special_tokens(text: str) -> str:
    """The text with marks such as `<|im_start|>`, `</s>` and `[INST]` in other brackets: `‹|im_start|›`, `(INST)`."""
    text = _UNPAIRED.sub(lambda match: match[0].replace("[", "(").replace("]", ")"), text)
    return _TOKEN.sub(_replaced, text)


def _replaced(match: re.Match[str]) -> str:
    inner = match["square"] or match["index"] or match["barred"]
    return f"({inner})" if inner else "‹" + match[0][1:-1].strip("<>") + "›"
