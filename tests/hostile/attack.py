"""The attacks: cases/*.yaml read, and each made into the text of a patch.

A case says what is put where in the baseline's train.py (`top`: after the imports, so in the run and in the scorer;
`main`, `end`: first and last in the run; `load`: first in the scorer), which `files` are new (null deletes one), or gives
the `patch` itself.  Words in @…@ stand for what an attacker could not know, so that no attack fails for ignorance.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.patch import Tree, diff

HERE = Path(__file__).parent
IMPORTS = "import sys\nimport time\n"
"""What attacks may use without a word."""
PLACES = {
    "top": "import numpy as np\n",
    "load": "def load(artifact):\n",
    "main": "def main():\n",
    "end": '    print("on the training text:"',
}


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    aim: str
    """What the attack wants, in words."""
    status: tuple[str, ...]
    """The outcomes that are right."""
    why: str = ""
    """Why several are right, or why an attack may succeed as an experiment and gain."""
    gain: float = 0.0
    """The most by which the metric may be better than the baseline's, in its unit."""
    says: str = ""
    """A regular expression that the log or the error must match: it shows that the attack took place."""
    parts: dict[str, Any] = field(default_factory=dict)
    """What the patch is made of; see above."""
    accomplice: dict[str, Any] = field(default_factory=dict)
    """The parts of a second experiment that runs at the same time; it must end as the first."""
    environment: str = "env"
    beside: bool = False
    """An honest experiment runs at the same time and must not notice."""
    quick: bool = False
    """Part of the default run."""


def cases() -> list[Case]:
    """All of them, in the order of their files."""
    found = []
    for file in sorted((HERE / "cases").glob("*.yaml")):
        for body in yaml.safe_load(file.read_text()):
            parts = {key: body.pop(key) for key in (*PLACES, "files", "patch") if key in body}
            status = body.pop("status")
            found.append(Case(kind=file.stem, status=tuple(status.split()), parts=parts, **body))
    return found


def patch_text(base: Tree, parts: dict[str, Any], known: dict[str, str]) -> str:
    """The patch that puts the parts into the baseline; `known` stands in for words in @…@."""
    if "patch" in parts:
        return _told(parts["patch"], known)
    tree = dict(base)
    if parts.keys() & PLACES.keys():
        parts = parts | {"top": IMPORTS + parts.get("top", "")}
    for place, line in PLACES.items():
        if place in parts:
            tree["train.py"] = _put(tree["train.py"], place, line, _told(parts[place], known))
    for path, text in parts.get("files", {}).items():
        if text is None:
            del tree[path]
        else:
            tree[path] = _told(text, known)
    return diff(base, tree)


def _put(source: str, place: str, line: str, code: str) -> str:
    if source.count(line) != 1:
        raise ValueError(f"the baseline has no single place for {place!r}: {line!r}")
    code = textwrap.indent(code, "" if place == "top" else "    ")
    return source.replace(line, code + line if place == "end" else line + code)


def _told(text: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        text = text.replace(f"@{name}@", value)
    return text


def long_texts() -> dict[str, str]:
    """Patches too long to be written down."""
    new = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1,{1} @@\n{2}"
    block = "train.py\n<<<<<<< SEARCH\n{0}\n=======\n{0}# {1}\n>>>>>>> REPLACE\n"
    alike = "\n".join(["", "x = 1", "", "import os", "", "y = 2"] * 40)
    return {
        "HUGE": new.format("huge.py", 100_000, "+# thirty letters for every line\n" * 100_000),
        "MANY": "".join(new.format(f"x{number}.py", 1, "+x = 1\n") for number in range(300)),
        "SLOW": "".join(block.format(alike, number) for number in range(300)),
    }
