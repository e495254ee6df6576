"""What each edit of an environment's catalogue does to its metric: the tables in the READMEs of `envs/`.

Every run is a real experiment, in the sandbox, measured by the environment's evaluator.  CPU seconds buy fewer steps on
a busy machine, so a run of the baseline is mixed into every few runs of edits, and all of the baseline's runs together
say what the noise is: its spread holds the machine's drift as well as the seeds'.  An edit is shown bold when its mean
is better than the baseline's by more than three standard errors, for which its own spread counts no less than the
baseline's.  With `--dir` a second call finds the first one's runs again and adds to them.

usage: python benchmarks/edits.py ENV [--seeds 5] [--runs 1] [--first 0] [--values all|one] [--only EDIT[=VALUE][+…] …]
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
from dataclasses import dataclass
from statistics import mean, stdev

from ideator_rl.environments.catalogue.catalogue import Catalogue, environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import Environment, Metric, load_environment
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.patch import diff
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

BETWEEN = 8
"""Runs of edits for each further run of the baseline."""
Edits = tuple[Choice, ...]


@dataclass(frozen=True)
class Row:
    edits: Edits
    values: list[float]
    failed: list[str]
    """Statuses of the runs that gave no metric."""


def wanted(catalogue: Catalogue, only: list[str], values: str) -> list[Edits]:
    """What to run: each edit at its values, or what was asked for."""
    chosen = []
    for text in only or catalogue.edits:
        asked = [part.partition("=") for part in text.split("+")]
        ranges = []
        for key, _, value in asked:
            parameter = catalogue.edits[key].parameter
            if parameter is None:
                ranges.append([Choice(key)])
            elif value:
                ranges.append([Choice(key, parameter.accept(key, float(value)))])
            else:
                ranges.append([Choice(key, v) for v in parameter.sample[: None if values == "all" else 1]])
        chosen += list(itertools.product(*ranges))
    return chosen


async def measure(
    environment: Environment, buffer: RewardBuffer, chosen: list[Edits], arguments: argparse.Namespace
) -> tuple[list[float], list[Row]]:
    """Metrics of the baseline, and a row for each of the edits."""
    catalogue, base = environment_catalogue(environment), environment.baseline(arguments.preset)
    patches = {edits: diff(base, catalogue.apply(base, list(edits))) for edits in chosen}
    numbers = range(arguments.first, arguments.first + arguments.runs)
    todo = [(edits, number) for number in numbers for edits in chosen]
    records = await asyncio.gather(*(buffer.baseline(arguments.first + n) for n in range(arguments.seeds)))
    rows = {edits: Row(edits, [], []) for edits in chosen}
    for start in range(0, len(todo), BETWEEN):
        part = todo[start : start + BETWEEN]
        further = arguments.first + arguments.seeds + start // BETWEEN
        runs = [buffer.score_patch(patches[edits], number) for edits, number in part]
        *found, between = await asyncio.gather(*runs, buffer.baseline(further))
        records.append(between)
        for (edits, number), record in zip(part, found, strict=True):
            value = _value(record)
            rows[edits].failed.append(record.status) if value is None else rows[edits].values.append(value)
            print(_name(edits), number, record.status if value is None else f"{value:.4f}", file=sys.stderr, flush=True)
    return [value for record in records if (value := _value(record)) is not None], list(rows.values())


def _value(record: Experiment) -> float | None:
    return float(record.metric["value"]) if record.status == SUCCEEDED and record.metric else None


def _name(edits: Edits) -> str:
    return " + ".join(choice.key if choice.value is None else f"{choice.key} {choice.value}" for choice in edits)


def table(baseline: list[float], rows: list[Row], metric: Metric) -> list[str]:
    """Lines of the table, best first."""
    middle, noise, sign = mean(baseline), stdev(baseline), 1 if metric.direction == "max" else -1
    lines = [
        f"baseline {middle:.4f} ± {noise:.4f} (standard deviation, {len(baseline)} runs)",
        "",
        f"| edit | runs | {metric.name} | against the baseline | standard errors |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -sign * mean(row.values) if row.values else float("inf")):
        if not row.values:
            lines.append(f"| {_name(row.edits)} | 0 | {', '.join(row.failed)} | | |")
            continue
        count, change = len(row.values), mean(row.values) - middle
        spread = stdev(row.values) if count > 1 else noise
        error = (max(noise, spread) ** 2 / count + noise**2 / len(baseline)) ** 0.5
        name = f"**{_name(row.edits)}**" if sign * change > 3 * error else _name(row.edits)
        shown = f"{mean(row.values):.4f}" + (f" ± {spread:.4f}" if count > 1 else "")
        failed = f" ({len(row.failed)} failed)" if row.failed else ""
        ratio = f"{sign * change / error:+.1f}" if error else "no noise"
        lines.append(f"| {name} | {count}{failed} | {shown} | {change:+.4f} | {ratio} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env", help="name or folder of an environment with a catalogue")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seeds", type=int, default=5, help="runs of the baseline at the start, at least 2")
    parser.add_argument("--runs", type=int, default=1, help="runs of each edit, with seeds of their own")
    parser.add_argument("--first", type=int, default=0, help="the first replicate: another one means fresh seeds")
    parser.add_argument("--values", choices=("all", "one"), default="all", help="values of each edit")
    parser.add_argument("--only", nargs="*", default=[], help="edits to run: EDIT, EDIT=VALUE, or several joined by +")
    parser.add_argument("--slots", type=int, help="CPU slots; default: those of one experiment")
    parser.add_argument("--dir", help="folder to keep the runs in")
    arguments = parser.parse_args()
    environment = load_environment(arguments.env).at(arguments.preset)
    slots = arguments.slots or environment.preset(arguments.preset).resources.cpus
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.dir or scratch
        buffer = RewardBuffer(
            BufferConfig(arguments.env, arguments.preset, f"file://{folder}/bucket", run_dir=folder, slots=slots)
        )
        try:
            chosen = wanted(environment_catalogue(environment), arguments.only, arguments.values)
            baseline, rows = asyncio.run(measure(environment, buffer, chosen, arguments))
        finally:
            buffer.close()
    print("\n".join(table(baseline, rows, environment.metric)))


if __name__ == "__main__":
    main()
