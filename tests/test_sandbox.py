import os
import subprocess
import sys

import pytest

from ideator_rl.executor import sandbox
from ideator_rl.executor.sandbox import BWRAP, NONE, Mounts, Sandbox, SandboxError, choose, probe

sealed = pytest.mark.skipif(probe().level == NONE, reason=f"no sandbox works here: {probe().reason}")


def inside(code, mounts=None, level=BWRAP, cwd="/tmp"):
    command = Sandbox(level).command([sys.executable, "-I", "-c", code], mounts or Mounts(), cwd)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={}, check=False)


@sealed
def test_the_sandbox_runs_python_as_an_unprivileged_user_alone():
    done = inside("import os; print(os.getuid() != 0, len(os.listdir('/proc')) > 5, os.getpid() < 100)")
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


@sealed
@pytest.mark.parametrize(
    "attack",
    [
        "open('/proc/sys/kernel/core_pattern', 'w')",
        "open('/usr/x', 'w')",
        "open('/x', 'w')",
        "open('/etc/passwd')",
        "import socket; socket.create_connection(('127.0.0.1', 22), timeout=1)",
        "import os; os.setuid(0)",
    ],
)
def test_what_would_leave_the_sandbox_raises(attack):
    assert inside(attack).returncode == 1


@sealed
def test_only_mounted_folders_are_seen_and_masked_ones_are_empty(tmp_path):
    for name in ("public", "work", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    os.chown(tmp_path / "work", sandbox.experiment_uid(BWRAP), -1)
    mounts = Mounts({tmp_path / "work": "/workspace"}, {tmp_path / "public": "/data"})
    code = (
        "import os\n"
        "print(open('/data/file').read(), os.path.exists(r'%s'))\n"
        "open('out', 'w').write('hello')\n"
        "try: open('/data/file', 'w')\n"
        "except OSError: print('read-only')\n" % (tmp_path / "secret")
    )
    done = inside(code, mounts, cwd="/workspace")
    assert done.stdout.split() == ["public", "False", "read-only"], done.stderr
    assert (tmp_path / "work" / "out").read_text() == "hello"


@sealed
def test_masked_packages_cannot_be_read():
    import yaml

    folder = sandbox.Path(yaml.__file__).parent
    done = inside(f"import os; print(len(os.listdir(r'{folder}')))", Mounts(masked=(folder,)))
    assert done.stdout.strip() == "0", done.stderr


@sealed
def test_the_environment_of_the_caller_does_not_reach_the_sandbox(monkeypatch):
    command = Sandbox(BWRAP).command(
        [sys.executable, "-c", "import os; print('SECRET' in os.environ)"], Mounts(), "/tmp"
    )
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SECRET": "1"}, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_foreign_code_is_refused_where_no_sandbox_works(monkeypatch):
    monkeypatch.setattr(sandbox, "probe", lambda: Sandbox(NONE, "broken here"))
    with pytest.raises(SandboxError, match="broken here.*isolation: none"):
        choose("auto", trusted=False)
    assert choose("auto", trusted=True).level == NONE
    assert choose("none", trusted=False).level == NONE


def test_an_unknown_isolation_is_one_clear_sentence():
    with pytest.raises(SandboxError, match="expected 'auto' or 'none'"):
        choose("docker", trusted=True)
