"""Backends start the attempts at experiments: `backend` holds the base class, each other file one backend."""

from ideator_rl._imports import renamed
from ideator_rl.executor.backends.backend import BUILT_IN, Backend, Job, JobState, Runner, backend_class

__all__ = ["BUILT_IN", "Backend", "Job", "JobState", "Runner", "backend_class"]

__getattr__ = renamed(__name__)
