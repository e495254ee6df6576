"""What the processes of a run tell each other without a collective.

A collective has a timeout (30 minutes by default, fixed for gloo) and experiments take hours, so nobody waits for them
inside one: the ranks poll a small key-value store (torch's `TCPStore`, held by the first process) until all have
arrived, and only then go on together.  One process needs no store.  Keys are used once; old ones are deleted.
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

from ideator_rl.errors import IdeatorError

POLL_SECONDS = (0.002, 0.2)
"""First and longest pause between two looks."""
KEPT = 64
"""Keys that are kept before the oldest is deleted; every rank has passed them long since."""
FAILED = "!"


class OtherRankFailed(IdeatorError):
    """The first process could not say what the others wait for."""


class Ranks:
    """This process among those of its run."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world = dist.get_world_size() if together else 1
        self._store = _open_store(self.rank) if self.world > 1 else None
        self._used: deque[str] = deque()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def meet(self, name: str) -> None:
        """Wait until every rank has come here, however long that takes."""
        if self._store is not None:
            key = self._key(name)
            self._store.add(key, 1)
            _poll(lambda: self._count(key) >= self.world)

    def share(self, name: str, make: Callable[[], Any]) -> Any:
        """What the first process makes (a JSON value), at every rank.

        Raises:
            OtherRankFailed: making it failed there; the first process raises the error itself.
        """
        if self._store is None:
            return make()
        key = self._key(name)
        if self.first:
            try:
                made = make()
            except BaseException as error:
                self._store.set(key, FAILED + str(error))
                raise
            self._store.set(key, json.dumps(made))
            return made
        _poll(lambda: self._there(key))
        said = self._store.get(key).decode()
        if said.startswith(FAILED):
            raise OtherRankFailed(f"The first process failed: {said.removeprefix(FAILED)}")
        return json.loads(said)

    def all(self, name: str, here: bool) -> bool:
        """Whether it is so at every rank."""
        if self._store is None:
            return here
        no = self._key(f"{name}/no")
        if not here:
            self._store.add(no, 1)
        self.meet(f"{name}/asked")
        return not self._there(no)

    def _there(self, key: str) -> bool:
        assert self._store is not None
        return bool(self._store.check([key]))

    def _count(self, key: str) -> int:
        assert self._store is not None
        return int(self._store.add(key, 0))

    def _key(self, name: str) -> str:
        assert self._store is not None
        self._used.append(name)
        if len(self._used) > KEPT:
            old = self._used.popleft()
            if self.first:
                self._store.delete_key(old)
        return name


def _poll(done: Callable[[], bool]) -> None:
    pause, longest = POLL_SECONDS
    while not done():
        time.sleep(pause)
        pause = min(longest, pause * 1.5)


def _open_store(rank: int) -> dist.TCPStore:
    """A store at the first process: its port is free there, and told to the others by one collective at the start."""
    told: list[Any] = [None]
    store = None
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    patience = timedelta(minutes=5)
    if rank == 0:
        port = _free_port()
        store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=patience)
        told = [port]
    dist.broadcast_object_list(told, src=0)
    return store or dist.TCPStore(host, told[0], is_master=False, wait_for_workers=False, timeout=patience)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
