"""Before a run pays for anything: would the services that it asks answer?

`train`, `search` and `execute` call this with the probes of their implementer and ideator.  A service of this library
is an LLM, which is asked for a few tokens of each model: that shows a wrong key, address, model or parameter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ideator_rl.errors import IdeatorError
from ideator_rl.registry import plugin_code

NOT_ASKED = "endpoint     not asked here; the run begins with a call for a few tokens, which shows a wrong key or model"
"""The line of a dry run, which uses no network."""


class ProbeFailed(IdeatorError):
    """A service would not answer, so the run was not started."""


async def probe_all(*probes: Callable[[], Awaitable[None]]) -> None:
    """Await each probe in turn.

    Raises:
        ProbeFailed: one raised an error; the message is that one's, for a plugin's with its file and line.
    """
    for probe in probes:
        try:
            with plugin_code("The first call of a service"):
                await probe()
        except IdeatorError as error:
            raise ProbeFailed(f"{error} Nothing was started; --no-probe leaves out this first call.") from error
