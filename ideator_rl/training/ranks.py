"""Barriers and broadcasts between the processes of a run that may wait for hours.

A collective has a timeout (30 minutes by default, fixed for gloo) and experiments take hours.  So no rank waits for
experiments inside one: the ranks poll a small key-value store (torch's `TCPStore`, served by rank 0) until all have
arrived, and only then continue together.  A single process needs no store.  Each name is used once; old keys are
deleted.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ideator_rl.training.session import OtherRankFailed

POLL_SECONDS = (0.002, 0.2)
"""The first pause between two looks at the store, and the longest."""
LIVE_KEYS = 64
"""Keys in the store before the oldest is deleted; every rank has read it long before."""
FAILED = "!"
"""Begins the value of a broadcast that failed; JSON never does."""


class Ranks:
    """This process, and its connection to the other processes of the run."""

    def __init__(self) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.world = dist.get_world_size() if distributed else 1
        self._store = _open_store(self.rank) if self.world > 1 else None
        self._keys: deque[str] = deque()

    @property
    def is_zero(self) -> bool:
        return self.rank == 0

    def barrier(self, name: str) -> None:
        """Wait until every rank has called this, for as long as it takes."""
        if self._store is not None:
            key = self._new_key(name)
            self._store.add(key, 1)
            # A counter, since each rank arrives once.
            _poll(lambda: self._count(key) >= self.world)

    def broadcast(self, name: str, compute: Callable[[], Any]) -> Any:
        """Rank 0's result of `compute`, a JSON value, at every rank.

        Raises:
            OtherRankFailed: `compute` raised; rank 0 itself raises that error.
        """
        if self._store is None:
            return compute()
        key = self._new_key(name)
        if self.is_zero:
            # The others would poll for ever if an error left the key without a value.
            try:
                value = compute()
            except BaseException as error:
                self._store.set(key, FAILED + str(error))
                raise
            self._store.set(key, json.dumps(value))
            return value
        _poll(lambda: self._exists(key))
        text = self._store.get(key).decode()
        if text.startswith(FAILED):
            raise OtherRankFailed(f"The first process failed: {text.removeprefix(FAILED)}")
        return json.loads(text)

    def all_true(self, name: str, value: bool) -> bool:
        """Whether the value is true at every rank."""
        if self._store is None:
            return value
        # A single "no" decides; the barrier makes sure that every rank has had the chance to enter one.
        no = self._new_key(f"{name}/no")
        if not value:
            self._store.add(no, 1)
        self.barrier(f"{name}/asked")
        return not self._exists(no)

    def _exists(self, key: str) -> bool:
        assert self._store is not None
        return bool(self._store.check([key]))

    def _count(self, key: str) -> int:
        assert self._store is not None
        return int(self._store.add(key, 0))

    def _new_key(self, name: str) -> str:
        """Note that a key is used, and delete the oldest one."""
        assert self._store is not None
        self._keys.append(name)
        if len(self._keys) > LIVE_KEYS:
            oldest = self._keys.popleft()
            if self.is_zero:
                self._store.delete_key(oldest)
        return name


def _poll(is_done: Callable[[], bool]) -> None:
    # Short waits stay short, and hours of waiting cost five looks a second.
    pause, longest = POLL_SECONDS
    while not is_done():
        time.sleep(pause)
        pause = min(longest, pause * 1.5)


def _open_store(rank: int) -> dist.TCPStore:
    """A store served by rank 0, at a port that is free there; one collective at the start gives it to the others."""
    # Not the default group's store: its keys and time-outs belong to torch.
    port: list[Any] = [None]
    store = None
    # The store has no password: where all ranks are on one machine, no other machine is to reach it.
    host = "127.0.0.1" if _all_on_this_machine() else os.environ.get("MASTER_ADDR", "127.0.0.1")
    options: dict[str, Any] = {"wait_for_workers": False, "timeout": timedelta(minutes=5)}
    if rank == 0:
        listener = socket.socket()
        listener.bind(("127.0.0.1" if _all_on_this_machine() else "", 0))
        listener.listen(128)
        port = [int(listener.getsockname()[1])]
        # The store closes the descriptor at its end.
        store = dist.TCPStore(host, port[0], is_master=True, master_listen_fd=listener.detach(), **options)
    dist.broadcast_object_list(port, src=0)
    return store or dist.TCPStore(host, port[0], is_master=False, **options)


def keep_to_this_machine() -> None:
    """Have gloo listen on loopback where all ranks are on this machine.  Call it before the process group exists."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and _all_on_this_machine():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _all_on_this_machine() -> bool:
    """Whether the launcher started every rank of the run on this machine, as its variables state."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE", "1")
