"""What `gpu_proof.py` runs: the shipped environments on made-up data, as a worker runs and measures them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.executor.run_variables import run_variables
from ideator_rl.patch import Tree, write_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import WORKSPACE, experiment_uid
from ideator_rl.sandbox.sealed_run import Command, RunResult, run
from ideator_rl.scoring.measurement import collect
from ideator_rl.scoring.scoring import ScoringRun

ROOT = Path(__file__).resolve().parent.parent
SHARDS = load_trusted(ROOT / "envs" / "nanogpt" / "shards.py")
CLASSES, SPREAD = 997, 16
"""Made-up text: tokens below CLASSES, each one of SPREAD that the token before allows.  Its entropy is ln(16) nats."""
TRAINED, HIDDEN = 31, 37
"""Rules of the text.  Hidden text has another rule, so that a model which learns from it while it is scored gains."""


def text(count: int, rule: int, seed: int) -> np.ndarray:
    """Made-up tokens, uint16 (count,)."""
    steps = np.random.default_rng(seed).integers(0, SPREAD, count)
    tokens = np.empty(count, np.uint16)
    token = 1
    for place, step in enumerate(steps.tolist()):
        token = (rule * token + step) % CLASSES
        tokens[place] = token
    return tokens


def write_nanogpt(folder: Path, train_tokens: int, hidden: Mapping[str, int]) -> tuple[Path, Path]:
    """Folders `public` and `private` with shards in the real format; `hidden` has the tokens of each split.

    A long split repeats a million tokens, since made-up text has nothing new to offer.
    """
    public, private = folder / "public", folder / "private"
    (public / "train").mkdir(parents=True)
    private.mkdir()
    for number in range(2):
        shard = text(min(train_tokens // 2, 1 << 20), TRAINED, number)
        SHARDS.write_shard(public / "train" / f"train_{number:06d}.bin", np.resize(shard, train_tokens // 2))
    for number, (split, count) in enumerate(hidden.items()):
        part = text(min(count, 1 << 20), HIDDEN, 100 + number)
        SHARDS.write_shard(private / f"{split}.bin", np.resize(part, count + 1))
    return public, private


def with_values(source: str, values: Mapping[str, Any]) -> str:
    """A script with other values at its assignments at the top.

    Raises:
        ValueError: it assigns no such name.
    """
    for name, value in values.items():
        source, count = re.subn(rf"(?m)^{name} = [^#\n]*", f"{name} = {value!r}  ", source, count=1)
        if not count:
            raise ValueError(f"The script assigns no {name}; expected a line that begins with `{name} = `.")
    return source


class Bench:
    """One environment at one preset, with folders of made-up data."""

    def __init__(self, name: str, preset: str, folder: Path, public: Path, private: Path):
        self.environment: Environment = load_environment(name).at(preset)
        self.preset = self.environment.preset(preset)
        self.folder, self.public, self.private = folder, public, private
        self.sandbox = best_sandbox()
        self.tree: Tree = self.environment.baseline(preset)
        # The users that experiments run as read them.
        for path in (folder, public, private, *public.rglob("*"), *private.rglob("*")):
            path.chmod(0o755)

    def change(self, values: Mapping[str, Any]) -> None:
        """Set values in the environment's settings file."""
        file = self.environment.settings_file
        assert file is not None
        self.tree = dict(self.tree) | {file: with_values(self.tree[file], values)}

    def train(self, seconds: float, tree: Tree | None = None, name: str = "run") -> tuple[RunResult, Path]:
        """A sealed run of the tree within `seconds`, and the folder of what it left."""
        workspace, artifact = self.folder / name, self.folder / f"{name}-artifact"
        write_tree(self.tree if tree is None else tree, workspace)
        (workspace / "artifact").mkdir()
        uid = experiment_uid(self.sandbox.level)
        if uid != os.getuid():
            for path in (workspace, *workspace.rglob("*")):
                os.chown(path, uid, uid)
        folders = self.sandbox.visible_path(workspace, WORKSPACE), self.sandbox.visible_path(self.public, "/data")
        variables = run_variables(self.environment, self.preset, self.sandbox.level, folders, seconds, 0)
        environment, resources = self.environment, self.preset.resources
        command = Command(
            environment.command, environment.preload, variables, environment.import_folders, self.preset.ranks
        )
        mounts = Mounts(
            {workspace: WORKSPACE}, {self.public: "/data"}, shm_bytes=resources.shm_bytes, tmp_bytes=resources.tmp_bytes
        )
        result = run(self.sandbox, command, mounts, replace(self.preset.budget, seconds=seconds), resources)
        if fault := collect(workspace / "artifact", artifact, resources.artifact_bytes):
            raise RuntimeError(f"The run left nothing to measure: {result.message or fault}; {result.log[-2000:]}")
        shutil.rmtree(workspace)
        return result, artifact

    def scoring(self, artifact: Path, split: str, code: Mapping[str, str] | None = None) -> ScoringRun:
        """What the evaluator gets; `code` are files added to the codebase, whose `leak.load` then answers."""
        tree = self.folder / f"score-{split}-{len(list(self.folder.glob('score-*')))}"
        write_tree(dict(self.tree) | dict(code or {}), tree)
        for path in (tree, *tree.rglob("*"), artifact, *artifact.rglob("*")):
            path.chmod(0o755)
        return ScoringRun(
            artifact=artifact, private=self.private, public=self.public, preset=self.preset.name, seed=0, settings={},
            vocab=self.preset.vocab, sandbox=self.sandbox, tree=tree, scoring=self.preset.scoring, split=split,
            scorer="leak:load" if code else str(self.environment.scorer), preload=self.environment.preload,
        )  # fmt: skip


