"""Starts training runs by forking, so that a test imports trl only once.

Reads JSON lines: {"argv": [...], "log": path} starts a run in a process of its own session and answers its pid;
{"wait": pid} answers its exit status (negative for a signal).  With "env", variables such as RANK; with "scramble", the
run samples from random numbers that never repeat, as on a GPU; with "scripted", each completion is an idea about the toy
in the place of what the model wrote.
"""

import json
import os
import sys
import traceback

import torch
from scripted import idea

import ideator_rl.training.build  # noqa: F401 - imported before the fork, shared by all runs
from ideator_rl.train import main
from ideator_rl.training.trainer import IdeatorGRPOTrainer


def scramble():
    original_sample = IdeatorGRPOTrainer.sample

    def sample(self, index):
        torch.manual_seed(int.from_bytes(os.urandom(7), "big"))
        return original_sample(self, index)

    IdeatorGRPOTrainer.sample = sample


def script():
    """Ideas as a function of batch and row, so that a model without a warm-up has some that succeed."""
    original_sample = IdeatorGRPOTrainer.sample

    def sample(self, index):
        batch = original_sample(self, index)
        count = len(batch.completions)
        batch.completions = [idea(f"set {'xyz'[(index + row) % 3]} = {index + row - 4}.5") for row in range(count)]
        return batch

    IdeatorGRPOTrainer.sample = sample


def start(argv, log, env=None, scrambled=False, scripted=False):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.environ.update(env or {})
        if scrambled:
            scramble()
        if scripted:
            script()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        status = 99
        try:
            status = main(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return pid


for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    else:
        answer = start(
            request["argv"],
            request["log"],
            request.get("env"),
            request.get("scramble", False),
            request.get("scripted", False),
        )
    print(json.dumps(answer), flush=True)
