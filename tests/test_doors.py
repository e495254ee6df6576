"""A scorer may open files while it loads and in its first pass, and makes no path or file call once it reads hidden
tokens: in its main thread, in threads and in children that were started before.
"""

import platform
import struct
import textwrap

import numpy as np
import pytest

from ideator_rl.sandbox import doors, seccomp
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.scoring.scoring import Request, ScorerFailed, ScoringRun

pytestmark = pytest.mark.skipif(not doors.program(platform.machine()), reason="no table for this architecture")
VOCAB = 4
SHADOWED = ("array", "mmap", "pkgutil", "platform", "selectors", "runpy", "atexit", "gc")
"""Files of every codebase here: modules that the launcher and the scorer import for themselves."""
HEAD = """
import ctypes, errno, os, socket, threading
import numpy as np
LIBC = ctypes.CDLL(None, use_errno=True)

def outcome(number):
    # All arguments are invalid: a call that reaches the kernel fails with another error.
    ctypes.set_errno(0)
    return ctypes.get_errno() if LIBC.syscall(number, -1, -1, -1, 0, -1, -1) < 0 else 0

def opened():
    try:
        os.close(os.open("/workspace/model.py", os.O_RDONLY))
        return 0
    except OSError as error:
        return error.errno

def answers(value):
    # A model that ignores the tokens and answers one number.
    return lambda tokens: np.full((*tokens.shape, 4), value(), np.float32)
"""


@pytest.fixture
def values(tmp_path):
    """The numbers that a model (the body of `load`) answers to three requests of one scorer."""

    def ask(body):
        tree, artifact = tmp_path / "tree", tmp_path / "artifact"
        tree.mkdir()
        artifact.mkdir()
        code = HEAD + "\ndef load(artifact):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (tree / "model.py").write_text(code)
        (tree / "late.py").write_text("VALUE = 7\n")
        for name in SHADOWED:
            (tree / f"{name}.py").write_text("raise SystemExit('code of the experiment, too early')\n")
        for path in (tmp_path, tree, artifact, *tree.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        run = ScoringRun(artifact, tmp_path, tmp_path, "cpu", 0, {}, VOCAB, best_sandbox(), tree, "model:load")
        with run.open_scorer() as scorer:
            requests = [Request(np.zeros((1, 2), np.int32))] * 3
            numbers = [float(answer[0, 0, 0]) for answer in scorer.stream(requests)]
        assert run.notes["doors"] == "shut"
        return numbers

    return ask


def test_files_open_while_the_model_loads_and_in_its_first_pass_only(values):
    assert values("""
        assert opened() == 0
        passes = []
        def value():
            passes.append(opened())
            return 1000 * len(passes) + sum(passes)
        return answers(value)
    """) == [2038.0, 3076.0, 4114.0]  # the warm-up was the first pass; 38 is ENOSYS


def test_an_import_in_the_first_pass_works(values):
    assert (
        values("""
        def value():
            import late
            return late.VALUE
        return answers(value)
    """)
        == [7.0] * 3
    )


def test_an_import_in_a_later_pass_fails_the_experiment(values):
    with pytest.raises(ScorerFailed, match="OSError|ModuleNotFoundError"):
        values("""
            passes = []
            def value():
                passes.append(1)
                if len(passes) > 1:
                    import late
                return 0
            return answers(value)
        """)


@pytest.mark.parametrize("name", ["main", "thread", "child"])
def test_each_listed_call_fails_wherever_it_comes_from(name, values):
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    refused = {name: pair for name, pair in doors._PATHS_AND_FILES.items() if name not in seccomp._EFFECTLESS}
    numbers = [pair[column] for pair in (*refused.values(), doors._MMAP) if pair[column] >= 0]
    body = f"""
        def unrefused():
            # ENOSYS, or what the sandbox's own filter returns first: EPERM, EAFNOSUPPORT, EOPNOTSUPP.
            results = [(number, outcome(number)) for number in {numbers}]
            return next((1000 * number + error for number, error in results if error not in (38, 1, 97, 95)), 0)
        ask, answer, passes = os.pipe(), os.pipe(), []
        def serve():
            while os.read(ask[0], 1):
                os.write(answer[1], unrefused().to_bytes(4, "little"))
        if {name!r} == "thread":
            threading.Thread(target=serve, daemon=True).start()
        elif {name!r} == "child" and os.fork() == 0:
            serve()
        def value():
            passes.append(1)
            if len(passes) == 1:
                return 0  # the warm-up: they would pass
            if {name!r} == "main":
                return unrefused()
            os.write(ask[1], b"x")
            return int.from_bytes(os.read(answer[0], 4), "little")
        return answers(value)
    """
    assert len(numbers) > 90
    assert values(body) == [0] * 3  # else 1000 times the number of a call, and its error


def test_no_descriptor_inside_holds_the_doors(values):
    assert (
        values("""
        import stat
        suspects = []
        for handle in range(1024):
            try: kind = stat.S_IFMT(os.fstat(handle).st_mode)
            except OSError: continue
            if kind in (stat.S_IFSOCK, 0):  # a listener has no file type
                suspects.append(handle)
        return answers(lambda: len(suspects))
    """)
        == [0.0] * 3
    )


LISTENER = """
program = b"".join(__import__("struct").pack("=HBBI", *row) for row in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 257 if os.uname().machine == "x86_64" else 56), (6, 0, 0, 0x7FC00000),
    (6, 0, 0, 0x7FFF0000)])
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))
number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
def listen():
    return LIBC.syscall(number, 1, 8, ctypes.byref(Program(4, program)))
"""
"""A filter of the experiment's own that asks its own listener about openat; the newest filter's listener is asked."""


def test_a_listener_of_the_experiments_own_is_refused_while_it_loads(values):
    assert values(f"{LISTENER}\nlistener = listen()\nreturn answers(lambda: listener)") == [-1.0] * 3


def test_a_listener_of_the_experiments_own_is_refused_when_the_doors_are_shut(values):
    assert values(f"{LISTENER}\nreturn answers(lambda: listen() if opened() else 0)") == [-1.0] * 3


def test_a_listener_asked_for_at_the_moment_the_doors_are_shut_is_refused(values):
    # A thread asks all the time: one of its calls is allowed just before, and made just after.
    assert (
        values(f"""
        {textwrap.indent(LISTENER, "        ").strip()}
        listeners = []
        def ask():
            while not listeners:
                handle = listen()
                if handle >= 0:
                    listeners.append(handle)
        for _ in range(4):
            threading.Thread(target=ask, daemon=True).start()
        return answers(lambda: len(listeners))
    """)
        == [0.0] * 3
    )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_each_architecture_ends_in_a_verdict_on_every_path(machine):
    code = doors.program(machine)
    rows = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    assert len(rows) < 4096 and rows[-1][0] == 0x06
    for place, (kind, yes, no, _) in enumerate(rows):
        assert kind == 0x06 or place + 1 + max(yes, no) < len(rows)


def test_an_architecture_without_a_table_has_no_doors():
    assert doors.program("riscv64") == b""
