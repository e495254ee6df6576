"""What runs on the nodes of a Ray cluster: an actor that waits for a worker, its child process."""

from __future__ import annotations

from functools import cache

LOG_BYTES = 4096
LINGER_SECONDS = 30.0
"""An actor whose worker has ended waits this long for a scheduler that asks for the exit status."""


@cache
def worker_actor() -> type:
    """The class of the actors; inside a function, so that Ray copies its code: nodes need not import this package."""

    class IdeatorWorker:
        def __init__(self, argv: list[str], variables: dict[str, str], log_bytes: int, linger: float):
            import os
            import subprocess
            import tempfile
            import threading
            import time

            self.log, self.log_bytes = tempfile.TemporaryFile(), log_bytes  # noqa: SIM115 - as long as the actor
            # Ray's answer which GPUs are the job's.
            gpus = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
            # In the actor's session, so that Ray ends it with the actor.
            self.child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=variables | gpus
            )

            def end() -> None:
                # Also where no scheduler lives to end the actor: it holds CPUs and GPUs.
                self.child.wait()
                time.sleep(linger)
                os._exit(0)

            threading.Thread(target=end, daemon=True).start()

        def ready(self) -> bool:
            return True

        def outcome(self) -> tuple[int, str]:
            """Exit status of the worker and the end of its output, once it has ended."""
            status = self.child.wait()
            self.log.seek(max(0, self.log.seek(0, 2) - self.log_bytes))
            return status, self.log.read().decode(errors="replace")

        def stop(self) -> None:
            self.child.terminate()

    return IdeatorWorker
