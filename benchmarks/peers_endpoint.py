"""The scripted endpoint of peers_search.py: one OpenAI-compatible model on loopback, the same for every system.

Its rules:

1. The program that it changes is the one that the prompt marks as the current one: below the last heading `Current
   program` (OpenEvolve, Shinka) or `Incorrect Program to Fix` (Shinka), or the file that ideator_rl shows.  It reads
   no other program, no score and no history.
2. It changes that program by `peers_mutation.mutated`, whoever asks, with a random number generator seeded by the run's
   seed, the number of the request and the number of the idea in the answer.
3. It answers in the form that the prompt asks for: SEARCH/REPLACE blocks (OpenEvolve), the same in `<DIFF>` with a name
   (Shinka), the whole program in a fence (OpenEvolve's rewrites) or in `<CODE>` (Shinka's rewrites and crossovers), or
   `[Experiment] … [Code Changes] … [End]`, as often as the prompt wants ideas (ideator_rl).

4. A request without any program, which asks whether the model is there, is answered `OK`.

So a system's choice of the program that it shows is all that differs.  What an LLM would take from shown past ideas is
not modelled: a system gains nothing by showing them.
"""

from __future__ import annotations

import itertools
import random
import re
import sys
import threading
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from peers_mutation import mutated

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from llm_server import Scripted, answer  # noqa: E402 - after the folder of the tests is on the path

PROBE_CHARS = 200
"""A shorter prompt only asks whether the model is there."""
_HEADING = re.compile(r"^#+ (?:Current program|Incorrect Program to Fix)[^\S\n]*$", re.I | re.M)
_FENCED = re.compile(r"```[\w+-]*\n(.*?)\n```", re.S)
_FILE = re.compile(r'<file path="(?P<path>[^"]+)"[^>]*>\n(?P<text>.*?)\n</file>', re.S)
_COUNT = re.compile(r"^Write (\d+) different ideas", re.M)


class Mutator:
    """Answers a request for a chat completion; used by one server of one run."""

    def __init__(self, seed: int):
        self.seed = seed
        self.problems: list[str] = []
        """Why requests got no program; the run is no measurement if there is any."""
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        """A step of `Scripted`."""
        # Requests come from several threads of the server.
        with self._lock:
            number = next(self._numbers)
        prompt = "\n".join(message_text(message) for message in body["messages"])
        if len(prompt) < PROBE_CHARS:
            return {"body": answer("OK")}
        try:
            return {"body": answer(self.reply(prompt, number))}
        except ValueError as error:
            self.problems.append(str(error))
            return {"body": answer("OK")}

    def reply(self, prompt: str, number: int) -> str:
        """The text of an answer.

        Raises:
            ValueError: the prompt shows no program that can be changed.
        """
        path, program = current_program(prompt)
        count = int(match[1]) if (match := _COUNT.search(prompt)) else 1
        changed = [mutated(program, random.Random(f"{self.seed}:{number}:{index}")) for index in range(count)]
        if path:
            return "\n".join(
                f"[Experiment] A change of the centres, number {number}.{index}. [Code Changes]\n{path}\n"
                f"{search_replace(program, text)}\n[End]"
                for index, text in enumerate(changed)
            )
        named = f"<NAME>\nchange_{number}\n</NAME>\n\n<DESCRIPTION>\nA change of the centres.\n</DESCRIPTION>\n\n"
        if "<DIFF>" in prompt:
            return f"{named}<DIFF>\n{search_replace(program, changed[0])}\n</DIFF>"
        if "<CODE>" in prompt:
            return f"{named}<CODE>\n```python\n{changed[0]}\n```\n</CODE>"
        if "SEARCH/REPLACE" in prompt:
            return search_replace(program, changed[0])
        return f"```python\n{changed[0]}\n```"


def message_text(message: dict[str, Any]) -> str:
    """The text of a message, whose content may be a list of parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def current_program(prompt: str) -> tuple[str, str]:
    """The path of the program to change (empty unless ideator_rl asks), and its text.

    Raises:
        ValueError: the prompt marks none.
    """
    if file := _FILE.search(prompt):
        return file["path"], file["text"]
    headings = list(_HEADING.finditer(prompt))
    fenced = _FENCED.search(prompt, headings[-1].end()) if headings else None
    if fenced is None:
        raise ValueError(f"The prompt marks no current program. It begins {prompt[:200]!r}.")
    return "", fenced[1]


def search_replace(before: str, after: str) -> str:
    """One SEARCH/REPLACE block from a text to another; its search text occurs once in `before`."""
    old, new = before.split("\n"), after.split("\n")
    changes = [code for code in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if code[0] != "equal"]
    (_, start, _, new_start, _), (_, _, end, _, new_end) = changes[0], changes[-1]
    # Lines above are added until the place is unique; an insertion needs one to be a place at all.
    while start > 0 and (start == end or _occurrences(old, old[start:end]) != 1):
        start, new_start = start - 1, new_start - 1
    search, replace = "\n".join(old[start:end]), "\n".join(new[new_start:new_end])
    return f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE"


def _occurrences(lines: list[str], part: list[str]) -> int:
    return sum(lines[at : at + len(part)] == part for at in range(len(lines) - len(part) + 1))


def endpoint(seed: int) -> tuple[Scripted, Mutator]:
    """A server on loopback, to be used as a context manager, and what it answers with."""
    mutator = Mutator(seed)
    return Scripted(mutator), mutator