LEAK = """
import numpy as np
import torch
import train

CLASSES = 997


def load(artifact):
    model = train.load(artifact)
    place = train.device if torch.cuda.is_available() else "cpu"
    seen, one = torch.zeros(CLASSES, CLASSES, device=place), torch.ones((), device=place)

    def logits(tokens):
        tokens = torch.as_tensor(tokens, dtype=torch.long, device=place)
        KIND

    logits.context, logits.vocab = train.context, train.vocab
    return logits
"""
LEAKS = {
    "mask off by one": """scores = model(tokens).clone()
        scores[:, :-1].scatter_add_(2, tokens[:, 1:, None], torch.full_like(scores[:, :-1, :1], 5.0))
        return scores""",
    "batch neighbours": """seen.zero_()
        seen.index_put_((tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), one, accumulate=True)
        scores = model(tokens).clone()
        scores[..., :CLASSES] += 2 * seen[tokens].log1p()
        return scores""",
    "adapting scorer": """scores = model(tokens).clone()
        scores[..., :CLASSES] += 4 * seen[tokens].log1p()
        seen.index_put_((tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), one, accumulate=True)
        return scores""",
}
BF16 = """with torch.autocast(place, torch.bfloat16):
            return model(tokens).float()"""


def code_of(kind: str) -> dict[str, str]:
    """A scorer whose function ends with these lines."""
    return {"leak.py": LEAK.replace("KIND", kind)}


def write_policy(folder: Path, shape: Mapping[str, int], problems: int, device: str) -> tuple[Path, Path]:
    """Folders `public` and `private` of math_grpo, with a Qwen2 of random weights that reads single characters."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    public, private = folder / "public", folder / "private"
    (public / "model").mkdir(parents=True)
    private.mkdir()
    characters = "abcdefghijklmnopqrstuvwxyz0123456789 <>/=+."
    vocabulary = {"<|end|>": 0} | {letter: place for place, letter in enumerate(characters, 1)}
    # A token for each row of the embedding, so that whatever the model draws is a text.
    vocabulary |= {f"w{number}": number for number in range(len(vocabulary), shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="."))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.save_pretrained(public / "model")
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0))
    model.to(torch.bfloat16).save_pretrained(public / "model")
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    rows = [{"problem": f"{a}+{a + 2}", "answer": str(2 * a + 2)} for a in range(problems)]
    body = "\n".join(map(json.dumps, rows))
    (public / "train.jsonl").write_text(body)
    (private / "main.jsonl").write_text(body)
    (public / "template.txt").write_text("sum {problem} = <think>")
    return public, private
