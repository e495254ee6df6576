"""The data: text files of `data/`, split into what experiments read and what only the evaluator reads.

Called once for each preset; the result is kept in the user's cache until this file or `data/` changes.  Whole blocks of
lines are held out, so that `env check` finds a copy that was left where experiments can read it.  For data of another
kind write another `prepare`: it may read from anywhere and write any files.
"""

import hashlib
import random
from pathlib import Path

DATA = Path(__file__).parent / "data"
BLOCK = 100
"""Lines that stay together."""
HIDDEN = {"main": 0.1, "confirm": 0.1}
"""Shares of the blocks that are held out: to measure every experiment, and to confirm what is too good to believe."""


def sources():
    """Folders of this machine that hold the originals: hidden from experiments."""
    return [DATA]


def version():
    """What the data depends on besides this file."""
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in _files())).hexdigest()


def prepare(public, private, preset):
    """Write each file's training lines to public, and its held-out ones to `private/main` and `private/confirm`."""
    if not _files():
        raise FileNotFoundError(f"there is no file in {DATA}; put the data there, or write another prepare()")
    for split in HIDDEN:
        (private / split).mkdir()
    for path in _files():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        blocks = ["".join(lines[i : i + BLOCK]) for i in range(0, len(lines), BLOCK)]
        order = random.Random(0).sample(range(len(blocks)), len(blocks))
        if len(blocks) < 10:
            raise ValueError(
                f"{path} has only {len(lines)} lines; at least {10 * BLOCK} are needed, or a smaller BLOCK"
            )
        for split, share in HIDDEN.items():
            held, order = order[: int(share * len(blocks))], order[int(share * len(blocks)) :]
            (private / split / path.name).write_text("".join(blocks[i] for i in sorted(held)), encoding="utf-8")
        (public / path.name).write_text("".join(blocks[i] for i in sorted(order)), encoding="utf-8")


def _files():
    return sorted(path for path in DATA.glob("*") if path.is_file())
