"""The worker: one detached supervisor process that claims one attempt at one experiment and publishes its record.

Claim before spending; heartbeat while running; result created once.  The supervisor outlives whoever started it.  If
it is killed, its sandbox dies with it and the attempt counts as lost.  Whatever goes wrong that is not the idea's
fault ends the attempt with a reason and no result, so that it can be tried again.

usage: python -m ideator_rl.executor.worker '{"bucket": URL, "id": ID, "isolation": "auto"}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.executor import store as attempts
from ideator_rl.executor.supervisor import Supervisor
from ideator_rl.executor.workdirs import home, sweep
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, open_bucket


def cancel(bucket: Bucket, ids: list[str]) -> list[str]:
    """End the supervisors of these experiments that run in this boot of this machine; returns the ids ended.

    A pid is signalled only while its start time is the claimed one.  The experiments can be run again later.
    """
    ended = []
    for id in ids:
        held = attempts.running(bucket, id)
        if held is None or held["place"] != process_tree.place():
            continue
        if process_tree.start_time(held["pid"]) == held["start"]:
            os.kill(held["pid"], signal.SIGKILL)
            ended.append(id)
    return ended


def main(config: dict[str, Any]) -> int:
    """Returns 0 when a result stands in the bucket or somebody else is at it, 1 when the attempt was lost."""
    process_tree.become_subreaper()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some callers leave it, it hides the time of children
    sweep()
    bucket = open_bucket(config["bucket"])
    spec = attempts.Spec.load(bucket, config["id"])
    number = attempts.claim(bucket, config["id"]) if spec is not None else None
    if spec is None or number is None:
        return 0
    try:
        with home() as folder:
            record = Supervisor(bucket, spec, number, config.get("isolation", "auto"), folder).work()
            record.finished = time.time()
            attempts.store_result(bucket, record)
        return 0
    except Exception as error:
        expected = isinstance(error, IdeatorError)
        attempts.give_up(bucket, spec.id, number, str(error) if expected else traceback.format_exc(limit=-3))
        return 1


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
