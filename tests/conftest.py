"""Shared by all tests: the toy environment, and slots and scratch space of their own."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# Before any test imports torch.  Test processes share few cores, and torch's threads wait for one another in each
# operation: where one has lost its core, a tiny model generates three to nine times slower with two than with one.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from object_stores import moto_store, s3_url, start_moto  # noqa: F401 - fixtures

from ideator_rl.sandbox import process_tree

TOY = Path(__file__).parent / "toy_env"


@pytest.fixture(scope="session", autouse=True)
def own_scratch() -> Iterator[None]:
    """Tests must not wait for the slots of a run that somebody has going on this machine."""
    with tempfile.TemporaryDirectory(prefix="ideator-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        before, os.environ["TMPDIR"], tempfile.tempdir = os.environ.get("TMPDIR"), folder, None
        yield
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        tempfile.tempdir = None


@pytest.fixture(scope="session", autouse=True)
def own_trackio() -> Iterator[None]:
    """Runs of tests must not appear among the user's."""
    with tempfile.TemporaryDirectory(prefix="ideator-trackio-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_reaches_commands() -> None:
    """A shell ignores SIGINT in what it starts in the background, and all that a test starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def workers_are_measured() -> None:
    """Workers inherit an allow-list; under coverage they are measured too."""
    from ideator_rl.executor import start_worker

    start_worker.INHERITED = (*start_worker.INHERITED, *(name for name in os.environ if name.startswith("COVERAGE_")))


@pytest.fixture(autouse=True)
def own_variables() -> Iterator[None]:
    """A test that sets a variable, or calls what sets one, must not change the tests after it."""
    before = dict(os.environ)
    yield
    before["PYTEST_CURRENT_TEST"] = os.environ["PYTEST_CURRENT_TEST"]  # pytest's own, different by now
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch) -> None:
    """Attempts at an experiment follow one another quickly."""
    from ideator_rl.executor import attempt_policy

    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (0.05, 0.1, 0.2))


@pytest.fixture
def no_other_children() -> None:
    """End what earlier tests left: a run ends and collects all children, and would count their CPU seconds as its own."""
    process_tree.kill_tree(os.getpid())
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.fixture
def toy() -> Path:
    return TOY


@pytest.fixture
def toy_config(tmp_path: Path):
    from ideator_rl.reward_buffer import BufferConfig

    return BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2)


@pytest.fixture
def toy_buffer(toy_config):
    from ideator_rl.reward_buffer import open_buffer

    buffer = open_buffer(toy_config)
    yield buffer
    buffer.close()


@pytest.fixture
def call(capsys):
    """Run a command line in this process: exit status, stdout, stderr."""
    from ideator_rl.cli.commands import main

    def go(*words):
        code = main([str(word) for word in words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


def execute(call, tmp_path, *words):
    """`ideator-rl execute` on the toy environment, with records in a bucket of the test's own."""
    return call("execute", TOY, "--bucket", f"file://{tmp_path}/bucket", "--json", *words)


def sentence(code, err):
    """An expected error: status 2 and one sentence, not a traceback."""
    assert code == 2 and err.startswith("ideator-rl: ") and "Traceback" not in err
    return err


def replace_line(old: str, new: str) -> str:
    """A SEARCH/REPLACE patch of the toy's train.py."""
    return f"train.py\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


async def until(condition, seconds=60.0):
    """Wait until a condition holds: a busy machine takes long for what mostly takes a moment."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def experiment_runs_below(pid: int) -> bool:
    """Whether a process has begun to run an experiment's script, forked or cold."""
    for process in process_tree.descendants(pid):
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes()
            if process != pid and (b"train.py" in words or b"fork_server.py" in words):
                return True
    return False


def run(coroutine):
    """Wait for a coroutine: a test is a plain function."""
    return asyncio.run(coroutine)
