"""Settings of the implementer `command`: the agent's command line, and what its sandbox allows."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Amount, Config, Count, Expected, Names, Positive

MAX_ENDPOINTS = 16
_ENDPOINT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):([1-9][0-9]{0,4})")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ValueError: it is not `host:port`.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{endpoint!r} is no host:port")
    return match[1].lower(), int(match[2])


def _words(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


def _are_endpoints(endpoints: list[str]) -> bool:
    return len(endpoints) <= MAX_ENDPOINTS and all(split_endpoint(endpoint) for endpoint in endpoints)


def _is_name(name: str) -> bool:
    # Of the folder itself: a path could lead through a link of the agent's.
    return bool(name) and "/" not in name and name not in (".", "..")


Words = Annotated[list[str], BeforeValidator(_words), Expected("a command line: text, or a list of its words", bool)]
Endpoints = Annotated[Names, Expected(f"up to {MAX_ENDPOINTS} addresses host:port", _are_endpoints)]
Variables = Annotated[
    Names, Expected("names of environment variables", lambda names: all(_VARIABLE.fullmatch(name) for name in names))
]
Folders = Annotated[
    Names, Expected("absolute paths", lambda paths: all(path.startswith("/") and path != "/" for path in paths))
]
FileName = Annotated[str, Expected("the name of a file, without folders", _is_name)]


@dataclass(frozen=True)
class AgentSettings(Config):
    """The mapping `coder` of a recipe with `implementer: command`."""

    command: Words
    """The agent's command line, run in the codebase's folder.  It finds the idea and the rules in the file that the
    variable IDEATOR_IDEA names: IDEA.md."""
    timeout_seconds: Positive = 900.0
    """Wall seconds for one idea; then its whole process tree is ended, and the idea is `unpatchable`."""
    endpoints: Endpoints | None = None
    """Addresses host:port that the agent may reach, by HTTP_PROXY and HTTPS_PROXY, and those of localhost directly;
    null for no network.  Nothing else of the network can be reached."""
    pass_variables: Variables | None = None
    """Environment variables handed on, such as the agent's key.  They are never written to logs, records or disk."""
    visible_folders: Folders | None = None
    """Folders of this machine that the agent sees, read-only, at the same path: its program and its settings.  The
    system, Python and its packages are visible anyway."""
    max_usd_per_idea: Amount | None = None
    """USD reserved of `max_usd` before the agent starts, and booked where it ran and reports no cost.  Needed with a
    cap; 0 for an agent that costs nothing."""
    cost_key: str = "total_cost_usd"
    """Key of the USD in the JSON object in which the agent reports its cost, dots for keys inside; the last line of its
    output that is such an object counts."""
    cost_file: FileName | None = None
    """File in the codebase's folder with that JSON object, in the place of the output; it is no part of the patch."""
    memory_gb: Positive = 4.0
    """GB (10^9 bytes) of resident memory, of the whole process tree."""
    disk_gb: Positive = 1.0
    """GB (10^9 bytes) that the codebase's folder may hold; as much again in /tmp, where its home is."""
    processes: Count = 256
    """Processes and threads at the same time."""
    concurrency: Count = 2
    """Agents that run at the same time, of this process."""
    ignore: Names | None = None
    """Globs of files that the agent may leave and that are no part of the patch; null for hidden files and folders.
    A file of the baseline is never ignored."""
