import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import executor
from ideator_rl.executor.executor import Executor
from ideator_rl.sandbox import choose, launch, memory_image
from ideator_rl.sandbox.choose import best_sandbox, choose_sandbox, with_image
from ideator_rl.sandbox.image_files import Listing
from ideator_rl.sandbox.memory_image import files_in_memory, remove_unused
from ideator_rl.sandbox.mounts import Image, Mounts
from ideator_rl.sandbox.sandbox import BWRAP, NONE, Sandbox

sealed = pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")


@pytest.fixture(scope="module")
def image():
    image = memory_image.memory_image(())
    if isinstance(image, str):
        pytest.skip(f"no image in memory here: {image}")
    return image


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A store of images in a temporary folder, whose images are one small file."""
    (tmp_path / "file").write_text("library")
    listing = Listing()
    listing.add(tmp_path / "file")
    monkeypatch.setattr(memory_image, "_SHM", tmp_path)
    monkeypatch.setattr(memory_image, "_OWN", tmp_path / "own")
    monkeypatch.setattr(memory_image, "_mount_own", lambda: None)
    monkeypatch.setattr(memory_image, "_unfit", lambda folder: "" if folder.is_dir() else f"{folder} is not a tmpfs")
    monkeypatch.setattr(memory_image, "files_of", lambda preload: listing)
    monkeypatch.setattr(memory_image, "_import_fault", lambda image, preload: "")
    monkeypatch.setattr(memory_image, "_locks", {})
    return tmp_path / f"ideator_rl-{os.getuid()}"


def inside(code, mounts, cwd="/tmp"):
    argv = [sys.executable, "-I", "-B", "-c", code]
    process = Sandbox(best_sandbox().level).start(
        argv, mounts, cwd, silent=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.split()


FILE_SYSTEMS = """
import os
lines = [line.split() for line in open("/proc/self/mountinfo")]
print(*sorted({line[line.index("-") + 1] for line in lines}))
"""


@sealed
def test_a_scorer_with_an_image_sees_no_file_system_of_a_disk(image, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "model.py").write_text("x = 1")
    with files_in_memory(image, {tmp_path / "tree": "/workspace"}) as copies:
        kinds = inside(FILE_SYSTEMS, Mounts({}, copies, image=image), "/workspace")
    assert set(kinds) <= {"tmpfs", "proc", "devpts", "devtmpfs", "mqueue"}
    assert image.launcher.read_text() == Path(launch.__file__).read_text()
    on_disk = inside(FILE_SYSTEMS, Mounts({}, {tmp_path / "tree": "/workspace"}))
    assert set(on_disk) - {"tmpfs", "proc", "devpts", "devtmpfs", "mqueue"}


@sealed
def test_numpy_computes_in_an_image_and_nothing_can_be_written_there(image):
    code = (
        "import os, sys, numpy\nprint(numpy.arange(4).sum(), numpy.__file__.startswith(sys.prefix))\n"
        "for path in (numpy.__file__, '/usr/lib/x', '/etc/passwd', sys.prefix + '/x'):\n"
        "    try: open(path, 'a')\n"
        "    except OSError: print('refused')"
    )
    output = inside(code, Mounts(image=image))
    assert output == ["6", "True", *4 * ["refused"]]


@sealed
def test_the_library_itself_and_the_host_are_not_in_an_image(image, tmp_path):
    code = (
        f"import importlib.util, os; print(importlib.util.find_spec('ideator_rl'), os.path.exists({str(tmp_path)!r}))"
    )
    assert inside(code, Mounts(image=image)) == ["None", "False"]


@sealed
def test_masked_folders_are_empty_in_an_image(image):
    import numpy

    folder = os.path.dirname(numpy.__file__)
    mounts = Mounts(masked=(Path(folder), Path("/var")), image=image)
    assert inside(f"import os; print(len(os.listdir({folder!r})))", mounts) == ["0"]


def test_the_second_call_returns_the_same_image_without_making_it(store, monkeypatch):
    first = memory_image.memory_image(("a",))
    monkeypatch.setattr(memory_image, "_make", None)
    assert memory_image.memory_image(("a",)) == first
    assert isinstance(first, Image) and (first.root / str(store.parent / "file").lstrip("/")).read_text() == "library"


def test_processes_that_start_together_make_one_image(store, monkeypatch):
    makings = multiprocessing.get_context("fork").Value("i", 0)
    make = memory_image._make

    def counted(image, preload):
        with makings.get_lock():
            makings.value += 1
        time.sleep(0.2)
        make(image, preload)

    monkeypatch.setattr(memory_image, "_make", counted)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=memory_image.memory_image, args=(("a",),)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert makings.value == 1
    assert isinstance(memory_image.memory_image(("a",)), Image)


def test_an_image_stays_while_it_is_used_and_goes_when_it_is_not(store):
    image = memory_image.memory_image(("a",))
    other = memory_image.memory_image(("b",))
    os.close(memory_image._locks.popitem()[1])
    remove_unused(store / "images", seconds=0)
    assert image.root.exists() and not other.root.exists()
    assert {path.name for path in (store / "images").iterdir()} == {image.root.name, f"{image.root.name}.lock"}
    # The removed one is made anew.
    assert isinstance(memory_image.memory_image(("b",)), Image)


def test_a_folder_that_another_user_could_have_made_is_refused(store):
    store.mkdir(mode=0o755)
    store.chmod(0o755)
    assert "not a folder of this user's alone" in memory_image.memory_image(("a",))
    store.rmdir()
    (store.parent / "elsewhere").mkdir(mode=0o700)
    store.symlink_to(store.parent / "elsewhere")
    assert "not a folder of this user's alone" in memory_image.memory_image(("a",))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_root_mounts_a_tmpfs_where_the_shared_one_cannot_be_trusted(store, monkeypatch):
    store.mkdir()
    store.chmod(0o755)
    monkeypatch.setattr(memory_image, "_mount_own", (store.parent / "own").mkdir)
    assert memory_image.memory_image(("a",)).root.is_relative_to(store.parent / "own")


def test_only_environments_with_a_scorer_get_an_image(toy_config, monkeypatch):
    monkeypatch.setattr(choose, "memory_image", lambda preload: "asked for")
    assert not Executor(toy_config).environment.scorer and not Executor(toy_config).sandbox.on_disk
    with_scorer = replace(load_environment(toy_config.environment), scorer="train:load")
    monkeypatch.setattr(executor, "load_environment", lambda name: with_scorer)
    assert Executor(toy_config).sandbox.on_disk == (best_sandbox().level != NONE)
    assert not Executor(replace(toy_config, backend="bucket")).sandbox.on_disk


def test_an_image_that_is_too_large_is_refused_once_and_the_isolation_names_the_disk(store, monkeypatch):
    monkeypatch.setattr(memory_image, "machine_memory", lambda: 1000.0)
    reason = memory_image.memory_image(("a",))
    assert "12.5% of the memory" in reason
    monkeypatch.setattr(memory_image, "_make", None)
    assert memory_image.memory_image(("a",)) == reason
    sandbox = with_image(Sandbox(BWRAP), ("a",))
    assert (sandbox.level, sandbox.isolation, sandbox.image) == (BWRAP, "bwrap-disk", None)
    assert reason in sandbox.reason
    assert with_image(Sandbox(NONE, "asked for"), ("a",)) == Sandbox(NONE, "asked for")


def test_a_sandbox_reaches_another_process_with_its_image(store, monkeypatch):
    monkeypatch.setattr(choose, "best_sandbox", lambda: Sandbox(BWRAP))
    sandbox = choose_sandbox("auto", trusted=True, preload=("a",))
    copy = Sandbox.from_json(sandbox.to_json())
    assert copy == sandbox and copy.image == sandbox.image is not None
    assert Sandbox.from_json(replace(sandbox, image=None).to_json()).image is None


def test_files_of_a_scorer_are_removed_at_its_end_and_after_its_death(store, tmp_path):
    image = memory_image.memory_image(("a",))
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "weights").write_bytes(b"1")
    scorers = store / "scorers"
    with files_in_memory(image, {tmp_path / "artifact": "/artifact", tmp_path / "file": "/f"}) as copies:
        folder, file = copies
        assert (folder / "weights").read_bytes() == b"1" and file.read_text() == "library"
        assert list(copies.values()) == ["/artifact", "/f"]
        assert scorers in folder.parents
    assert not list(scorers.iterdir())
    # As a killed process leaves it, and beside it the folder of a living one.
    (scorers / "dead").mkdir()
    (scorers / "living").mkdir()
    handle = os.open(scorers / "living", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with files_in_memory(image, {}):
        assert not (scorers / "dead").exists() and (scorers / "living").exists()
    os.close(handle)


def test_a_scorers_files_that_find_no_room_are_a_fault_of_the_machine(store, monkeypatch, tmp_path):
    def full(source, target):
        raise OSError(28, "No space left on device")

    image = memory_image.memory_image(("a",))
    monkeypatch.setattr(memory_image, "_copied", full)
    with pytest.raises(MemoryError, match="No space left"), files_in_memory(image, {tmp_path: "/x"}):
        pass
    assert not list((store / "scorers").iterdir())
