"""Reads the attacks in cases/*.yaml and turns each into the text of a patch.

A case gives code for one or more positions in the baseline's train.py (`top`: after the imports, so in the run and in
the scorer; `main`, `end`: first and last in the run; `load`: first in the scorer), new `files` (null deletes one), or
the `patch` itself.  A word in @…@ is replaced by a fact that an attacker could not know, so that no attack fails for
lack of knowledge.
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
"""Imports that every attack may use."""
POSITIONS = {
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
    environment: str = "env"
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
    code = textwrap.indent(code, "" if position == "top" else "    ")
    return source.replace(line, code + line if position == "end" else line + code)


def _fill_in(text: str, facts: dict[str, str]) -> str:
    for name, value in facts.items():
        text = text.replace(f"@{name}@", value)
    return text


def long_texts() -> dict[str, str]:
    """Patches too long for a file of cases."""
    new = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1,{1} @@\n{2}"
    block = "train.py\n<<<<<<< SEARCH\n{0}\n=======\n{0}# {1}\n>>>>>>> REPLACE\n"
    alike = "\n".join(["", "x = 1", "", "import os", "", "y = 2"] * 40)
    return {
        "HUGE": new.format("huge.py", 100_000, "+# thirty letters for every line\n" * 100_000),
        "MANY": "".join(new.format(f"x{number}.py", 1, "+x = 1\n") for number in range(300)),
        "SLOW": "".join(block.format(alike, number) for number in range(300)),
    }
