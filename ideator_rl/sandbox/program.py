"""A program to run in a sandbox, what it is given, and what its starter returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ideator_rl.environments.preset import MIN_FILE_BYTES
from ideator_rl.sandbox import seccomp
from ideator_rl.sandbox.mounts import Mounts, allotted_gpus

FORKED, COLD = "forked", "cold"
PROGRAM = "--program"


@dataclass(frozen=True)
class Script:
    """A Python script to run inside, after the modules that are preloaded."""

    path: str
    """As the process sees it; `PROGRAM` for a command that is no Python script, which is then in the arguments."""
    arguments: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    """All of its variables."""
    folders: tuple[str, ...] = ()
    """Folders that come first on its `sys.path`, as the process sees them."""
    ranks: int = 1
    """So many processes run the script together (see `launch`)."""


@dataclass(frozen=True)
class Inside:
    """What a program is given inside, besides its sandbox's level."""

    mounts: Mounts
    cwd: str
    """As the process sees it."""
    no_child_signal: bool = False
    silent: bool = False
    cpu_seconds: int | None = None
    file_bytes: int = MIN_FILE_BYTES
    """These four as for `Sandbox.start`."""
    descriptors: tuple[int, ...] = ()
    """These stay open in it, under the same numbers."""
    output: int | None = None
    """Its output and errors go to this descriptor; to nowhere if None."""
    guard: int = -1
    """One of `descriptors`: where the launcher asks to be traced (see `tracer`)."""

    def open_filter(self) -> int:
        """A descriptor of its filter of system calls, as `seccomp.open_filter` returns it."""
        return seccomp.open_filter(
            memfd=bool(allotted_gpus()), no_child_signal=self.no_child_signal, silent=self.silent
        )


class Process(Protocol):
    """A started program, whichever way it was started."""

    pid: int
    """The root of a process tree that holds all of its processes."""
    ready: int
    """Becomes readable with one byte when the imports are done, without one when the script ended before."""
    end: int
    """Becomes readable when the program has ended."""
    started: float
    """Monotonic seconds."""
    how: str
    """`forked` or `cold`."""

    def poll(self) -> int | None:
        """The exit status once the program has ended; 128 + n after signal n, as a shell shows it."""
        ...

    def close(self) -> None:
        """Kill what is left of it and release its descriptors."""
        ...
