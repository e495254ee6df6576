"""A bit is a name that does not exist, asked for before or not: a cached answer is quicker."""

import os
import statistics
import time

from call import probe

SIZE, COPIES = 1 << 22, 3
FOLDER = os.path.dirname(os.__file__)
_state = {"nonce": "@NONCE@", "limit": 0}


def prepare(artifact):
    (artifact / "nonce").write_text(os.urandom(8).hex())


def open_for(artifact):
    if (artifact / "nonce").is_file():
        _state["nonce"] = (artifact / "nonce").read_text()
    calibrate()


def calibrate():
    names = [f"{FOLDER}/{os.urandom(8).hex()}" for _ in range(300)]
    first, again = ([_time(name) for name in names] for _ in range(2))
    _state["limit"] = (statistics.median(first) + statistics.median(again)) / 2
    return statistics.median(first), statistics.median(again)


def set(bit):
    for copy in range(COPIES):
        probe(f"{FOLDER}/{_state['nonce']}-{copy}-{bit}")


def test(bit):
    return min(_time(f"{FOLDER}/{_state['nonce']}-{copy}-{bit}") for copy in range(COPIES)) < _state["limit"]


def _time(name):
    start = time.perf_counter_ns()
    probe(name)
    return time.perf_counter_ns() - start
