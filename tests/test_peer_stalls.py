"""A search over an example of OpenEvolve goes on when a program loops, sleeps, or leaves a process alive.

The example is a small one of our own.  Its evaluator imports the program into its own process, so that whatever the
program does happens to the evaluator too.
"""

import json
import os
import time
from pathlib import Path

import pytest
from llm_server import Scripted, answer

from ideator_rl.storage.run_reader import read_run

PROGRAM = "# EVOLVE-BLOCK-START\ndef find():\n    return 1.0\n# EVOLVE-BLOCK-END\n"
EVALUATOR = """import importlib.util


def evaluate(program_path):
    spec = importlib.util.spec_from_file_location("program", program_path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return {"combined_score": program.find()}
"""
MARK = f"left-by-a-program-{os.getpid()}"
LOOP = "    while True:\n        pass"
SLEEP = "    import time\n    time.sleep(3600)"
GRANDCHILD = (
    "    import subprocess, sys\n"
    f"    code = 'import time; time.sleep(3600)  # {MARK}'\n"
    "    subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
    "    return 2.0"
)
LOOPING_GRANDCHILD = (
    "    import subprocess, sys\n"
    f"    subprocess.Popen([sys.executable, '-c', 'while True: pass  # {MARK}'], start_new_session=True).wait()"
)
BETTER = "    return 3.0"


def idea(number, body):
    edit = f"program.py\n<<<<<<< SEARCH\n    return 1.0\n=======\n{body}\n>>>>>>> REPLACE\n"
    return {"body": answer(f"[Experiment] idea {number} [Code Changes]\n{edit}[End]")}


def processes_with(mark):
    """Command lines of the processes of this machine that contain a text."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue  # the process has ended
    return [line for line in lines if mark in line]


def searched(tmp_path, call, stalls):
    """The statuses of a search over the stalls and one good idea, in this order; the best metric; seconds."""
    for name, text in (
        ("program.py", PROGRAM),
        ("evaluator.py", EVALUATOR),
        ("config.yaml", "evaluator: {timeout: 1}\n"),
    ):
        (tmp_path / name).write_text(text)
    env = tmp_path / "env"
    code, _, err = call("env", "new", env, "--openevolve", tmp_path / "program.py", tmp_path / "evaluator.py")
    assert code == 0, err
    # The first request only asks whether the model is there.
    bodies = [*stalls, BETTER]
    with Scripted({"body": answer("OK")}, *(idea(number, body) for number, body in enumerate(bodies))) as server:
        llm = {"base_url": server.url, "models": "m", "api_key_env": None, "ideas_per_call": 1}
        options = {"output_dir": tmp_path / "run", "ideator_options": json.dumps(llm), "max_experiments": len(bodies)}
        options |= {"slots": 1, "embedder": "hashed", "in_flight": 1, "baseline_replicates": 1, "inherit": "none"}
        began = time.monotonic()
        code, out, err = call(
            "search", env / "search.yaml", *(word for key, value in options.items() for word in (f"--{key}", value))
        )
        seconds = time.monotonic() - began
    assert code == 0, err
    run = read_run(tmp_path / "run")
    outcomes = {record.idea.split("[Code")[0].strip(): (record.status, record.error) for record in run.ran}
    statuses = [outcomes[f"[Experiment] idea {number}"][0] for number in range(len(bodies))]
    return statuses, run.ranked[0].metric["value"], seconds, outcomes


def test_loops_and_grandchildren_of_a_peers_program_do_not_stall_a_search(tmp_path, call):
    statuses, best, seconds, outcomes = searched(tmp_path, call, (LOOP, GRANDCHILD, LOOPING_GRANDCHILD))
    # The grandchild that sleeps ends with its program, which has a result.
    assert statuses == ["timed_out", "succeeded", "timed_out", "succeeded"], outcomes
    assert best == 3.0
    assert processes_with(MARK) == []
    # The budget is one CPU second each; the bound allows for a busy machine.
    assert seconds < 200


@pytest.mark.slow
def test_a_program_that_sleeps_is_ended_and_a_search_goes_on(tmp_path, call):
    statuses, best, seconds, outcomes = searched(tmp_path, call, (SLEEP,))
    assert statuses == ["timed_out", "succeeded"], outcomes
    assert outcomes["[Experiment] idea 0"][1]["message"].startswith("idle") and best == 3.0
    # 30 s and six times the budget by the wall clock, and not the hour that the program asks for.
    assert 36 < seconds < 200
