"""Barriers and broadcasts that outlast the process group's timeout; real processes, real gloo."""

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
    from ideator_rl.training.ranks import OtherRankFailed, Ranks, keep_to_this_machine
    keep_to_this_machine()
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=3))
    ranks, rank = Ranks(), int(os.environ["RANK"])
"""


def run_ranks(tmp_path, body, world=2, port=None):
    """Run `body` in `world` processes; returns what each printed as JSON, and their exit statuses."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(body))
    base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port()), "WORLD_SIZE": str(world)}
    base["LOCAL_WORLD_SIZE"] = str(world)
    base["PYTHONPATH"] = str(ROOT)
    running = [
        subprocess.Popen([sys.executable, script], env=base | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    texts = [process.communicate(timeout=120)[0] for process in running]
    results = [json.loads(text.splitlines()[-1]) if text.strip() else None for text in texts]
    return results, [process.returncode for process in running]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_barriers_and_broadcasts_last_longer_than_the_timeout_of_the_process_group(tmp_path):
    results, codes = run_ranks(
        tmp_path,
        """
        if rank == 1:
            time.sleep(8)  # far beyond the group's timeout of 3 s
        before = time.monotonic()
        ranks.barrier("begin/0")
        waited = time.monotonic() - before
        def compute():
            time.sleep(5)
            return {"from": rank, "text": "ü"}
        shared = ranks.broadcast("close/0", compute)
        agreed = [ranks.all_true("a", True), ranks.all_true("b", rank == 0), ranks.all_true("c", False)]
        total = torch.ones(1)
        dist.all_reduce(total)
        for index in range(200):
            ranks.barrier(f"many/{index}")
        print(json.dumps([waited, shared, agreed, total.item()]))
        """,
    )
    assert codes == [0, 0]
    assert results[0][0] > 5 and results[1][0] < 2
    for _, shared, agreed, total in results:
        assert shared == {"from": 0, "text": "ü"} and agreed == [True, False, False] and total == 2.0


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two ranks print: a failed broadcast, the addresses they listen on, and the port of torch's own store."""
    results, codes = run_ranks(
        tmp_path_factory.mktemp("ranks"),
        """
        def compute():
            raise ValueError("the bucket is full")
        try:
            ranks.broadcast("close/0", compute)
        except (ValueError, OtherRankFailed) as error:
            failure = [type(error).__name__, str(error)]
        # Of the table's columns, the second is address:port and the fourth the state: 0A listens.
        names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        own = {os.readlink(name) for name in names if os.path.islink(name)}
        addresses = []
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for row in open(table).read().splitlines()[1:]:
                column = row.split()
                if column[3] == "0A" and f"socket:[{column[9]}]" in own:
                    addresses.append(column[1])
        print(json.dumps([failure, addresses, os.environ["MASTER_PORT"]]), flush=True)
        ranks.barrier("end")
        """,
    )
    assert codes == [0, 0]
    return results


@pytest.mark.slow  # in CI's slow step
def test_a_broadcast_that_fails_at_rank_zero_raises_its_message_at_the_other_ranks(two_ranks):
    assert [failure for failure, _, _ in two_ranks] == [
        ["ValueError", "the bucket is full"],
        ["OtherRankFailed", "The first process failed: the bucket is full"],
    ]


def test_a_single_process_needs_no_store():
    from ideator_rl.training.ranks import Ranks

    ranks = Ranks()
    ranks.barrier("x")
    assert (
        ranks.broadcast("y", lambda: {"a": 1}) == {"a": 1}
        and ranks.all_true("z", True)
        and not ranks.all_true("z", False)
    )
    with pytest.raises(KeyError):
        ranks.broadcast("w", lambda: {}["missing"])


@pytest.mark.slow
def test_ranks_of_one_machine_listen_on_loopback_alone(two_ranks):
    """Torch's own store listens everywhere; what this library opens does not."""
    of_torch = f"{int(two_ranks[0][2]):04X}"
    loopback = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    addresses = two_ranks[0][1] + two_ranks[1][1]
    ours = [address.split(":") for address in addresses if address.split(":")[1] != of_torch]
    assert ours and all(address in loopback for address, _ in ours), ours


def test_a_model_is_saved_whole_by_whichever_rank_has_its_lock(tmp_path, monkeypatch):
    pytest.importorskip("transformers", "5.23")
    from transformers.distributed import mixin

    from ideator_rl.training.models import build_ideator

    monkeypatch.setattr(mixin, "_is_torch_distributed_initialized", lambda: True)
    monkeypatch.setattr(mixin, "_get_torch_distributed_rank", lambda: 1)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    build_ideator(None, {"vocab_size": 300, **sizes}, ["Set x to 1."], tmp_path / "scratch", 0)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in (tmp_path / "scratch").iterdir()}
