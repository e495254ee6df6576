"""Problems for grpo_math, drawn from a seed, and the pretrained policy that lies beside this file.

A problem is a prompt such as `047+380=`, operands padded to three digits so that all prompts are equally long, and its
answer, `427`.  No two problems are equal: what is hidden is neither in the training problems nor in the text that the
policy was pretrained on (`pretrain.py`).  Anybody who has this file can draw the hidden problems again, so experiments
find its folder empty.  Only the `cpu` preset has data yet.
"""

import hashlib
import json
import random
import shutil
from pathlib import Path

HERE = Path(__file__).parent
POLICY = HERE / "policy.safetensors"
SIZES = {"main": 2000, "confirm": 2000, "train": 8000}
"""Problems of each split."""
SEED = 20260123


def version() -> str:
    """What the prepared data depends on besides this file."""
    return hashlib.sha256(POLICY.read_bytes()).hexdigest()


def sources() -> list[Path]:
    """Folders to be hidden from experiments."""
    return [HERE]


def prepare(public: Path, private: Path, preset: str) -> None:
    """Write `train.jsonl` and the policy to public, `main.jsonl` and `confirm.jsonl` to private.

    Raises:
        NotImplementedError: a preset whose data does not exist yet.
    """
    if preset != "cpu":
        raise NotImplementedError(f"The preset {preset!r} of grpo_math has no data yet; use the preset 'cpu'.")
    for split, chosen in problems().items():
        folder = public if split == "train" else private
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in chosen))
    shutil.copyfile(POLICY, public / "policy.safetensors")


def problems() -> dict[str, list[dict[str, str]]]:
    """Splits of distinct problems, each a prompt and its answer."""
    rng, seen = random.Random(SEED), set[str]()
    splits: dict[str, list[dict[str, str]]] = {split: [] for split in SIZES}
    for split, size in SIZES.items():
        while len(splits[split]) < size:
            problem = draw(rng)
            if problem["prompt"] not in seen:
                seen.add(problem["prompt"])
                splits[split].append(problem)
    return splits


def draw(rng: random.Random) -> dict[str, str]:
    """A sum, a difference or a product (of three digits and one)."""
    sign = rng.choice("+-*")
    one, other = rng.randrange(10 ** rng.choice((1, 2, 2, 3, 3))), rng.randrange(10 ** rng.choice((1, 2, 2, 3, 3)))
    if sign == "*":
        one, other = rng.randrange(10 ** rng.choice((2, 3, 3))), rng.randrange(2, 10)
    answer = {"+": one + other, "-": one - other, "*": one * other}[sign]
    return {"prompt": f"{one:03d}{sign}{other:03d}=", "answer": str(answer)}
