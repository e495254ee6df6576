"""A store that is away for four leases, in the middle of eight runs and again while they publish."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TOY, replace_line, run
from object_stores import free_port

from ideator_rl.executor import record_store
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.limits import OVERRUN_SECONDS
from ideator_rl.sandbox.sandbox import NONE

BEAT, LEASE = 1.5, 7.5
AWAY = 4 * LEASE
RUNS = 8


def test_what_reaches_the_bucket_is_seen_by_no_experiment_and_by_no_zygote(s3_url, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "for-the-worker-alone")
    executor = Executor(ExecutorConfig(str(TOY), "cpu", s3_url, slots=1, run_dir=str(tmp_path)))
    look = (
        "import glob, os\nprint(dict(os.environ))\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: print(open(path, 'rb').read())\n"
        "    except OSError: pass\n"
        "time.sleep(pause)"
    )
    record = run(executor.execute_patch(replace_line("time.sleep(pause)", look)))
    zygote = Path(f"/proc/{executor.backend._zygote.pid}/environ").read_bytes()
    executor.close()
    assert record.status == "succeeded" and "IDEATOR_SEED" in record.log
    assert "AWS_" not in record.log and b"AWS_" not in zygote


class Door:
    """The way to the store, which can be closed."""

    def __init__(self, upstream):
        self.upstream, self.port = upstream, free_port()
        self.open()

    def open(self):
        program = str(Path(__file__).with_name("fault_proxy.py"))
        self._process = subprocess.Popen([sys.executable, program, self.upstream, str(self.port)])

    def close(self):
        self._process.kill()
        self._process.wait()


async def watch_lag(lags):
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        lags.append(time.monotonic() - began - 0.01)


async def scenario(executor, door, seconds, lags):
    watch = asyncio.create_task(watch_lag(lags))
    # The first two then compute beyond their budget of 2 s, during the first outage.
    after = ["while True: pass" if number < 2 else "pass" for number in range(RUNS)]
    wait = [8.0 if number < 2 else seconds for number in range(RUNS)]
    patches = [
        replace_line("time.sleep(pause)", f"time.sleep({wait[number]})\n{after[number]}\nnumber = {number}")
        for number in range(RUNS)
    ]
    tasks = [asyncio.create_task(executor.execute_patch(patch)) for patch in patches]
    while len(await asyncio.to_thread(executor.bucket.list, "beats")) < RUNS:
        await asyncio.sleep(0.1)
    for _ in range(2):
        await asyncio.sleep(2.0)
        door.close()
        await asyncio.sleep(AWAY)
        door.open()
        # The second outage begins shortly before the runs end.
        await asyncio.sleep(0.5)
    records = await asyncio.gather(*tasks)
    watch.cancel()
    return records


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")
def test_a_store_away_for_four_leases_twice_costs_no_attempt_and_no_budget(moto_store, s3_url, monkeypatch, tmp_path):
    for name, value in {"BEAT_SECONDS": BEAT, "LEASE_SECONDS": LEASE}.items():
        monkeypatch.setattr(record_store, name, value)
        monkeypatch.setenv(f"IDEATOR_{name}", str(value))
    door = Door(moto_store.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{door.port}")
    lags = []
    time.sleep(1.0)
    executor = Executor(ExecutorConfig(str(TOY), "cpu", s3_url, slots=RUNS, run_dir=str(tmp_path)))
    try:
        # In the middle of the runs, and again when they end.
        records = run(scenario(executor, door, AWAY + 5.0, lags))
    finally:
        executor.close()
        door.close()
    assert [record.status for record in records] == ["timed_out"] * 2 + ["succeeded"] * (RUNS - 2)
    assert [record.attempt for record in records] == [0] * RUNS
    overrun = max(record.seconds["cpu"] for record in records[:2]) - 2.0
    lag = sorted(lags)
    print(f"overrun {overrun:.3f} s; lag of the loop: p99 {lag[int(0.99 * len(lag))]:.4f} s, most {lag[-1]:.4f} s")
    assert overrun < OVERRUN_SECONDS + 0.05
    assert lag[int(0.99 * len(lag))] < 0.05
