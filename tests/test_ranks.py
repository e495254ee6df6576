"""Several processes: they meet on a store, whatever the process group's timeout; real processes, real gloo."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRELUDE = """
    import datetime, json, os, sys, time
    import torch, torch.distributed as dist
    from ideator_rl.training.ranks import OtherRankFailed, Ranks
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=3))
    ranks, rank = Ranks(), int(os.environ["RANK"])
"""


def together(tmp_path, body, world=2, port=None):
    """What each of `world` processes printed as JSON, and their exit statuses."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(body))
    base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port()), "WORLD_SIZE": str(world)}
    base["PYTHONPATH"] = str(ROOT)
    running = [
        subprocess.Popen([sys.executable, script], env=base | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    return [json.loads(text.splitlines()[-1]) if text.strip() else None for text in said], [
        p.returncode for p in running
    ]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_ranks_wait_for_each_other_longer_than_the_group_would_and_share_what_the_first_made(tmp_path):
    said, codes = together(
        tmp_path,
        """
        if rank == 1:
            time.sleep(8)  # far beyond the group's timeout of 3 s
        before = time.monotonic()
        ranks.meet("begin/0")
        waited = time.monotonic() - before
        def make():
            time.sleep(5)
            return {"from": rank, "text": "ü"}
        shared = ranks.share("close/0", make)
        agreed = [ranks.all("a", True), ranks.all("b", rank == 0), ranks.all("c", False)]
        total = torch.ones(1)
        dist.all_reduce(total)
        for index in range(200):
            ranks.meet(f"many/{index}")
        print(json.dumps([waited, shared, agreed, total.item()]))
        """,
    )
    assert codes == [0, 0]
    assert said[0][0] > 5 and said[1][0] < 2
    for _, shared, agreed, total in said:
        assert shared == {"from": 0, "text": "ü"} and agreed == [True, False, False] and total == 2.0


def test_what_fails_in_the_first_process_ends_the_others_with_its_words(tmp_path):
    said, codes = together(
        tmp_path,
        """
        def make():
            raise ValueError("the bucket is full")
        try:
            ranks.share("close/0", make)
        except (ValueError, OtherRankFailed) as error:
            print(json.dumps([type(error).__name__, str(error)]), flush=True)
        ranks.meet("end")
        """,
    )
    assert codes == [0, 0]
    assert said == [
        ["ValueError", "the bucket is full"],
        ["OtherRankFailed", "The first process failed: the bucket is full"],
    ]


def test_one_process_alone_needs_no_store():
    from ideator_rl.training.ranks import Ranks

    ranks = Ranks()
    ranks.meet("x")
    assert ranks.share("y", lambda: {"a": 1}) == {"a": 1} and ranks.all("z", True) and not ranks.all("z", False)
    with pytest.raises(KeyError):
        ranks.share("w", lambda: {}["missing"])
