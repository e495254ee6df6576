"""Trains a tiny policy in two gloo processes with a screen, on landscape experiments in rank 0's process.

usage: python tests/screened_ranks.py FOLDER LEARN PREDICTOR reference|killed|resumed ...

The processes are forked, so that trl is imported once.  `killed` ends with SIGKILL between the picks of a batch and its
experiments.  Each rank of another session writes FOLDER/rank0.json or rank1.json: the rows that it trained in each
batch, and a digest of its weights.
"""

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path

import torch
from search_runs import configured, text
from tiny_policy import arguments, build, save_policy, weights

from ideator_rl import execution_reward
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen import ScreenConfig
from ideator_rl.screen.predictor import IdeatorModel
from ideator_rl.training.learning import Learning
from ideator_rl.training.ranks import keep_to_this_machine
from ideator_rl.training.screening import BatchScreen
from ideator_rl.training.trainer import IdeatorGRPOTrainer

WORLD, ROWS, STEPS, KILLED_AT = 2, 16, 4, 2


class ScriptedIdeas(IdeatorGRPOTrainer):
    """The completions of a batch are ideas of the landscape, whatever the policy wrote."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.trained = []

    def sample(self, index):
        batch = super().sample(index)
        rng = random.Random(index)
        texts = [text({knob: rng.randrange(4) for knob in rng.sample(range(20), 2)}) for _ in range(ROWS - 1)]
        batch.completions = [*texts, "no idea"]
        return batch

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        self.trained.append((mask.sum(1) > 0).tolist())
        return output


class Killed(BatchScreen):
    def choose(self, batch, run):
        choice = super().choose(batch, run)
        if batch.index == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return choice


def train(folder, learn, predictor, session, rank):
    keep_to_this_machine()
    torch.set_num_threads(1)
    source, buffer, screen, columns = str(folder / "policy"), None, None, None
    if rank == 0:
        buffer = RewardBuffer(configured(folder).buffer())
        asyncio.run(buffer.baseline())
        config = ScreenConfig(over=2, after=8, learn=learn, predictor=predictor, gate=0.0)
        kind = Killed if session == "killed" else BatchScreen
        screen = kind(config, buffer, share=ROWS // config.over, model=IdeatorModel(source, device="cpu"))
        columns = buffer.config.columns()
    trainer = build(
        ScriptedIdeas, source, arguments(folder, max_steps=STEPS), [execution_reward], buffer=buffer, chooser=screen,
        reward_columns=columns, learning=Learning(from_forecasts=learn == "predicted"), resume=session == "resumed",
    )  # fmt: skip
    trainer.train()
    digest = hashlib.sha256()
    for name, tensor in sorted(weights(trainer).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    body = {"trained": trainer.trained, "weights": digest.hexdigest()}
    (folder / f"rank{rank}.json").write_text(json.dumps(body))


def fork(folder, learn, predictor, session, rank, port):
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    status = 1
    try:
        train(folder, learn, predictor, session, rank)
        status = 0
    except BaseException as error:
        print(f"{session}, rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(folder, learn, predictor, *sessions):
    folder = Path(folder)
    save_policy(folder / "policy")
    for session in sessions:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pids = [fork(folder, learn, predictor, session, rank, port) for rank in range(WORLD)]
        first = os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])
        if first:  # rank 1 would wait for ever
            os.kill(pids[1], signal.SIGKILL)
        os.waitpid(pids[1], 0)
        print(session, first, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
