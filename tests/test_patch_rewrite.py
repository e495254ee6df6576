"""Whole files that share few lines with the one they replace: a marker or a complete script, but no excerpt."""

import pytest

from ideator_rl.patch import PatchError, apply_patch

SCRIPT = """\
import json
import random

rng = random.Random(3)
best = None
for step in range(400):
    x = [rng.random() for _ in range(8)]
    score = sum(x)
    if best is None or score > best[0]:
        best = score, x

with open("artifact/best.json", "w") as out:
    json.dump(best, out)
"""
REWRITE = """\
import heapq
import json
from random import Random

source = Random(5)
pool = [(0.0, [])]
while len(pool) < 900:
    point = [source.gauss(0.5, 0.1) for _ in range(8)]
    heapq.heappush(pool, (-sum(point), point))
value, point = pool[0]
with open("artifact/best.json", "w") as file:
    json.dump((-value, point), file)
"""
MODULE = "RATE = 3\n\n\ndef load(path):\n    return open(path).read()\n\n\ndef save(path, text):\n    open(path, 'w').write(text)\n"  # fmt: skip


def whole(text, path="run.py"):
    return f"{path}\n```python\n{text}```\n"


def refusal(text, old=SCRIPT):
    with pytest.raises(PatchError, match="may be an excerpt"):
        apply_patch({"run.py": old}, whole(text))


def test_a_complete_script_replaces_a_short_one():
    assert apply_patch({"run.py": SCRIPT}, whole(REWRITE)) == {"run.py": REWRITE}


def test_a_module_that_defines_the_same_replaces_a_short_one():
    other = "import pathlib\n\nRATE = 4\n\n\ndef save(p, t):\n    pathlib.Path(p).write_text(t)\n\n\ndef load(p):\n    return pathlib.Path(p).read_text()\n"  # fmt: skip
    assert apply_patch({"run.py": MODULE}, whole(other)) == {"run.py": other}
    refusal(other.replace("RATE = 4\n", ""), MODULE)
    refusal(other.replace("def load", "def read"), MODULE)


@pytest.mark.parametrize(
    "excerpt",
    [
        "def warmup(step):\n    return min(1.0, step / 100)\n",
        "for step in range(900):\n    x = [rng.gauss(0, 1) for _ in range(8)]\n    score = max(x)\n",
        REWRITE.replace("import json\n", ""),
        REWRITE.partition("with open")[0],
        REWRITE.replace("while", "whle"),
        "import json\nimport random\n\nrng = random.Random(3)\nbest = None\n",
        SCRIPT.partition("with open")[0] + "print(best)\n",
        "from numpy import *\n" + REWRITE,
    ],
)
def test_an_excerpt_is_refused(excerpt):
    refusal(excerpt)


def test_a_script_whose_last_call_holds_a_number_too_long_to_print_is_refused():
    refusal(f"{REWRITE}    (0x{'f' * 6000}).conjugate()\n")


def test_a_long_file_needs_the_marker():
    long = SCRIPT + "".join(f"# line {i}\n" for i in range(200)) + 'json.dump(best, open("x", "w"))\n'
    refusal(REWRITE, long)
    assert apply_patch({"run.py": long}, whole("# whole file\n" + REWRITE)) == {"run.py": REWRITE}


@pytest.mark.parametrize("marker", ["# whole file", "#whole file", "# Whole file."])
def test_the_marker_is_no_part_of_the_file(marker):
    short = "print(1)\n"
    assert apply_patch({"run.py": SCRIPT}, whole(f"{marker}\n{short}")) == {"run.py": short}
    assert apply_patch({"run.py": SCRIPT}, whole(f"{marker}\n{short}", "new.py"))["new.py"] == short


def test_the_marker_allows_no_left_out_lines():
    with pytest.raises(PatchError):
        apply_patch({"run.py": SCRIPT}, whole("# whole file\nprint(1)\n# ... existing code ...\n"))
