import fcntl
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import executor
from ideator_rl.executor.executor import Executor
from ideator_rl.sandbox import choose, launch, memory_image, scorer_files
from ideator_rl.sandbox.choose import best_sandbox, choose_sandbox, with_image
from ideator_rl.sandbox.image_files import Listing, _record
from ideator_rl.sandbox.memory_image import remove_unused
from ideator_rl.sandbox.mounts import Image, Mounts
from ideator_rl.sandbox.sandbox import BWRAP, NONE, Sandbox
from ideator_rl.sandbox.scorer_files import files_in_memory

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
    monkeypatch.setattr(scorer_files, "_copied", full)
    with pytest.raises(MemoryError, match="No space left"), files_in_memory(image, {tmp_path: "/x"}):
        pass
    assert not list((store / "scorers").iterdir())


def test_a_remover_that_locked_a_removed_lock_leaves_the_new_image_alone(store, monkeypatch):
    folder = store / "images"
    folder.mkdir(parents=True)
    (folder / "k.lock").touch()
    os.utime(folder / "k.lock", (0, 0))
    lock, held = fcntl.flock, []

    def after_others(handle, kind):
        # Between opening and locking, another one removes the image, and a third makes it anew and uses it.
        if not held:
            (folder / "k.lock").unlink()
            held.append(os.open(folder / "k.lock", os.O_RDWR | os.O_CREAT))
            lock(held[0], fcntl.LOCK_SH)
            (folder / "k").mkdir()
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", after_others)
    remove_unused(folder)
    os.close(held[0])
    assert (folder / "k").is_dir() and (folder / "k.lock").exists()


def test_an_image_that_was_used_before_the_remover_had_the_lock_stays(store, monkeypatch):
    image = memory_image.memory_image(("a",))
    os.close(memory_image._locks.pop(image.root.name))
    path, lock = image.root.with_suffix(".lock"), fcntl.flock
    os.utime(path, (0, 0))

    def after_use(handle, kind):
        os.utime(path)
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", after_use)
    remove_unused(store / "images")
    assert image.root.is_dir()


def is_free(path):
    with open(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("error", [OSError("no room"), ValueError("broken")])
def test_a_making_that_fails_without_room_for_its_reason_leaves_no_lock(store, monkeypatch, error):
    def fail(image, preload):
        raise error

    def full(path, text):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory_image, "_make", fail)
    monkeypatch.setattr(Path, "write_text", full)
    try:
        assert memory_image.memory_image(("a",)) == "no room"
    except ValueError:
        assert isinstance(error, ValueError)
    assert [path.suffix for path in (store / "images").iterdir()] == [".lock"]
    assert is_free(next((store / "images").glob("*.lock")))


def test_who_waits_too_long_for_the_maker_of_an_image_does_without(store, monkeypatch):
    monkeypatch.setattr(memory_image, "WAIT_SECONDS", 0.2, raising=False)
    folder = store / "images"
    folder.mkdir(parents=True, mode=0o700)
    store.chmod(0o700)
    with open(folder / f"{memory_image._key(('a',))}.lock", "w") as maker:
        fcntl.flock(maker, fcntl.LOCK_EX)
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        waiter = context.Process(target=lambda: answers.put(memory_image.memory_image(("a",))))
        waiter.start()
        waiter.join(10)
        waiter.kill()
        assert waiter.exitcode == 0 and "another process" in answers.get()


def test_an_image_that_was_removed_under_its_user_is_made_again(store):
    image = memory_image.memory_image(("a",))
    (image.root / "image.json").unlink()
    assert memory_image.memory_image(("a",)) == Image.load(image.root)


def test_only_equal_files_of_two_images_are_shared(store, tmp_path):
    first = memory_image.memory_image(("a",))
    second = memory_image.memory_image(("b",))
    inner = str(tmp_path / "file").lstrip("/")
    assert (first.root / inner).samefile(second.root / inner)
    info = (tmp_path / "file").stat()
    (tmp_path / "file").write_text("LIBRARY")
    os.utime(tmp_path / "file", ns=(info.st_atime_ns, info.st_mtime_ns))
    third = memory_image.memory_image(("c",))
    assert (third.root / inner).read_text() == "LIBRARY"


def test_the_key_changes_with_what_is_installed_but_not_with_what_is_compiled(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    for folder in ("package", "package-1.dist-info"):
        (site / folder).mkdir(parents=True)
    (site / "package-1.dist-info" / "RECORD").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    keys = [memory_image._key(())]
    for folder in (site, site / "package"):
        (folder / "__pycache__").mkdir()
    assert memory_image._key(()) == keys[0]
    os.utime(site / "package-1.dist-info" / "RECORD", (0, 0))
    keys.append(memory_image._key(()))
    (site / "package-1.dist-info").rename(site / "package-2.dist-info")
    keys.append(memory_image._key(()))
    (site / "alone.py").touch()
    keys.append(memory_image._key(()))
    assert len(set(keys)) == 4


def test_the_key_does_not_change_when_a_package_is_compiled(tmp_path):
    import numpy

    folder, before = Path(numpy.__file__).parent, memory_image._key(())
    times = folder.stat()
    try:
        os.utime(folder)
        assert memory_image._key(()) == before
    finally:
        os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_libraries_in_the_prefix_that_a_distribution_records_are_taken_along():
    root = f"{sys.prefix}/lib/python3.11/site-packages"
    record = "../../libmkl_core.so.2,,\n../../../bin/tool,,\n../../../../elsewhere,,\nmkl/a.so,,\n"
    distribution = SimpleNamespace(locate_file=lambda name: root, read_text=lambda name: record)
    assert _record(distribution) == [f"{sys.prefix}/lib/libmkl_core.so.2", f"{root}/mkl/a.so"]


@sealed
def test_a_library_that_opens_another_at_first_use_is_tried(image, monkeypatch):
    assert memory_image._import_fault(image, ()) == ""
    late = "import ctypes\nnumpy.linalg.solve = lambda *_: ctypes.CDLL('libnowhere.so')\n"
    monkeypatch.setattr(memory_image, "_TRIAL", late + memory_image._TRIAL)
    assert "libnowhere.so" in memory_image._import_fault(image, ())


@sealed
def test_imports_that_never_end_are_a_reason_for_the_disk(image, monkeypatch):
    monkeypatch.setattr(memory_image, "TRIAL_SECONDS", 0.5)
    monkeypatch.setattr(memory_image, "_TRIAL", "import time; time.sleep(30)")
    assert "over 0.5 s" in memory_image._import_fault(image, ())


@pytest.mark.parametrize("name", ["mkdtemp", "rename", "iterdir"])
def test_a_scorers_folder_that_cannot_be_made_is_a_fault_of_the_machine(store, monkeypatch, tmp_path, name):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    image = memory_image.memory_image(("a",))
    with monkeypatch.context() as patch:
        patch.setattr(tempfile if name == "mkdtemp" else Path, name, full)
        with pytest.raises(MemoryError, match="No space left"), files_in_memory(image, {tmp_path: "/x"}):
            pass
    assert not list((store / "scorers").iterdir())
