"""The implementer `command`: scripted agents, well-behaved and hostile, in the real sandbox."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import TOY, run

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.ideas import parse_idea
from ideator_rl.implementers import agent_worker
from ideator_rl.implementers import command as agent_command
from ideator_rl.implementers.agent_tree import DEFAULT_IGNORED, read_agent_tree
from ideator_rl.implementers.agent_worker import AgentJob
from ideator_rl.implementers.implementer import (
    ImplementerUnavailable,
    NotImplementable,
    estimate_cost,
    get_implementer,
    writes_trusted_code,
)
from ideator_rl.patch import PatchError, patched_tree
from ideator_rl.sandbox.sealed_run import RunResult
from ideator_rl.storage.ledger import BudgetSpent, Caps, Ledger

IDEA = "[Experiment] Lower x. [Code Changes] Set x to 1.0. [End]"
EDIT = "import re; s = open('train.py').read(); open('train.py', 'w').write(s.replace('x = 4.0', 'x = 1.0'));"


def python(code):
    return ["python3", "-c", code]


def implement(command, ledger=None, **settings):
    """What the implementer makes of an idea: the patched tree and the usage."""
    environment = load_environment(TOY)
    base = environment.baseline("cpu")
    implementer = get_implementer("command", {"command": command} | settings, ledger)
    implementation = run(implementer.implement(parse_idea(IDEA), base, environment, "cpu"))
    return patched_tree(base, implementation.patch, environment.rules), implementation.usage


def refusal(command, **settings):
    """The kind and the message with which an idea is refused."""
    with pytest.raises((NotImplementable, ImplementerUnavailable)) as caught:
        implement(command, **settings)
    return getattr(caught.value, "kind", "lost"), str(caught.value)


def processes_with(mark):
    """Pids of all processes whose command line or variables hold a text."""
    pids = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                pids += [entry.name] if mark.encode() in text else []
    return pids


def test_an_agent_reads_the_idea_and_edits_the_codebase(monkeypatch):
    monkeypatch.setenv("AGENT_KEY", "key-of-the-agent-1")
    monkeypatch.setenv("OTHER_KEY", "another-key-12345")
    code = (
        EDIT + "import json, os; brief = open(os.environ['IDEATOR_IDEA']).read();"
        "assert 'Set x to 1.0.' in brief and 'evaluator.py' in brief and 'lower is better' in brief;"
        "assert os.environ['AGENT_KEY'] == 'key-of-the-agent-1' and 'OTHER_KEY' not in os.environ;"
        "assert os.getuid() != 0 and not os.path.exists('/root') and os.listdir('.') == ['IDEA.md', 'train.py'] or 1;"
        "os.makedirs('.agent/log'); open('.agent/log/x', 'w').write('junk'); os.makedirs('__pycache__');"
        "print('working'); print(json.dumps({'total_cost_usd': 0.25}))"
    )
    ledger = Ledger(Caps(usd=1.0))
    tree, usage = implement(python(code), ledger, pass_variables="AGENT_KEY", max_usd_per_idea=0.5)
    assert list(tree) == ["train.py"] and "x = 1.0" in tree["train.py"]
    assert usage == {"usd": 0.25, "calls": 1.0} and ledger.spent.usd == 0.25
    assert not writes_trusted_code("command")


HOSTILE = {
    "a link out of the codebase": ("import os; os.symlink('/etc/passwd', 'notes.py')", "rejected", "notes.py: a link"),
    "a fifo": ("import os; os.mkfifo('pipe.py')", "rejected", "pipe.py: a link or special file"),
    "a file that is not editable": (EDIT + "open('evil.txt', 'w').write('x')", "rejected", "evil.txt: not among"),
    "a protected file": ("open('evaluator.py', 'w').write('x')", "rejected", "protected"),
    "a binary file": ("open('train.py', 'wb').write(b'\\x00\\xff' * 9)", "rejected", "not UTF-8"),
    "a file that is too large": ("open('train.py', 'w').write('#' * 2_000_000)", "rejected", "2000000 bytes"),
    "many files": ("[open(f'{i}.py', 'w').write('') for i in range(100)]", "rejected", "100 files differ"),
    "a deleted codebase": ("import os; os.remove('train.py')", "ok", ""),
    "a folder in a file's place": ("import os; os.remove('train.py'); os.mkdir('train.py')", "ok", ""),
    "nothing": ("print('I looked around')", "unpatchable", "changed nothing; the end of its output: I looked around"),
    "a refusal": ("print('no'); raise SystemExit(65)", "unpatchable", "cannot implement it"),
    "a failure": ("print('401 wrong key'); raise SystemExit(3)", "lost", "status 3; the end of its output: 401"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_an_agent_leaves_is_judged(name):
    code, kind, message = HOSTILE[name]
    if kind == "ok":
        # Its removal is a patch like any other; the experiment then fails.
        assert implement(python(code))[0] == {}
        return
    got, text = refusal(python(code))
    assert got == kind and message in text


def test_what_an_agent_leaves_is_read_without_following_it(tmp_path):
    """The same without a sandbox: each fault in a folder of its own."""
    base = {"train.py": "x = 1\n", ".style": "a\n"}
    faults = {
        "link": lambda folder: (folder / "a.py").symlink_to("/etc/passwd"),
        "linked folder": lambda folder: (folder / "src").symlink_to("/etc"),
        "fifo": lambda folder: os.mkfifo(folder / "a.py"),
        "socket": lambda folder: socket.socket(socket.AF_UNIX).bind(str(folder / "a.py")),
        "binary": lambda folder: (folder / "a.py").write_bytes(b"\xff\x00"),
        "huge": lambda folder: os.truncate(folder / "train.py", 10 << 30),
        "deep": lambda folder: (folder / "/".join("d" * 80)).mkdir(parents=True),
        "sum": lambda folder: [(folder / f"{i}.py").write_text("#" * 400) for i in range(4)],
    }
    for name, spoil in faults.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        for path, text in base.items():
            (folder / path).write_text(text)
        assert read_agent_tree(folder, base, DEFAULT_IGNORED, 1000) == dict(sorted(base.items()))
        spoil(folder)
        with pytest.raises(PatchError) as caught:
            read_agent_tree(folder, base, DEFAULT_IGNORED, 1000)
        assert caught.value.kind == "rejected", name
    # A hidden file of the baseline is part of it; what tools leave is not, links included.
    folder = tmp_path / "kept"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "x").symlink_to("/etc/passwd")
    (folder / ".style").write_text("b\n")
    assert read_agent_tree(folder, base, DEFAULT_IGNORED, 1000) == {".style": "b\n"}


@pytest.mark.slow
def test_limits_end_the_whole_process_tree():
    mark = f"mark-{time.time_ns()}"
    loop = [
        "sh",
        "-c",
        f"(exec -a {mark} sleep 600 || sleep 600 {mark}) & setsid sh -c 'sleep 600; : {mark}' & while :; do :; done",
    ]
    kind, message = refusal(loop, timeout_seconds=2.0)
    assert kind == "unpatchable" and "was ended" in message and not processes_with(mark)
    # A grandchild that lives on does not keep an agent that has ended.
    daemon = ["sh", "-c", f"setsid sh -c 'sleep 600; : {mark}' & sed -i 's/x = 4.0/x = 1.0/' train.py"]
    started = time.monotonic()
    assert "x = 1.0" in implement(daemon, timeout_seconds=300.0)[0]["train.py"]
    assert time.monotonic() - started < 150 and not processes_with(mark)
    memory = python("x = b'1' * (1 << 30); import time; time.sleep(60)")
    assert "memory limit" in refusal(memory, memory_gb=0.3)[1]
    forks = python("import os, time\nfor _ in range(99): os.fork() or time.sleep(60)")
    assert "limit of 40 processes" in refusal(forks, processes=40)[1]
    disk = python("f = open('big.py', 'wb')\nfor _ in range(10_000): f.write(b'#' * (1 << 20))")
    kind, message = refusal(disk, disk_gb=0.2)
    assert kind in ("lost", "unpatchable") and ("No space" in message or "disk limit" in message)


@pytest.mark.slow
def test_no_secret_of_an_agent_is_written_anywhere(monkeypatch):
    secret = f"secret-{time.time_ns()}"
    monkeypatch.setenv("AGENT_KEY", secret)
    seen = []

    def look():
        while not over.wait(0.02):
            for pid in Path("/proc").iterdir():
                with suppress(OSError):
                    if pid.name.isdigit() and secret.encode() in (pid / "cmdline").read_bytes():
                        seen.append(pid.name)

    over = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        command = python("import os; print('it is', os.environ['AGENT_KEY']); raise SystemExit(1)")
        kind, message = refusal(command, pass_variables=["AGENT_KEY"])
        assert kind == "lost" and secret not in message and "it is (hidden)" in message
        command = python("import os; open('train.py', 'a').write('# ' + os.environ['AGENT_KEY'])")
        kind, message = refusal(command, pass_variables=["AGENT_KEY"])
        assert kind == "rejected" and "AGENT_KEY" in message and secret not in message
    finally:
        over.set()
        watcher.join()
    assert not seen


def test_secrets_are_in_no_part_of_a_result(tmp_path):
    """The same without a sandbox: the folder as an agent may leave it."""
    short, long = "hush-hush", "hush-hush-and-more"
    base = {"train.py": "x = 1\n"}
    job = AgentJob(0, "", base, "IDEA.md", "", [], 1.0, ["A", "B"], [], [], [], [], 1000, "usd", None, 1.0, 1.0, 1)

    def result(name):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "train.py").write_text("x = 2\n")
        (folder / name).symlink_to("x") if name.startswith("link") else (folder / name).write_text("")
        log = f"{short} {long}\n" + json.dumps({"usd": 10**400})
        ended = RunResult("ok", "", log, 0.0, True, 0.0, 0.0, exit_code=0)
        return agent_worker._result(job, ended, folder, {"A": short, "B": long})

    fine = result("new.py")
    assert fine.status == "ok" and list(fine.tree) == ["new.py", "train.py"]
    # The longer secret leaves no end of itself, and a number that no float holds is no cost.
    assert fine.output.startswith("(hidden) (hidden)\n") and fine.usd is None
    for name in (f"{long}.py", f"link-{long}"):
        refused = result(name)
        assert refused.status == "rejected" and refused.tree == {} and refused.message
        assert "hush" not in json.dumps(asdict(refused))


@pytest.mark.slow
def test_only_listed_endpoints_can_be_reached():
    served = []

    def serve(server):
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client:
                    served.append(client.recv(4096).split(b"\r\n")[0].decode())
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for server in servers:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
    allowed, other = (server.getsockname()[1] for server in servers)
    code = f"""
