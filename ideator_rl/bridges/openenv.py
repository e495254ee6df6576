"""Environments of this library for OpenEnv: an episode is one question and one idea, whose reward is that of the
executed experiment.

    python -m ideator_rl.bridges.openenv ./my_env --port 8000

Guarantees: sessions are independent; equal codebases run once.  A lost experiment is an error of the step, and no
reward.  Pages of other sites are refused (`same_site`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field

from ideator_rl.bridges.execution import ExecutionRewards, numbers_of
from ideator_rl.bridges.same_site import SameSite, host_names
from ideator_rl.environments.feedback import feedback_of
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment


class IdeaAction(Action):
    """What the model answered to the prompt."""

    text: str = Field(description="an idea with its code changes, in the form that the prompt asks for")


class IdeaObservation(Observation):
    """The prompt after a reset; the outcome after a step."""

    prompt: str = ""
    status: str = ""
    """Of the experiment: succeeded, failed, timed_out, rejected, …"""
    numbers: dict[str, float] = Field(default_factory=dict)
    """The metric and secondary metrics by name."""
    error: str = ""
    """Why it did not succeed: its kind, and what the environment's `feedback` lets a model see."""


class IdeatorEnvironment(Environment[IdeaAction, IdeaObservation, State]):
    """One question, one idea.

    Args:
        rewards: shared by all sessions.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, rewards: ExecutionRewards):
        super().__init__()
        self._rewards, self._state = rewards, State(episode_id=str(uuid4()))

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> IdeaObservation:
        self._state = State(episode_id=episode_id or str(uuid4()))
        return IdeaObservation(prompt=self._rewards.prompt)

    def step(self, action: IdeaAction, timeout_s: float | None = None, **kwargs: Any) -> IdeaObservation:
        return asyncio.run(self.step_async(action, timeout_s, **kwargs))

    async def step_async(self, action: IdeaAction, timeout_s: float | None = None, **kwargs: Any) -> IdeaObservation:
        """
        Raises:
            LostExperiment: by our fault; there is no reward.
            TimeoutError: `timeout_s` has passed; the experiment runs on, and the same action finds it.
        """
        record = await asyncio.wait_for(self._rewards.record(action.text), timeout_s)
        self._state.step_count += 1
        return IdeaObservation(
            done=True,
            reward=record.reward,
            status=record.status,
            numbers=numbers_of(record),
            error=self._error(record),
            metadata={"experiment": record.id},
        )

    def _error(self, record: Experiment) -> str:
        if record.status == SUCCEEDED:
            return ""
        # A message may quote an evaluator, or the run: the model that is trained must not get more than an ideator.
        feedback = feedback_of(record, self._rewards.environment.feedback)
        return "\n".join(filter(None, (record.error_kind or record.status, feedback)))

    @property
    def state(self) -> State:
        return self._state


def create_app(rewards: ExecutionRewards, sessions: int = 64, names: Iterable[str] = ()) -> Any:
    """The FastAPI application of OpenEnv that serves an environment.

    Args:
        sessions: at the same time, at most.
        names: of this machine, by which clients may address it, besides localhost and any address.

    Raises:
        IdeatorError: one of `names` cannot be the name of a machine.
    """
    # Checked here: the application creates its middleware with the first request.
    allowed_names = host_names(names)
    app = create_fastapi_app(
        lambda: IdeatorEnvironment(rewards), IdeaAction, IdeaObservation, max_concurrent_envs=sessions
    )
    app.add_middleware(SameSite, names=allowed_names)
    return app


def main(argv: list[str] | None = None) -> int:
    """Serve one environment."""
    import uvicorn

    parser = argparse.ArgumentParser(description="Serve an environment of ideator_rl to OpenEnv clients.")
    parser.add_argument("env", help="a name, or the path of a folder")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--bucket", default="")
    parser.add_argument("--implementer", default="direct")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--allow-reported", action="store_true", help="accept a metric that ideas could forge")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--allowed-host", action="append", default=[], help="a name by which clients address this machine; repeatable"
    )
    args = vars(parser.parse_args(argv))
    host, port, names = args.pop("host"), args.pop("port"), args.pop("allowed_host")
    try:
        app = create_app(ExecutionRewards.of(args), names=[host, *names])
    except IdeatorError as error:
        print(error, file=sys.stderr)
        return 2
    uvicorn.run(app, host=host, port=port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
