"""`ideator-rl status RUN_OR_BUCKET --watch`: the living run in the terminal, until it ends or Ctrl-C leaves.

On a terminal one picture is kept up to date; where the output goes elsewhere, or to a terminal that cannot draw over
what it shows (`TERM=dumb`), a plain line is written whenever something changed, at most one every few seconds.
Watching changes nothing, and leaving ends nothing.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ideator_rl.cli.output import show
from ideator_rl.cli.target import WAITING, Entry, entry_of, trainer
from ideator_rl.experiment import FINAL, LOST, RUNNING, SUCCEEDED
from ideator_rl.report.figures import number
from ideator_rl.report.follow import Living
from ideator_rl.storage.bucket import Bucket
from ideator_rl.text import visible

EVERY, PLAIN_EVERY = 1.0, 5.0
"""Seconds between two looks, and between two lines where nobody looks at a terminal."""
SLICE = 4
"""Steps whose population is judged between two pictures."""
LATEST = 6
"""Ideas whose outcome was known last."""
LIMITS = (("max_steps", "steps"), ("max_epochs", "epochs"), ("max_experiments", "experiments"), ("max_ideas", "ideas"))
"""Keys of recipes that end a run by a count, and what they count."""
BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = {SUCCEEDED: "green", LOST: "magenta", RUNNING: "blue", "malformed": "bright_black"}


def watch_run(folder: Path) -> int:
    """Returns 0 when the run has ended, or the watcher left."""
    living = Living(folder)
    try:
        return _follow(RunPicture(living))
    finally:
        living.close()


def watch_bucket(bucket: Bucket) -> int:
    """Returns 0 when nothing of the bucket runs or waits any more, or the watcher left."""
    return _follow(BucketPicture(bucket))


def _follow(picture: RunPicture | BucketPicture) -> int:
    console, asked = Console(), list[int]()

    def leave(number: int, _: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    def looks() -> Iterator[bool]:
        for more in picture.looks():
            if asked:  # where it came in a callback of the interpreter's, it was dropped
                return
            yield more

    # SIGTERM too, else a terminal stays without its cursor; SIGINT also where a shell's `&` had it ignored
    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if console.is_terminal and not console.is_dumb_terminal:
            with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
                for _ in looks():
                    live.update(picture.drawn(), refresh=True)
        else:
            _lines(picture, looks())
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _lines(picture: RunPicture | BucketPicture, looks: Iterator[bool]) -> None:
    said, when = "", 0.0
    for more in looks:
        line = picture.line()
        if line != said and (not more or time.monotonic() - when >= PLAIN_EVERY):
            show(line)
            said, when = line, time.monotonic()
    sys.stdout.flush()


@dataclass
class RunPicture:
    """A run, drawn."""

    living: Living
    process: int | None = None
    """At work on it; None where nothing on this machine is."""
    left: int = 0
    """Closed steps whose population is not judged yet."""

    def looks(self) -> Iterator[bool]:
        """Once a second, whether more looks come; the last one comes after the run's end.

        What a look found is shown before the population is judged, and that goes by a few steps a time.
        """
        while True:
            at_work = trainer(self.living.folder)
            self.process = at_work.pid if at_work else None
            self.living.look()
            if at_work or self.left:
                yield True
            self.left = self.living.judge(SLICE, ended=at_work is None)
            if not self.left and at_work is None:
                break
            if not self.left:
                time.sleep(EVERY)
        yield False

    def line(self) -> str:
        """All of it in one."""
        parts = [self._how_far(), _outcomes(self.living.counts), self._best_words()]
        parts += [f"{alarm.level}: {alarm.words}" for alarm in self.living.alarms]
        return " · ".join(part for part in parts if part) + ("" if self.process else " · not under way")

    def drawn(self) -> RenderableType:
        living = self.living
        state = f"process {self.process}" if self.process else "not under way"
        recipe = living.recipe
        how = " · ".join(str(recipe[key]) for key in ("env", "preset", "strategy", "advantage") if recipe.get(key))
        head = Text.assemble((visible(living.folder.absolute().name), "bold"), f"  {visible(how)}  ", (state, "cyan"))
        rows: list[RenderableType] = [head, self._progress(), Text(visible(self._best_words()))]
        if (best := living.best) is not None:
            rows.append(Text("  " + _title(best.words), style="italic", overflow="ellipsis", no_wrap=True))
        rows.append(_coloured(living.counts))
        steps = living.by_step()
        rows.append(Text(f"success by step  {_spark([success for _, success, _ in steps])}", no_wrap=True))
        spent = {key: value for key, value in living.spent().items() if value}
        if spent:
            rows.append(
                Text("spent  " + ", ".join(f"{value:.4g} {key.replace('_', '-')}" for key, value in spent.items()))
            )
        for alarm in living.alarms:
            rows.append(Text(f"{alarm.level}: {alarm.words}", style="bold red" if alarm.level == "stop" else "yellow"))
        if self.left:
            rows.append(Text(f"judging the population: steps to go: {self.left}", style="dim"))
        return Group(*rows, self._latest())

    def _how_far(self) -> str:
        done, most, what = self._progress_of()
        return f"{what} {done}" + (f" of {most}" if most else "")

    def _progress_of(self) -> tuple[int, int | None, str]:
        living = self.living
        steps = len({one.step for one in living.proposals})
        done = {"steps": steps, "epochs": steps, "experiments": living.experiments, "ideas": len(living.proposals)}
        for key, what in LIMITS:
            if isinstance(most := living.recipe.get(key), int) and most > 0:
                return done[what], most, what
        return steps, None, "steps"

    def _progress(self) -> RenderableType:
        done, most, what = self._progress_of()
        if not most:
            return Text(f"{what} {done}")
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(f"{what} {done} of {most}"), ProgressBar(total=most, completed=min(done, most), width=36))
        return grid

    def _best_words(self) -> str:
        living = self.living
        base = f"baseline {number(mean(living.baseline))}" if living.baseline else "no baseline yet"
        if (best := living.best) is None:
            return f"no success yet, {base}"
        return f"best {living.metric} {number(best.metric)} in step {best.step + 1}, as measured once; {base}"

    def _latest(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), show_header=False, expand=True)
        for name in ("right", "left", "right"):
            table.add_column(justify=name, no_wrap=True)  # type: ignore[arg-type]
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for one in self.living.latest(LATEST):
            status = Text(one.status, style=COLOURS.get(one.status, "red"))
            table.add_row(str(one.step + 1), status, number(one.metric), Text(_title(one.words)))
        return table


@dataclass
class BucketPicture:
    """A bucket, drawn; a record that is final is not read again."""

    bucket: Bucket
    final: dict[str, str] = field(default_factory=dict)
    others: list[Entry] = field(default_factory=list)

    def looks(self) -> Iterator[bool]:
        """Once a second, whether more looks come."""
        under_way = True
        while under_way:
            self.others = []
            for id in self.bucket.names("experiments"):
                if id in self.final:
                    continue
                entry = entry_of(self.bucket, id)
                if entry.status in (WAITING, RUNNING):
                    self.others.append(entry)
                else:
                    self.final[id] = entry.status
            under_way = bool(self.others)
            yield under_way
            if under_way:
                time.sleep(EVERY)

    @property
    def counts(self) -> Counter[str]:
        return Counter([*self.final.values(), *(entry.status for entry in self.others)])

    def line(self) -> str:
        return (_outcomes(self.counts) or "no experiments yet") + ("" if self.others else " · nothing runs or waits")

    def drawn(self) -> RenderableType:
        head = Text.assemble((visible(self.bucket.url), "bold"), "" if self.others else "  nothing runs or waits")
        rows: list[RenderableType] = [head, _coloured(self.counts)]
        for entry in self.others:
            if entry.claim:
                age = time.time() - entry.claim["time"]
                rows.append(Text(visible(f"running  {entry.id}  on {entry.claim['host']} for {age:.0f} s")))
        return Group(*rows[:20])


def _outcomes(counts: Counter[str]) -> str:
    order = (*FINAL, LOST, RUNNING, WAITING)
    return ", ".join(f"{counts[status]} {status}" for status in order if counts[status])


def _coloured(counts: Counter[str]) -> Text:
    made = Text()
    for status in (*FINAL, LOST, RUNNING, WAITING):
        if counts[status]:
            made.append(f"{counts[status]} {status}  ", style=COLOURS.get(status, "red"))
    return made or Text("no ideas yet")


def _spark(values: list[float | None], most: int = 60) -> str:
    """One block a step, of the last ones; a step without a known outcome is a blank."""
    return "".join(" " if value is None else BLOCKS[round(value * (len(BLOCKS) - 1))] for value in values[-most:])


def _title(words: str) -> str:
    flat = " ".join(words.split()).removeprefix("[Experiment] ")
    return visible(flat.partition(" [Code Changes]")[0])
