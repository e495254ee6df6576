"""One random change of a circle packing program: the only idea that the scripted endpoint of peers_search.py has.

The program is OpenEvolve's example, or a descendant of it.  A change concerns the statements of `construct_packing`
that place the centres, between `centers = np.zeros(...)` and the last `centers = np.clip(...)`.  An operator is drawn
by its weight; one that finds nothing to change gives way to `numbers`:

numbers  4  one to three decimal numbers are multiplied by exp(normal(0, s)), s drawn from 0.02, 0.1 and 0.3
move     2  one centre is moved by up to 0.15 in x and y
scale    1  a run of 4 to 12 centres is drawn to the middle of the square, or away from it
push     1  up to 40 steps of a loop that pushes centres apart that are closer than 0.1 to 0.25
undo     1  one earlier `move`, `scale` or `push` is taken out
rows     1  all of it is replaced by 5 or 6 rows of 4 to 6 circles, straight or shifted; too many circles are an error
rings    1  all of it is replaced by a centre and two or three rings

The weights and ranges were written down before the first search, and no outcome changed them.  Nothing here depends on
the system that asks, on scores, or on other programs than the one that is changed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

MOST_CHARS = 7500
"""A longer program gets no further statement: OpenEvolve refuses programs of over 10,000 characters."""
_START, _END = re.compile(r"^    centers = np\.zeros\("), re.compile(r"^    centers = np\.clip\(")
_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")
_MOVE_OR_SCALE = re.compile(r"^    centers\[\d+(:\d+)?\] (\+=|= 0\.5 \+)")
_PUSH_LINES = 7
_CIRCLES = 26

Lines = list[str]


def mutated(program: str, rng: random.Random) -> str:
    """The program with one random change; another text than `program`.

    Raises:
        ValueError: it has no statements that place centres, or 20 draws changed nothing.
    """
    lines = program.split("\n")
    start = next((at for at, line in enumerate(lines) if _START.match(line)), None)
    end = max((at for at, line in enumerate(lines) if _END.match(line)), default=None)
    if start is None or end is None or end <= start:
        raise ValueError(
            "The program has no `centers = np.zeros(` before a `centers = np.clip(`. Expected OpenEvolve's circle "
            f"packing or a descendant of it; it begins {program[:80]!r}."
        )
    for _ in range(20):
        operator = rng.choices(list(OPERATORS), weights=list(OPERATORS.values()))[0]
        if operator in (_move, _scale, _push) and len(program) > MOST_CHARS:
            operator = _numbers
        # The clip is a part of what is changed: its bounds are numbers too.
        place = operator(lines[start + 1 : end + 1], rng) or _numbers(lines[start + 1 : end + 1], rng)
        changed = "\n".join([*lines[: start + 1], *place, *lines[end + 1 :]])
        if changed != program:
            return changed
    raise ValueError("20 random changes left the program as it is.")


def _numbers(place: Lines, rng: random.Random) -> Lines:
    sites = [
        (at, match.span())
        for at, line in enumerate(place)
        for match in _DECIMAL.finditer(line.partition("#")[0])
    ]  # fmt: skip
    lines, spread = list(place), rng.choice((0.02, 0.1, 0.3))
    # From the right, so that a changed number moves no other one of its line.
    for at, (left, right) in sorted(rng.sample(sites, min(len(sites), rng.randint(1, 3))), reverse=True):
        value = float(lines[at][left:right]) * 2.718281828 ** rng.gauss(0, spread)
        lines[at] = f"{lines[at][:left]}{value:.4f}{lines[at][right:]}"
    return lines


def _move(place: Lines, rng: random.Random) -> Lines:
    x, y = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)
    return [*place[:-1], f"    centers[{rng.randrange(_CIRCLES)}] += [{x:.4f}, {y:.4f}]", place[-1]]


def _scale(place: Lines, rng: random.Random) -> Lines:
    count = rng.randint(4, 12)
    first, factor = rng.randrange(_CIRCLES - count + 1), rng.uniform(0.7, 1.3)
    run = f"centers[{first}:{first + count}]"
    return [*place[:-1], f"    {run} = 0.5 + {factor:.4f} * ({run} - 0.5)", place[-1]]


def _push(place: Lines, rng: random.Random) -> Lines:
    steps, distance, share, edge = (
        rng.randint(5, 40),
        rng.uniform(0.1, 0.25),
        rng.uniform(0.1, 0.5),
        rng.uniform(0.03, 0.12),
    )
    return [
        *place[:-1],
        f"    for push in range({steps}):",
        "        gaps = centers[:, None] - centers[None]",
        "        dists = np.sqrt((gaps**2).sum(axis=2)) + np.eye(n) + 1e-9",
        f"        close = np.maximum(0.0, {distance:.4f} - dists)",
        "        pushes = (gaps / dists[:, :, None] * close[:, :, None]).sum(axis=1)",
        f"        centers = centers + {share:.4f} * pushes",
        f"        centers = np.clip(centers, {edge:.4f}, {1 - edge:.4f})",
        place[-1],
    ]


def _undo(place: Lines, rng: random.Random) -> Lines:
    """Without one of the statements that `move`, `scale` and `push` write; empty if there is none."""
    sites = [(at, 1) for at, line in enumerate(place) if _MOVE_OR_SCALE.match(line)]
    sites += [(at, _PUSH_LINES) for at, line in enumerate(place) if line.startswith("    for push in range(")]
    if not sites:
        return []
    at, length = rng.choice(sites)
    return [*place[:at], *place[at + length :]]


def _rows(place: Lines, rng: random.Random) -> Lines:
    counts = [rng.randint(4, 6) for _ in range(rng.choice((5, 6)))]
    shift = rng.choice((0.0, 0.0, 0.25))
    return [
        f"    rows = {counts}",
        "    k = 0",
        "    for r, count in enumerate(rows):",
        "        for c in range(count):",
        f"            x = (c + 0.5 + {shift:.4f} * (-1) ** r) / count",
        "            centers[k] = [x, (r + 0.5) / len(rows)]",
        "            k += 1",
        place[-1],
    ]


def _rings(place: Lines, rng: random.Random) -> Lines:
    rings = rng.choice((2, 3))
    inner = rng.randint(4, 9) if rings == 2 else rng.randint(3, 6)
    middle = rng.randint(6, 10) if rings == 3 else 0
    counts = [count for count in (inner, middle, _CIRCLES - 1 - inner - middle) if count]
    radii = sorted(round(rng.uniform(0.1, 0.65), 4) for _ in counts)
    return [
        "    centers[0] = [0.5, 0.5]",
        "    k = 1",
        f"    for count, radius in {list(zip(counts, radii, strict=True))}:",
        "        for i in range(count):",
        f"            angle = 2 * np.pi * (i + {rng.uniform(0, 0.5):.4f}) / count",
        "            centers[k] = [0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)]",
        "            k += 1",
        place[-1],
    ]


OPERATORS: dict[Callable[[Lines, random.Random], Lines], int] = {
    _numbers: 4, _move: 2, _scale: 1, _push: 1, _undo: 1, _rows: 1, _rings: 1,
}  # fmt: skip
"""Each with its weight."""
