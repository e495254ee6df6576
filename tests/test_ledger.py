"""The ledger: caps hold with reservations, over threads, processes and sessions of a run."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from ideator_rl.storage import ledger as ledger_module
from ideator_rl.storage.ledger import BudgetSpent, Caps, Ledger, LedgerError, Spent
from ideator_rl.storage.ledger_file import write_totals

SPENDER = """
import sys, time
from pathlib import Path
from ideator_rl.storage.ledger import BudgetSpent, Caps, Ledger, Spent
ledger, done = Ledger(Caps(tokens=100), Path(sys.argv[1])), 0
for _ in range(40):
    try:
        with ledger.reserve(Spent(tokens=2)) as reservation:
            reservation.actual = Spent(tokens=2)
            done += 1
    except BudgetSpent:
        time.sleep(0.001)
print(done)
"""
HOLDER = """
import sys, time
from pathlib import Path
from ideator_rl.storage.ledger import Caps, Ledger, Spent
with Ledger(Caps(usd=10, gpu_hours=10), Path(sys.argv[1])).reserve(Spent(usd=6, tokens=50, gpu_hours=6)):
    print("held", flush=True)
    time.sleep(60)
"""


def start(code, path):
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path):
    """Another process with 6 of 10 USD in flight."""
    process = start(HOLDER, tmp_path / "ledger.json")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_reservation_counts_and_is_replaced_by_the_actual_cost():
    ledger = Ledger(Caps(usd=1.0))
    with ledger.reserve(Spent(usd=0.6)) as reservation:
        with pytest.raises(BudgetSpent, match="0.6 in flight"), ledger.reserve(Spent(usd=0.6)):
            pass
        reservation.actual = Spent(usd=0.1)
    with ledger.reserve(Spent(usd=0.6)):
        pass
    assert ledger.spent.usd == pytest.approx(0.7) and "max_usd" in ledger.exhausted


def test_a_reservation_that_ends_in_an_error_is_booked_in_full():
    ledger = Ledger()
    with pytest.raises(ZeroDivisionError), ledger.reserve(Spent(tokens=7)):
        raise ZeroDivisionError
    assert ledger.spent.tokens == 7


def test_a_call_that_can_wait_waits_for_other_reservations_and_is_not_refused():
    ledger = Ledger(Caps(tokens=10))

    async def call():
        async with ledger.reserve_when_free(Spent(tokens=6)) as reservation:
            await asyncio.sleep(0.02)
            reservation.actual = Spent(tokens=2)

    async def three():
        await asyncio.gather(call(), call(), call())

    asyncio.run(three())
    assert ledger.spent.tokens == 6 and ledger.exhausted is None
    with pytest.raises(BudgetSpent):
        asyncio.run(call())
    assert "6 spent" in ledger.exhausted and ledger.refusal.key == "max_coder_tokens"


def test_two_processes_keep_one_cap(tmp_path):
    path = tmp_path / "ledger.json"
    processes = [start(SPENDER, path) for _ in range(2)]
    done = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(done) == 50 and json.loads(path.read_text()) == {"usd": 0.0, "tokens": 100.0, "gpu_hours": 0.0}
    assert not list(tmp_path.glob("ledger.json.*[!k]")), "the living leave nothing behind"


def test_reservations_of_another_process_count(tmp_path, holder):
    ledger = Ledger(Caps(usd=10), tmp_path / "ledger.json")
    with pytest.raises(BudgetSpent, match="6 in flight"), ledger.reserve(Spent(usd=5)):
        pass
    with ledger.reserve(Spent(usd=4)):
        pass


def test_what_a_killed_process_had_reserved_counts_as_spent(tmp_path, holder):
    ledger = Ledger(Caps(usd=10, gpu_hours=10), tmp_path / "ledger.json")
    holder.kill()
    holder.wait()
    # Its workers outlive it, so their GPU-hours are spent too.
    with pytest.raises(BudgetSpent, match="6 spent"), ledger.reserve(Spent(gpu_hours=5)):
        pass
    with ledger.reserve(Spent(usd=4, gpu_hours=4)) as reservation:
        reservation.actual = Spent(usd=1, gpu_hours=2)
    assert vars(ledger.spent) == {"usd": 7, "tokens": 50, "gpu_hours": 8}


EXPERIMENTER = """
import asyncio, sys
from pathlib import Path
from ideator_rl.storage.ledger import Caps, Ledger
async def main():
    ledger = Ledger(Caps(gpu_hours=10), Path(sys.argv[1]))
    async with ledger.reserve_experiment("a", 6), ledger.reserve_experiment("b", 3):
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def test_an_experiment_of_a_killed_process_is_corrected_by_its_actual_hours(tmp_path):
    process = start(EXPERIMENTER, tmp_path / "ledger.json")
    assert process.stdout.readline() == "held\n"
    ledger = Ledger(Caps(gpu_hours=10), tmp_path / "ledger.json")

    async def again(id, actual=None):
        async with ledger.reserve_experiment(id, 6) as reservation:
            reservation.actual = actual and Spent(gpu_hours=actual)

    ledger.settle_experiment("a", 1)
    assert ledger.spent.gpu_hours == 0, "the process that waits for it books it"
    process.kill()
    process.wait()
    with pytest.raises(BudgetSpent, match="9 spent"):
        asyncio.run(again("c"))
    asyncio.run(again("a"))
    ledger.settle_experiment("b", 1)
    assert ledger.spent.gpu_hours == 7
    asyncio.run(again("a", actual=2))
    for id in ("a", "b", "other"):
        ledger.settle_experiment(id, 5)
    assert json.loads((tmp_path / "ledger.json").read_text()) == {"usd": 0.0, "tokens": 0.0, "gpu_hours": 3.0}


def test_callers_that_wait_for_room_write_nothing_and_look_less_and_less_often(tmp_path, holder, monkeypatch):
    ledger, pauses, written = Ledger(Caps(usd=10), tmp_path / "ledger.json"), [], os.stat(tmp_path / "ledger.json")

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 7:
            raise TimeoutError

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def wait():
        async with ledger.reserve_when_free(Spent(usd=4.5)):
            pass

    # 6 of 10 USD are reserved, and nothing is spent.
    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    now = os.stat(tmp_path / "ledger.json")
    assert (now.st_ino, now.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_process_that_exits_normally_books_its_reservations(tmp_path):
    path = tmp_path / "ledger.json"
    code = HOLDER.replace("time.sleep(60)", "sys.exit()")
    process = start(code, path)
    process.communicate(timeout=60)
    assert Ledger(Caps(usd=10), path).spent.usd == 6


def test_without_caps_only_booking_writes_the_file(tmp_path):
    path = tmp_path / "run" / "ledger.json"
    ledger = Ledger(path=path)
    with ledger.reserve(Spent(usd=1)):
        assert not path.parent.exists()
    assert json.loads(path.read_text())["usd"] == 1.0


def test_a_call_costs_two_writes(tmp_path, monkeypatch):
    writes = []
    monkeypatch.setattr(ledger_module, "write_totals", lambda *args: writes.append(args) or write_totals(*args))
    with Ledger(Caps(usd=1e9), tmp_path / "ledger.json").reserve(Spent(usd=1)):
        pass
    assert len(writes) == 2


def test_a_damaged_file_is_an_error_with_the_expected_content(tmp_path):
    (tmp_path / "ledger.json").write_text('{"usd": 1.')
    with pytest.raises(LedgerError, match="cannot be used.*gpu_hours"):
        Ledger(path=tmp_path / "ledger.json")


def test_a_folder_that_cannot_be_made_is_a_ledger_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(path=tmp_path / "file" / "ledger.json")
