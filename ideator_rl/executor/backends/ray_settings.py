"""The settings of the backend `ray`."""

from __future__ import annotations

from dataclasses import field

from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Amount, Config, Count, Names, Positive


@dataclass(frozen=True)
class RaySettings(Config):
    """Settings of the backend."""

    address: str = "auto"
    """Of the cluster: auto for the one of this machine, or host:port of its head."""
    namespace: str = "ideator_rl"
    """Of the actors' names."""
    python: str = ""
    """The interpreter on the nodes, which has this package; by default the path of this one."""
    variables: Names = field(default_factory=list)
    """Names of further environment variables that workers are to have.  Credentials of a remote bucket are passed."""
    resources: dict[str, Amount] = field(default_factory=dict)
    """Further Ray resources of each job, such as {"accelerator_type:H100": 0.001}."""
    every: Positive = 2
    """Seconds between two listings."""
    most: Count = 256
    """Jobs at the cluster at once, at most; `--slots` can lower it."""
    timeout: Positive = 60
    """Seconds for a call of the cluster."""