import os, urllib.request
[os.environ.pop(name, 0) for name in ("no_proxy", "NO_PROXY")]
def get(url, proxies=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        return opener.open(url, timeout=20).read().decode()
    except Exception as error:
        return type(error).__name__ + str(getattr(error, "code", ""))
proxy = {{"http": os.environ.get("HTTP_PROXY", "http://127.0.0.1:9")}}
print(get("http://localhost:{allowed}/direct", {{}}), get("http://127.0.0.1:{allowed}/proxied?a=b", proxy),
      get("http://localhost:{allowed}/named", proxy), get("http://localhost:{other}/", {{}}),
      get("http://localhost:{other}/", proxy), sep=",")
raise SystemExit(65)
"""
    try:
        _, message = refusal(python(code), endpoints=[f"localhost:{allowed}"])
        assert "ok,HTTPError403,ok,URLError,HTTPError403" in message
        assert served == ["GET /direct HTTP/1.1", "GET /named HTTP/1.1"]
        _, message = refusal(python(code))
        assert "URLError,URLError,URLError,URLError,URLError" in message and len(served) == 2
    finally:
        for server in servers:
            server.close()


@pytest.mark.slow
def test_an_equal_idea_asks_an_agent_once_and_a_killed_run_leaves_nothing(tmp_path):
    mark = f"mark-{time.time_ns()}"

    def executor(command):
        coder = json.dumps({"command": command})
        config = ExecutorConfig(str(TOY), "cpu", f"file://{tmp_path}/bucket", implementer="command", coder=coder)
        return Executor(config)

    command = ["sh", "-c", f": {mark}; sed -i 's/x = 4.0/x = 1.0/' train.py"]
    first = run(executor(command).execute(IDEA))
    again = run(executor(command).execute(IDEA))
    assert first.status == again.status == "succeeded" and again.replayed and again.cost == {}
    assert first.cost["calls"] == 1 and first.implementer == "command" and "+x = 1.0" in first.patch

    async def cancel():
        task = asyncio.create_task(executor(["sh", "-c", f"sleep 600; : {mark}"]).execute(IDEA))
        while not processes_with(mark):
            await asyncio.sleep(0.05)
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
        with suppress(asyncio.CancelledError):
            await task

    run(cancel())
    assert not processes_with(mark)
    # Killed without a chance to clean up: what it had started ends by itself.
    code = f"import test_agent; test_agent.implement(['sh', '-c', 'sleep 600; : {mark}'])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)
    wait_for(lambda: any(f"sleep 600; : {mark}" in words for words in command_lines() if "sh\0-c" in words[:9]))
    process.kill()
    process.wait()
    wait_for(lambda: not processes_with(mark))


def command_lines():
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                yield (entry / "cmdline").read_text(errors="replace")


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_costs_count_towards_the_cap():
    ledger = Ledger(Caps(usd=0.3))
    with pytest.raises(BudgetSpent):
        implement(python("pass"), ledger, max_usd_per_idea=0.5)
    environment = load_environment(TOY)
    cost = estimate_cost("command", {"command": "agent", "max_usd_per_idea": 0.5}, 10, environment, "cpu")
    assert (cost.low.usd, cost.high.usd) == (0.0, 5.0)


def cost_of(command, **settings):
    """What is booked for an agent that fails."""
    ledger = Ledger(Caps(usd=5.0))
    with pytest.raises(ImplementerUnavailable):
        implement(command, ledger, max_usd_per_idea=2.0, **settings)
    return ledger.spent.usd


def test_an_agent_that_never_started_costs_nothing(monkeypatch):
    assert cost_of(["/no/such/program"]) == 0
    assert cost_of(["/no/such/program"], endpoints=["localhost:12345"]) == 0
    monkeypatch.setattr(agent_command.sys, "executable", "/bin/false")
    assert cost_of(python("pass")) == 0


def test_an_agent_cannot_claim_that_it_never_started():
    code = """
import contextlib, glob, os
for pipe in [*glob.glob("/ideator/agent/*"), *glob.glob("/proc/[0-9]*/fd/*")]:
    with contextlib.suppress(OSError):
        if "report" in pipe or "agent/report" in os.readlink(pipe):
            os.write(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), b"m")
