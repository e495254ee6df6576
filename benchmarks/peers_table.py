"""The tables of `benchmarks/peers.py search`: scores and times by system, and differences paired by seed."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

RESULTS = Path(__file__).parent / "peers_results.jsonl"
PEERS = ("openevolve", "shinka")

Rows = list[dict[str, Any]]


def read_rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Rows, budget: int, arms: list[str]) -> str:
    """Both tables as Markdown, of the rows with this number of evaluations."""
    cells = {(row["arm"], row["seed"]): row for row in rows if row["budget"] == budget}
    shown = [arm for arm in arms if any(name == arm for name, _ in cells)]
    lines = [
        "| system | best, mean | by seed | after 25, 50 | evaluations, failed | seconds per evaluation |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(arm, [cells[key] for key in sorted(cells) if key[0] == arm]) for arm in shown]
    lines += ["", "| difference of the best, paired by seed | mean | 95 % interval | ahead |", "|---|---|---|---|"]
    plain = "puct"
    pairs = [(arm, other) for arm in shown if arm not in PEERS for other in PEERS if other in shown]
    pairs += [(arm, plain) for arm in shown if plain in shown and arm not in (plain, *PEERS)]
    for arm, other in pairs:
        seeds = sorted(seed for name, seed in cells if name == arm and (other, seed) in cells)
        lines.append(_difference(arm, other, [cells[arm, s]["best"] - cells[other, s]["best"] for s in seeds]))
    return "\n".join(lines)


def _row(arm: str, rows: Rows) -> str:
    bests = [row["best"] for row in rows]
    after = [fmean([row["best_after"][count] for row in rows]) for count in ("25", "50")]
    evaluations = sum(row["evaluations"] for row in rows)
    rates = [row["wall_s"] / row["evaluations"] for row in rows]
    return (
        f"| {arm} {rows[0]['version']} | {fmean(bests):.3f} | {', '.join(f'{best:.3f}' for best in bests)} | "
        f"{after[0]:.3f}, {after[1]:.3f} | {evaluations}, {sum(row['failures'] for row in rows)} | "
        f"{fmean(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}) |"
    )


def _difference(arm: str, other: str, gaps: list[float]) -> str:
    interval = "–"
    if len(gaps) > 1:
        half = paired_half_width(gaps)
        interval = f"{fmean(gaps) - half:+.3f} to {fmean(gaps) + half:+.3f}"
    ahead = sum(gap > 0 for gap in gaps)
    return f"| {arm} − {other} | {fmean(gaps):+.3f} | {interval} | {ahead} of {len(gaps)} |"


def paired_half_width(gaps: list[float]) -> float:
    """Half of Student's 95 % interval of the mean of paired differences, of which there are at least two."""
    return float(student.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / len(gaps) ** 0.5
