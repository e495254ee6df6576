"""A finished run in a folder that its reader may not write to: an archive, or another user's."""

import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest

from ideator_rl.experiment import Experiment
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.journal_reader import JournalReader

OTHER_USER = 65534


@pytest.fixture
def folder():
    """A folder that every user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def ids_seen_by_another_user(path, queue):
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(OTHER_USER)
        os.setuid(OTHER_USER)
    with JournalReader(path) as reader:
        queue.put([row[0] for row in reader.read("select id from experiments")])


def test_a_finished_run_is_read_where_nothing_can_be_written(folder):
    path = folder / "buffer.sqlite"
    journal = Journal(path)
    journal.record(Experiment("a", "succeeded", "", "toy", "cpu"))
    journal.close()
    assert sorted(os.listdir(folder)) == ["buffer.sqlite"]
    path.chmod(0o444)
    folder.chmod(0o555)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=ids_seen_by_another_user, args=(path, queue))
    process.start()
    process.join(60)
    folder.chmod(0o755)
    assert process.exitcode == 0 and queue.get(timeout=10) == ["a"]