raise SystemExit(127)
"""
    assert cost_of(python(code)) == 2.0
    assert cost_of(python(code), endpoints=["localhost:12345"]) == 2.0


def test_an_agent_that_reports_more_than_its_setting_is_reserved_as_much():
    ledger, report = Ledger(Caps(usd=5.0)), "import json; print(json.dumps({'total_cost_usd': 2}))"
    environment = load_environment(TOY)
    settings = {"command": python(EDIT + report), "max_usd_per_idea": 0}
    implementer = get_implementer("command", settings, ledger)
    with pytest.raises(BudgetSpent, match="the next could cost 2"):
        for _ in range(10):
            run(implementer.implement(parse_idea(IDEA), environment.baseline("cpu"), environment, "cpu"))
    assert ledger.spent.usd == 4.0 and "max_usd" in ledger.exhausted


def test_a_cap_that_nothing_would_keep_is_refused():
    for caps, usd, remedy in (
        (Caps(usd=5.0), None, "Add max_usd_per_idea"),
        (Caps(tokens=5), None, "Add max_usd, and max_usd_per_idea"),
        (Caps(tokens=5), 1.0, "Add max_usd, and max_usd_per_idea"),
    ):
        with pytest.raises(IdeatorError, match=remedy):
            get_implementer("command", {"command": "agent", "max_usd_per_idea": usd}, Ledger(caps))
    for caps, usd in ((Caps(gpu_hours=5), None), (Caps(usd=5.0, tokens=5), 1.0), (Caps(usd=5.0, tokens=5), 0)):
        get_implementer("command", {"command": "agent", "max_usd_per_idea": usd}, Ledger(caps))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no 'command'"),
        ({"command": ""}, "a command line"),
        ({"command": "a", "endpoints": "https://x.org"}, "host:port"),
        ({"command": "a", "endpoints": ["x.org:0"]}, "host:port"),
        ({"command": "a", "visible_folders": ["opt"]}, "absolute paths"),
        ({"command": "a", "cost_file": "../cost.json"}, "without folders"),
        ({"command": "a", "pass_variables": ["A=b"]}, "names of environment variables"),
        ({"command": "a", "pass_variables": ["NOT_SET_ANYWHERE"]}, "NOT_SET_ANYWHERE"),
        ({"command": "a", "timeout": 3}, "timeout_seconds"),
    ],
)
def test_unusable_settings_are_named(settings, message):
    with pytest.raises(IdeatorError, match=message):
        get_implementer("command", settings)
