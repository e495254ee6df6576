"""This library's environments for `verifiers` and prime-rl, which name an environment by a top-level package.

    vf-eval ideator-rl-env --env.taskset.env ./my_env

Needs `pip install verifiers`, 0.4 or later.
"""

from ideator_rl.bridges.verifiers import IdeaHarness, IdeatorEnv, IdeatorTaskset, load_environment

__all__ = ["IdeaHarness", "IdeatorEnv", "IdeatorTaskset", "load_environment"]
