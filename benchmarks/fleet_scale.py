"""What a look at a large bucket costs: experiments that are waited for, next to many that have ended.

usage: python benchmarks/fleet_scale.py [--store file seaweedfs] [--finished 100000] [--waiting 256] [--delay 0.02]

The bucket is filled with finished experiments, then with waiting ones, of which every second has a heartbeat.  An
object store is seaweedfs on loopback, behind a proxy that adds `--delay` seconds to each request and counts.  Each
figure is taken by a new process:

look     `BucketWatch.look` when nothing has changed: median and most of 30, and the requests of one
cold     a stand-alone scheduler: from opening the bucket until it has taken on every experiment, without imports
serve    an event loop whose scheduler waits for all of them for 20 s, with a backend that has no room: longest time
         that the loop was late, then and for 20 s before without a scheduler
rss      most memory of that process
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
LOOKS, SERVE_SECONDS, STEP_SECONDS = 30, 20.0, 0.005
DAY = "20260101"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", nargs="+", default=["file", "seaweedfs"], choices=["file", "seaweedfs", "moto"])
    parser.add_argument("--finished", type=int, default=100_000)
    parser.add_argument("--waiting", type=int, default=256)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds added to each request")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "BUCKET"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps({"look": look, "cold": cold, "serve": serve}[args.measure[0]](args.measure[1], args.waiting)))
        return 0
    for store in args.store:
        with ExitStack() as stack:
            url, variables, proxy = _start(store, args.delay, stack)
            os.environ.update(variables)
            began = time.monotonic()
            _fill(url, args.finished, args.waiting, direct=None if proxy is None else proxy[1])
            print(
                f"{store}: {args.finished} finished, {args.waiting} waiting, filled in {time.monotonic() - began:.0f} s"
            )
            for kind in ("look", "cold", "serve"):
                if proxy is not None:
                    urllib.request.urlopen(f"{proxy[0]}/-/reset").read()
                command = [sys.executable, __file__, "--measure", kind, url, "--waiting", str(args.waiting)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                figures = json.loads(output)
                if proxy is not None:
                    figures["requests"] = json.loads(urllib.request.urlopen(f"{proxy[0]}/-/counts").read())
                print(f"  {kind:6}{json.dumps(figures)}", flush=True)
    return 0


def _start(store: str, delay: float, stack: ExitStack) -> tuple[str, dict[str, str], tuple[str, str] | None]:
    """The bucket's URL, the variables that reach it, and the URLs of the proxy and of the store behind it."""
    import object_stores

    if store == "file":
        return f"file://{stack.enter_context(tempfile.TemporaryDirectory())}/bucket", {}, None
    server = stack.enter_context(getattr(object_stores, store)())
    port = object_stores.free_port()
    program = [sys.executable, str(ROOT / "tests/fault_proxy.py"), server.endpoint, str(port), str(delay)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    stack.callback(process.kill)
    proxy = f"http://127.0.0.1:{port}"
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{proxy}/-/counts").read()
            break
        except OSError:
            time.sleep(0.1)
    return server.new_url(), server.variables | {"AWS_ENDPOINT_URL": proxy}, (proxy, server.endpoint)


def _fill(url: str, finished: int, waiting: int, direct: str | None) -> None:
    """Finished experiments have a record and nothing else: it is their number that counts."""
    from ideator_rl.executor import record_store
    from ideator_rl.experiment import Experiment
    from ideator_rl.storage.bucket import FileBucket, open_bucket

    proxy = os.environ.get("AWS_ENDPOINT_URL")
    if direct is not None:
        os.environ["AWS_ENDPOINT_URL"] = direct
    bucket = open_bucket(url)
    record_store.upgrade(bucket)
    ids = [f"{number:032x}" for number in range(finished)]

    def put_finished(id: str) -> None:
        body = Experiment(id, "failed", "an idea", "toy", "cpu", log="l" * 2_000).to_json().encode()
        for key, data in ((f"experiments/{id}/result.json", body), (f"done/{DAY}/{id}", b"")):
            if isinstance(bucket, FileBucket):  # without the sync to disk of each
                path = bucket.root / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            else:
                bucket.put(key, data)

    with ThreadPoolExecutor(1 if isinstance(bucket, FileBucket) else 32) as pool:
        list(pool.map(put_finished, ids))
    for id in _waiting(waiting):
        record_store.enqueue(bucket, _entry(id))
    for id in _waiting(waiting)[::2]:
        bucket.put(f"{record_store.BEATS}/{id}", os.urandom(100))
    if proxy is not None:
        os.environ["AWS_ENDPOINT_URL"] = proxy


def _waiting(count: int) -> list[str]:
    return [f"waiting{number:025x}" for number in range(count)]


def _entry(id: str) -> Any:
    from ideator_rl.environments.environment import Resources
    from ideator_rl.executor.record_store import QueueEntry

    return QueueEntry(id, Resources(), 10, "toy", "cpu", created=5.0)


def look(url: str, waiting: int) -> dict[str, Any]:
    from ideator_rl.executor.bucket_watch import BucketWatch
    from ideator_rl.storage.bucket import open_bucket

    watch = BucketWatch(open_bucket(url))
    watch.look()
    assert len(watch.queue) == waiting, len(watch.queue)
    times = []
    for _ in range(LOOKS):
        began = time.monotonic()
        watch.look()
        times.append(time.monotonic() - began)
    return {"median_s": round(statistics.median(times), 4), "most_s": round(max(times), 4), "looks": 1 + LOOKS}


def cold(url: str, waiting: int) -> dict[str, Any]:
    from ideator_rl.executor import record_store
    from ideator_rl.executor.scheduler import Scheduler
    from ideator_rl.storage.bucket import open_bucket

    began = time.monotonic()
    bucket = open_bucket(url)
    record_store.upgrade(bucket)
    scheduler = Scheduler(bucket, _full())
    scheduler.serve(lambda id, outcome: None)
    while len(scheduler.without_record) < waiting:
        time.sleep(0.002)
    seconds = time.monotonic() - began
    scheduler.close()
    return {"seconds": round(seconds, 3), "rss_mb": _most_memory()}


def _full() -> Any:
    """A backend that has no room, and runs nothing."""
    from ideator_rl.executor.backends import Backend

    class Full(Backend):
        def submit(self, jobs: list[Any]) -> dict[str, str | None]:
            return {}

    return Full()


def serve(url: str, waiting: int) -> dict[str, Any]:
    from ideator_rl.executor.scheduler import Scheduler
    from ideator_rl.storage.bucket import open_bucket

    async def longest_lag(seconds: float) -> float:
        end, longest = time.monotonic() + seconds, 0.0
        while (before := time.monotonic()) < end:
            await asyncio.sleep(STEP_SECONDS)
            longest = max(longest, time.monotonic() - before - STEP_SECONDS)
        return round(longest, 3)

    async def measure() -> dict[str, Any]:
        scheduler = Scheduler(open_bucket(url), _full())
        alone = await longest_lag(SERVE_SECONDS)
        futures = [scheduler.result(_entry(id)) for id in _waiting(waiting)]
        lag = await longest_lag(SERVE_SECONDS)
        assert not any(future.done() for future in futures)
        for future in futures:
            future.cancel()
        scheduler.close()
        return {"longest_lag_s": lag, "without_scheduler_s": alone, "rss_mb": _most_memory()}

    return asyncio.run(measure())


def _most_memory() -> int:
    # Not that of `getrusage`, which begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    sys.exit(main())
