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
"""Lines that stay together, in a file that has enough of them."""
BLOCKS = 20
"""Blocks of a file, at least."""
HIDDEN = {"main": 0.1, "confirm": 0.1}
"""Shares of the blocks that are held out: to measure every experiment, and to confirm what is too good to believe."""


def sources():
    """Folders of this machine that hold the originals: hidden from experiments."""
    return [DATA]


def version():
    """What the data depends on besides this file."""
    parts = (str(path.relative_to(DATA)).encode() + b"\0" + path.read_bytes() for path in _files())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def prepare(public, private, preset):
    """Write each file's training blocks to public, and its held-out ones to `private/main` and `private/confirm`."""
    if not _files():
        raise FileNotFoundError(f"there is no file in {DATA}; put the data there, or write another prepare()")
    for path in _files():
        blocks, name = _blocks(path), path.relative_to(DATA)
        order = random.Random(0).sample(range(len(blocks)), len(blocks))
        for split, share in HIDDEN.items():
            held, order = order[: int(share * len(blocks))], order[int(share * len(blocks)) :]
            _write(private / split / name, [blocks[i] for i in sorted(held)])
        _write(public / name, [blocks[i] for i in sorted(order)])


def _blocks(path):
    """The text of a file in pieces of some lines each; of characters where it has few lines."""
    data = path.read_bytes()
    if b"\0" in data:
        raise ValueError(f"{path} is no text: write another prepare(), which splits it")
    lines = data.splitlines(keepends=True)
    if len(lines) < BLOCKS:
        lines = _pieces(data)
    if len(lines) < BLOCKS:
        raise ValueError(f"{path} holds only {len(data)} bytes; remove it, or put more data there")
    step = min(BLOCK, len(lines) // BLOCKS)
    return [b"".join(lines[i : i + step]) for i in range(0, len(lines), step)]


def _pieces(data):
    """Pieces of 80 characters: a character of several bytes stays whole, so that each split is text."""
    try:
        text, encoding = data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "latin-1"  # a byte is a character
    return [text[i : i + 80].encode(encoding) for i in range(0, len(text), 80)]


def _write(path, blocks):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks))


def _files():
    return sorted(path for path in DATA.rglob("*") if path.is_file())
