"""A Slurm cluster on the loopback address: munged, slurmctld and one slurmd, in a folder of their own.

usage: python tests/slurm_cluster.py FOLDER [CPUS]      starts it, prints its variables, and ends it on SIGTERM
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
ENV = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
START_SECONDS = 30.0

CONFIG = """\
ClusterName=ideator
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PlugStackConfig=/dev/null
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """The first program that this machine lacks; empty when a cluster can be started."""
    return next((name for name in PROGRAMS if shutil.which(name, path=ENV["PATH"]) is None), "")


class SlurmCluster:
    """A cluster that ends with `close`."""

    def __init__(self, folder: Path, cpus: int = 2):
        self.folder = folder.resolve()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        self._host = host
        values = {"host": host, "user": getpass.getuser(), "folder": self.folder, "cpus": cpus}
        values |= {"controller_port": _free_port(), "node_port": _free_port()}
        (self.folder / "slurm.conf").write_text(CONFIG.format(**values))
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/tty[0-1]\n")
        self.variables = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        files = [f"--{name}-file={self.folder / f'munge.{name}'}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        _wait(lambda: (self.folder / "munge.socket").exists(), "munged makes no socket")
        self.start_controller()
        # In a session of its own, as a service: its signals are not those of the tests.
        self._start("slurmd", "-D", "-N", host)
        _wait(lambda: "idle" in self.command("sinfo", "-h", "-o", "%T"), "the node does not become idle")

    def start_controller(self) -> None:
        self._start("slurmctld", "-D")
        _wait(lambda: "UP" in self.command("scontrol", "ping"), "slurmctld does not answer")

    def stop_controller(self) -> None:
        """End slurmctld; `start_controller` recovers its jobs.  After SIGKILL it would drain a node, for reasons of its own."""
        self._kill("slurmctld")

    def command(self, *argv: str) -> str:
        """Standard output of a Slurm command; empty when it fails."""
        return subprocess.run(argv, env=ENV | self.variables, capture_output=True, text=True, check=False).stdout

    def close(self) -> None:
        self.command("scancel", "--me", "--signal=KILL")
        for name in ("slurmd", "slurmctld", "munged"):
            self._kill(name)

    def _start(self, *argv: str) -> None:
        with open(self.folder / f"{argv[0]}.out", "ab") as output:
            self._processes[argv[0]] = subprocess.Popen(
                argv, env=ENV | self.variables, stdout=output, stderr=output, start_new_session=True
            )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(condition, problem: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"The Slurm cluster does not start: {problem}.")
        time.sleep(0.1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cluster = SlurmCluster(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count() or 2)
    try:
        print(f"export SLURM_CONF={cluster.variables['SLURM_CONF']}", flush=True)
        signal.pause()
    finally:
        cluster.close()
