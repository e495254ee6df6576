"""Files and folders appear whole or not at all."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from ideator_rl import files
from ideator_rl.cli.target import find_trainer
from ideator_rl.files import NoFileLocks, atomic_folder, exclusive, open_lock, try_lock, write_atomic
from ideator_rl.llm import Reply
from ideator_rl.llm.recording import Recording
from ideator_rl.storage.run_folder import RunFolderError, take


def test_a_write_makes_the_folder_and_replaces_an_older_file(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomic(path, b"first")
    write_atomic(path, "zweitens ü")
    assert path.read_bytes() == "zweitens ü".encode() and os.listdir(path.parent) == ["file"]


def test_a_write_that_fails_leaves_the_older_file_and_no_scratch_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"first")

    def full_disk(handle):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["file"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path):
    target = tmp_path / "target"
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as scratch:
        (scratch / "file").write_text("half")
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
    for text in ("first", "second"):
        with atomic_folder(target) as scratch:
            (scratch / "file").write_text(text)
            assert not target.exists() or (target / "file").read_text() != text
    assert (target / "file").read_text() == "second" and os.listdir(tmp_path) == ["target"]


def test_a_folder_that_must_not_be_overwritten_is_kept(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("kept")
    with pytest.raises(OSError), atomic_folder(tmp_path / "target", overwrite=False):
        pass
    assert (tmp_path / "target" / "mine").read_text() == "kept"


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    for name in ("empty", "new"):
        link = tmp_path / f"{name}_link"
        link.symlink_to(tmp_path / "disk" / name)
        with atomic_folder(link, overwrite=False) as scratch:
            (scratch / "file").write_text("whole")
        assert link.is_symlink() and (link / "file").read_text() == "whole"
    assert sorted(os.listdir(tmp_path / "disk")) == ["empty", "new"]


def test_a_mount_point_is_filled_in_its_place(tmp_path, monkeypatch):
    target = tmp_path / "disk"
    target.mkdir()
    monkeypatch.setattr(files, "_mounts", lambda: {str(target): "ext4"})
    inode = target.stat().st_ino
    with pytest.raises(OSError, match="not empty"), atomic_folder(target, overwrite=False) as scratch:
        (scratch / "file").write_text("whole")
        (target / "mine").write_text("kept")
    assert os.listdir(target) == ["mine"]
    with atomic_folder(target) as scratch:
        (scratch / "file").write_text("whole")
    assert os.listdir(target) == ["file"] and os.listdir(tmp_path) == ["disk"] and target.stat().st_ino == inode


@pytest.fixture
def without_locks(monkeypatch):
    """A function that takes the locks from the files of some folders."""
    flock, folders = fcntl.flock, []

    def refuse(handle, operation):
        path = os.readlink(f"/proc/self/fd/{handle if isinstance(handle, int) else handle.fileno()}")
        if any(path.startswith(str(folder)) for folder in folders):
            raise OSError(errno.ENOLCK, "No locks available")
        return flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    return folders.append


def test_a_file_system_without_locks_is_replaced_by_this_machines_temporary_folder(without_locks, tmp_path, caplog):
    without_locks(tmp_path)
    target = tmp_path / "data"
    with exclusive(target):
        other = open_lock(tmp_path / ".data.lock")
        assert not try_lock(other, target)
    assert try_lock(other, target)
    os.close(other)
    [line] = [record.getMessage() for record in caplog.records]
    assert f"{tmp_path} has no file locks: only processes of this machine are kept apart" in line


def test_a_run_on_a_file_system_without_locks_is_found_while_it_works(without_locks, tmp_path):
    without_locks(tmp_path)
    with take(tmp_path, resume=False):
        assert find_trainer(tmp_path).pid == os.getpid()
        with pytest.raises(RunFolderError, match=f"process {os.getpid()}"), take(tmp_path, resume=True):
            pass
        assert find_trainer(tmp_path).pid == os.getpid()
    assert find_trainer(tmp_path) is None


def test_a_recording_on_a_file_system_without_locks_is_written_all_the_same(without_locks, tmp_path):
    without_locks(tmp_path)
    reply = Reply("text", "stop", "m", 1, 1, 0.0, 0.1)
    Recording(tmp_path / "calls.jsonl").add("key", {}, reply)
    assert Recording(tmp_path / "calls.jsonl").get("key") == reply


def test_without_any_locks_the_reason_is_one_sentence_with_a_way_on(without_locks, tmp_path):
    without_locks("/")
    with pytest.raises(NoFileLocks, match=r"has no file locks \(flock: No locks available\).*Set TMPDIR"):
        open_lock(tmp_path / "lock")
    with pytest.raises(NoFileLocks), take(tmp_path / "run", resume=False):
        pass


@pytest.mark.parametrize("folder", [".", "..", "/", "sub"])
def test_a_folder_is_not_replaced_by_a_file(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(Path(folder), b"x")
