"""Validation loss of nanogpt on shards: mean nats a token over a hidden text, each of its tokens but the first.

Trusted: nothing of the experiment is imported here.  A model sees windows of `context` consecutive tokens, 1024 or what
its `load` states; the windows do not overlap.  Every loss is audited: see `token_loss`.
"""

from pathlib import Path

from ideator_rl.environments.data import load_trusted
from ideator_rl.evaluation import Audit, token_loss

SHARDS = load_trusted(Path(__file__).with_name("shards.py"))
CONTEXT = {"paper": 1024, "single_gpu": 1024, "cpu_shards": 128}
"""Tokens a window of a model that states none."""
BATCH = {"paper": 4, "single_gpu": 4, "cpu_shards": 8}
"""Windows a request: 1024 tokens of 50,304 classes are 206 MB of logits in single precision."""
PUBLIC_TOKENS = 1 << 20
"""Read of the training data, at most."""
AUDIT = {
    # An honest bf16 model on a GPU has not been measured here; 0.004 is the bound that its mean gap must keep.
    "paper": Audit(tolerance=0.03, mean=0.004, min_rows=2000),
    "single_gpu": Audit(tolerance=0.03, mean=0.004, min_rows=2000),
    # In single precision on the CPU the gap of the baseline rounds to 0.000.
    "cpu_shards": Audit(tolerance=0.01, mean=0.004, min_rows=504),
}


def evaluate(run) -> float:
    """Mean loss, nats a token."""
    tokens = SHARDS.read_tokens(run.private / f"{run.split}.bin").astype("int32")
    first = min((run.public / "train").glob("*.bin"))
    # Scorers warm up on text of the training data: a model may know only the tokens that occur there.
    public = SHARDS.read_tokens(first, 0, min(PUBLIC_TOKENS, SHARDS.read_header(first))).astype("int32")
    return token_loss(
        run,
        tokens,
        BATCH[run.preset],
        AUDIT[run.preset],
        public=public,
        vocab=SHARDS.VOCAB,
        context=CONTEXT[run.preset],
    )
