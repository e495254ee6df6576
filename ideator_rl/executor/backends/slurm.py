"""The backend `slurm`: a batch job for each attempt.

It is the backend `command` with Slurm's commands.  The folder of `logs`, the interpreter and a file bucket must be on a
file system that all nodes share.

- `squeue -t all` shows jobs that are over for `MinJobAge` seconds, with or without accounting.  A listing names no
  partition, since jobs may move to another one.
- `scancel --name` takes one name: jobs are cancelled by the ids of the listing, in one call.
- A job is never requeued: a worker whose job is started again by Slurm would be an attempt that no scheduler started.
- 30 seconds before its time limit a worker gets SIGTERM, and ends its attempt with a reason.
- A job has the variables of `--export` alone, none of this process's keys.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import fields
from typing import Any

from pydantic.dataclasses import dataclass

from ideator_rl.config.base import Names, read_config
from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.command import CommandBackend
from ideator_rl.executor.backends.command_settings import CommandSettings, EngineSettings
from ideator_rl.storage.bucket import Bucket

SUBMIT = (
    "sbatch --parsable --no-requeue --nodes=1 --ntasks=1 --job-name={name} --comment={id} --cpus-per-task={cpus} {gpu} "
    "--mem={memory_gb}G --time={minutes} --signal=B:TERM@30 --export={exports} --output={log} {exclude} OPTIONS "
    "--wrap {worker}"
)
SLURM: dict[str, Any] = {
    "list": "squeue --me -h -t all -o '%j=%A %T %r'",
    "cancel": "scancel {ids}",
    "gpu": "--gpus-per-node={gpus}",
    "exclude": "--exclude={hosts}",
    "over": "COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED|OUT_OF_MEMORY|BOOT_FAIL|DEADLINE|REVOKED",
    "running": "RUNNING|COMPLETING|SUSPENDED|STOPPED",
}


@dataclass(frozen=True)
class SlurmSettings(EngineSettings):
    partition: str = ""
    """Partition of the jobs; empty for the cluster's default."""
    account: str = ""
    """Account that the jobs are charged to."""
    qos: str = ""
    """Quality of service of the jobs."""
    constraint: str = ""
    """Features that a node must have, such as `h100`."""
    options: Names = ()  # type: ignore[assignment]
    """More options of sbatch, each as `--reservation=today`."""

    @property
    def command_settings(self) -> CommandSettings:
        """What makes the backend `command` use Slurm."""
        names = ("partition", "account", "qos", "constraint")
        options = [f"--{name}={getattr(self, name)}" for name in names if getattr(self, name)]
        submit = SUBMIT.replace("OPTIONS", shlex.join([*options, *self.options]))
        shared = {item.name: getattr(self, item.name) for item in fields(EngineSettings)}
        return CommandSettings(submit=submit, **SLURM, **shared)


class SlurmBackend(CommandBackend):
    name = "slurm"

    def __init__(self, bucket: Bucket, slots: int | None, settings: SlurmSettings):
        if shutil.which("sbatch") is None:
            raise IdeatorError("This machine has no sbatch. Run the scheduler where jobs are submitted to Slurm.")
        super().__init__(bucket, slots, settings.command_settings)
        self._partition = settings.partition
        # Within an allocation, its variables would become options of the jobs.
        for name in list(self._environment):
            if re.match("SLURM_|SBATCH_", name) and name != "SLURM_CONF":
                del self._environment[name]

    @classmethod
    def create(
        cls, bucket: Bucket, slots: int | None, isolation: str, settings: dict[str, Any] | None = None
    ) -> SlurmBackend:
        """Raises: IdeatorError when a setting is wrong, or Slurm is not installed."""
        del isolation  # part of each job
        return cls(bucket, slots, read_config(SlurmSettings, settings or {}, "The backend_config of slurm has"))

    def refuse_if_too_large(self, resources: Resources) -> None:
        """Raises: IdeatorError when no node is large enough: Slurm would let the job wait without end."""
        partition = f" --partition={shlex.quote(self._partition)}" if self._partition else ""
        answer = self._call(f"sinfo -h -N -o '%c %G'{partition}")
        if answer.status:
            return  # found out at the first submission
        nodes = []
        for line in answer.output.splitlines():
            cpus, _, devices = line.partition(" ")
            gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", devices))
            nodes.append((int(cpus.rstrip("+")), gpus))
        if nodes and not any(cpus >= resources.cpus and gpus >= resources.gpus for cpus, gpus in nodes):
            raise IdeatorError(
                f"An experiment of this preset needs {resources.cpus} CPUs and {resources.gpus} GPUs, and no node of "
                f"{self._partition or 'the cluster'} has both. Choose a smaller preset, or another partition."
            )
