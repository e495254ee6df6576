"""Grades of mathematical answers: `math-verify` in a pool of processes that no answer can hang or crash.

    with math_grader() as grader:
        right = grader.grade([(answer_of(text), gold) for text, gold in rows])

Covered:
- strict tags: one thought that ends, and one answer after it; all else has no answer
- gold and answer are read under the same settings: a gold answer written verbatim is always right
- an answer that computes for over 5 CPU seconds, takes over 2 GB or crashes its process is wrong, and only that one
- several values in one answer are a set, which equals no single value
- an answer of over 512 characters is wrong: the beginning of an answer may equal what the whole of it does not

Not covered: `math-verify` decides what is equal.  For it 50% is 50 and 0.5, `x = 5` is 5, and so is `2 + 3`,
which leaves the sum to the grader.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ideator_rl.errors import IdeatorError

WORKER = Path(__file__).with_name("math_worker.py")
CPU_SECONDS, WALL_SECONDS = 5.0, 60.0
"""For one answer.  The second is for processes that do not compute: only CPU seconds are the same on a busy machine."""
MEMORY_BYTES = 2 << 30
"""Address space of one process."""
MAX_CHARACTERS = 512
START_SECONDS = 120.0
_TAGS = re.compile(r"</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_ANY_TAG = re.compile(r"</?(?:think|answer)>")


def answer_of(text: str) -> str | None:
    """What stands between the answer tags of a completion whose prompt opened the thought; None where the form is not
    exactly `… </think> <answer> … </answer>`, with no further tag and nothing after it."""
    start = text.find("</think>")
    match = _TAGS.fullmatch(text, start) if start >= 0 else None
    if match is None or len(_ANY_TAG.findall(text)) != 3:
        return None
    return match[1].strip()


class MathGrader:
    """A running pool; see `math_grader`.  Used by one thread."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]):
        self._processes = processes

    def grade(self, pairs: Sequence[tuple[str | None, str]]) -> list[bool]:
        """Whether each answer equals its gold one; an answer of None is wrong.

        Args:
            pairs: (answer, gold), both without tags.  An answer of over MAX_CHARACTERS is wrong.

        Raises:
            IdeatorError: a process of the pool ended; not by an answer, which it never reads itself.
        """
        right = [False] * len(pairs)
        waiting = [row for row, (answer, _) in enumerate(pairs) if answer and len(answer) <= MAX_CHARACTERS]
        waiting.reverse()
        row_of: dict[int, int] = {}  # output of a process → the row that it grades
        idle = list(self._processes)
        by_output = {process.stdout.fileno(): process for process in self._processes if process.stdout}
        while waiting or row_of:
            while waiting and idle:
                process, row = idle.pop(), waiting.pop()
                answer, gold = pairs[row]
                self._send(process, answer or "", gold)
                row_of[_output(process)] = row
            ready = select.select(list(row_of), [], [], 2 * WALL_SECONDS)[0]
            if not ready:
                raise IdeatorError(f"The grader gave no verdict within {2 * WALL_SECONDS:g} s.")
            for output in ready:
                right[row_of.pop(output)] = _verdict(output)
                idle.append(by_output[output])
        return right

    def _send(self, process: subprocess.Popen[bytes], answer: str, gold: str) -> None:
        assert process.stdin is not None
        line = json.dumps([answer, gold]) + "\n"
        try:
            process.stdin.write(line.encode())
        except BrokenPipeError as error:
            raise IdeatorError("A process of the grader ended.") from error


@contextmanager
def math_grader(processes: int = 2) -> Iterator[MathGrader]:
    """A pool of grading processes; all of them have ended after the `with` block.

    Raises:
        IdeatorError: `math-verify` is not installed or does not start.
    """
    if find_spec("math_verify") is None:
        raise IdeatorError("Grading needs math-verify, which is not installed. Run: pip install 'ideator-rl[math]'")
    limits = [str(value) for value in (CPU_SECONDS, WALL_SECONDS, MEMORY_BYTES, os.getpid())]
    started = [
        subprocess.Popen(
            # Isolated: no folder of the caller's can take the place of a module.
            [sys.executable, "-P", str(WORKER), *limits],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(processes)
    ]
    try:
        for process in started:
            _wait_until_started(process)
        yield MathGrader(started)
    finally:
        for process in started:
            _end(process)


def _wait_until_started(process: subprocess.Popen[bytes]) -> None:
    output = _output(process)
    if not select.select([output], [], [], START_SECONDS)[0]:
        raise IdeatorError(f"The grader did not start within {START_SECONDS:g} s.")
    if not os.read(output, 1):
        assert process.stderr is not None
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise IdeatorError(f"The grader did not start: {(lines or ['no output'])[-1]}")


def _verdict(output: int) -> bool:
    byte = os.read(output, 1)
    if not byte:
        raise IdeatorError("A process of the grader ended.")
    return byte == b"\1"


def _output(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return process.stdout.fileno()


def _end(process: subprocess.Popen[bytes]) -> None:
    # Its children end with it, by the signal that they asked the kernel for.
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
