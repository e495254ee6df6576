"""Reads the attacks in cases/*.yaml and turns each into the text of a patch.

A case gives code for one or more positions in the baseline's train.py (`top`: after the imports, so in the run and in
the scorer; `main`, `end`: first and last in the run; `load`: first in the scorer; `bottom`: after all functions), new `files` (null deletes one), or
the `patch` itself.  A word in @…@ is replaced by a fact that an attacker could not know, so that no attack fails for
lack of knowledge.
"""

from __future__ import annotations

import base64
import random
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.patch import Tree, diff

HERE = Path(__file__).parent
IMPORTS = "import sys\nimport time\n"
"""Imports that every attack may use."""
POSITIONS = {
    "top": "import numpy as np\n",
    "load": "def load(artifact):\n",
    "main": "def main():\n",
    "end": '    print("on the training text:"',
    "bottom": 'if __name__ == "__main__":\n',
}


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    aim: str
    """What the attack tries to reach."""
    status: tuple[str, ...]
    """The expected outcomes."""
    why: str = ""
    """Why several are expected, or why an attack may succeed as an experiment and gain."""
    gain: float = 0.0
    """The most by which the metric may be better than the baseline's, in its unit."""
    evidence: str = ""
    """A regular expression that the log or the error must match: it shows that the attack took place."""
    parts: dict[str, Any] = field(default_factory=dict)
    """What the patch consists of; see above."""
    accomplice: dict[str, Any] = field(default_factory=dict)
    """The parts of a second experiment that runs at the same time; it must end as the first."""
    before: dict[str, Any] = field(default_factory=dict)
    """The parts of an experiment that runs first, to its end; it may not gain either."""
    environment: str = "env"
    seconds: float = 0.0
    """Wall seconds that scoring may take; 0 for no check of its own."""
    neighbour: bool = False
    """An honest experiment runs at the same time, and its metric must not change."""
    quick: bool = False
    """Part of the default run."""


def cases() -> list[Case]:
    """All cases, in the order of their files."""
    all_cases = []
    for file in sorted((HERE / "cases").glob("*.yaml")):
        for body in yaml.safe_load(file.read_text()):
            parts = {key: body.pop(key) for key in (*POSITIONS, "files", "patch") if key in body}
            status = body.pop("status")
            all_cases.append(Case(kind=file.stem, status=tuple(status.split()), parts=parts, **body))
    return all_cases


def patch_text(base: Tree, parts: dict[str, Any], facts: dict[str, str]) -> str:
    """The patch that puts the parts into the baseline; `facts` replace words in @…@."""
    if "patch" in parts:
        return _fill_in(parts["patch"], facts)
    tree = dict(base)
    if parts.keys() & POSITIONS.keys():
        parts = parts | {"top": IMPORTS + parts.get("top", "")}
    for position, line in POSITIONS.items():
        if position in parts:
            tree["train.py"] = _insert(tree["train.py"], position, line, _fill_in(parts[position], facts))
    for path, text in parts.get("files", {}).items():
        if text is None:
            del tree[path]
        else:
            tree[path] = _fill_in(text, facts)
    return diff(base, tree)


def _insert(source: str, position: str, line: str, code: str) -> str:
    if source.count(line) != 1:
        raise ValueError(f"the baseline has no single line for {position!r}: {line!r}")
    code = textwrap.indent(code, "" if position in ("top", "bottom") else "    ")
    return source.replace(line, code + line if position in ("end", "bottom") else line + code)


def _fill_in(text: str, facts: dict[str, str]) -> str:
    # A shared module may itself hold facts: twice.
    for name, value in [*facts.items()] * 2:
        text = text.replace(f"@{name}@", value)
    return text


def code_texts() -> dict[str, str]:
    """Modules that several attacks share, as files of the patch: file name → text."""
    return {path.name: path.read_text() for path in sorted((HERE / "code").glob("*.py"))}


def weights(count: int = 60_000) -> dict[str, str]:
    """Bytes that no compressor shortens, as trained weights are, in several spellings."""
    data = random.Random(0).randbytes(count)
    syllables = [
        a + b
        for a in "bcdfghklmnprstvz"
        for b in ("a", "e", "i", "o", "u", "al", "en", "is", "or", "um", "ak", "el", "ir", "on", "us", "y")
    ]
    names = [f"{syllables[a]}{syllables[b]}{syllables[c]}" for a, b, c in zip(*[iter(data)] * 3, strict=True)]
    bits = [bin(256 | byte)[3:] for byte in data]
    hexes = data.hex()
    return {
        "WEIGHTS85": base64.b85encode(data).decode(),
        "WEIGHTS16": hexes,
        "WEIGHTS10": ",\n".join(map(str, data)),
        "WEIGHTSF": ",\n".join(f"{(byte - 127.5) / 64:.5f}" for byte in data),
        "WEIGHTSWORDS": "\n".join(" ".join(syllables[byte] for byte in data[i : i + 20]) for i in range(0, count, 20)),
        "WEIGHTSNAMES": "\n".join(f"{name} = 0" for name in names),
        "WEIGHTSCALLS": "\n".join("; ".join("ab"[bit == "1"] + "()" for bit in byte) for byte in bits[: count // 3]),
        "WEIGHTSCOMMENTS": "\n".join(f"# {hexes[i : i + 80]}" for i in range(0, len(hexes), 80)),
        "WEIGHTSBLANKS": "\n".join("pass" + byte.replace("0", " ").replace("1", "\t") for byte in bits),
        "WEIGHTSWORLD": "".join(chr(0x4E00 + 64 * a + b % 64) for a, b in zip(*[iter(data)] * 2, strict=True)),
        "WEIGHTSFILES": "".join(_EMPTY.format(f"w/n{hexes[i : i + 80]}.py") for i in range(0, 40_000, 80)),
    } | {f"WEIGHTS@{k}": base64.b85encode(data[10_000 * k :][:10_000]).decode() for k in range(6)}


_EMPTY = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+\n"


def long_texts() -> dict[str, str]:
    """Patches too long for a file of cases."""
    new = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1,{1} @@\n{2}"
    block = "train.py\n<<<<<<< SEARCH\n{0}\n=======\n{0}# {1}\n>>>>>>> REPLACE\n"
    alike = "\n".join(["", "x = 1", "", "import os", "", "y = 2"] * 40)
    return (
        code_texts()
        | weights()
        | {
            "HUGE": new.format("huge.py", 100_000, "+# thirty letters for every line\n" * 100_000),
            "MANY": "".join(new.format(f"x{number}.py", 1, "+x = 1\n") for number in range(300)),
            "SLOW": "".join(block.format(alike, number) for number in range(300)),
        }
    )
