"""Runs apart from the evaluator: compares mathematical answers, each in a child that can be killed.

The parent of the children imports `math-verify`, never parses an answer, and forks: a new child after a kill costs a
few milliseconds instead of an import.  Standard library and `math-verify` only.

Protocol: a line of JSON, [answer, gold], on the input; one byte on the output: 1 right, 0 wrong, not parsed or killed.

usage: math_worker.py CPU_SECONDS WALL_SECONDS MEMORY_BYTES PARENT_PID
"""

import ctypes
import json
import logging
import os
import resource
import select
import signal
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
RIGHT, WRONG = b"\1", b"\0"


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have ended before the kernel was told.
    if os.getppid() != parent:
        os._exit(1)


def is_right(answer: str, gold: str) -> bool:
    """Whether an answer equals the gold one; both are read under the same settings.

    Without the timeouts of `math-verify`: they interrupt sympy anywhere and leave its caches in any state.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # A gold answer that cannot be parsed equals itself at least.
    if answer.strip() == gold.strip():
        return True
    settings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def parsed(text: str) -> list[Any]:
        # In a box, so that a bare `\frac43` is read as LaTeX and all of the text counts, not its last number.
        return list(parse(f"\\boxed{{{text}}}", settings, parsing_timeout=None))

    return bool(verify(parsed(gold), parsed(answer), timeout_seconds=None))


class Child:
    """A forked process that grades until it is killed or breaks."""

    def __init__(self, memory: int):
        from_parent, self._to_child = os.pipe()
        self._from_child, to_parent = os.pipe()
        self._parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(from_parent, to_parent, memory)
            finally:
                os._exit(1)
        os.close(from_parent)
        os.close(to_parent)

    def _serve(self, from_parent: int, to_parent: int, memory: int) -> None:
        end_with(self._parent)
        os.close(self._to_child)
        os.close(self._from_child)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Nothing that a parser prints may reach the protocol.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        for line in os.fdopen(from_parent, "rb"):
            try:
                verdict = RIGHT if is_right(*json.loads(line)) else WRONG
            except Exception:
                # Out of memory or out of stack: what is left in sympy's caches must not grade the next answer.
                os.write(to_parent, WRONG)
                os._exit(1)
            os.write(to_parent, verdict)

    def grade(self, line: bytes, cpu: float, wall: float) -> bytes | None:
        """The verdict; None when the child was too slow or broke, and has to be replaced."""
        try:
            os.write(self._to_child, line)
        except BrokenPipeError:
            return None
        started, clock = time.monotonic(), (~self.pid << 3) | 2
        used = _cpu_seconds(clock)
        # CPU seconds, so that a busy machine changes no grade; wall seconds as well, for what does not compute.
        while not select.select([self._from_child], [], [], 0.05)[0]:
            if _cpu_seconds(clock) - used > cpu or time.monotonic() - started > wall:
                return None
        return os.read(self._from_child, 1) or None

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._to_child)
        os.close(self._from_child)


def _cpu_seconds(clock: int) -> float:
    """CPU seconds of a process by the number of its clock, as clock_getcpuclockid(3) makes it."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0  # it has ended: its pipe shows it next


def main() -> None:
    cpu, wall, memory, parent = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    end_with(parent)
    logging.disable(logging.CRITICAL)
    # Before the fork: it imports all that grading needs and builds its patterns.
    if not is_right(r"\frac{1}{2}", "0.5"):
        sys.exit("math-verify does not take 1/2 for 0.5: its release is not one that this was written for")
    child = Child(memory)
    os.write(1, RIGHT)
    # One line is in flight at a time: a child that is forked here inherits none that is unread.
    for line in sys.stdin.buffer:
        verdict = child.grade(line, cpu, wall)
        if verdict is None:
            child.end()
            child = Child(memory)
        os.write(1, verdict or WRONG)
    child.end()


if __name__ == "__main__":
    main()
