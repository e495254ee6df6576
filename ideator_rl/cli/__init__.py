"""The command line: `commands` reads the arguments, and one module a command does the work."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status.  The entry point of `ideator-rl`.

    Args:
        argv: of a program that calls this, which keeps its own signal handlers; None for this process's own.
    """
    if argv is None:
        from ideator_rl.cli.interrupt import guard

        guard()
    from ideator_rl.cli import commands

    return commands.main(argv)
