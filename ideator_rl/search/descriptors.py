"""Labels of what kind of change an idea is; together they name its cell in MAP-Elites.

kind       the families of catalogue edits that the idea's text names; without any, the cell of its patch
           (`patch.cells`)
size       changed lines of the patch: up to 2, 8, 32, 128, or more
component  the files, and in each the outermost functions, classes or settings that the patch touches
metric:N   the bin of the secondary metric N: `bins` equal parts of its range, or of what the successes reached so far
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.idea_edits import idea_edits
from ideator_rl.experiment import Experiment
from ideator_rl.patch.size import patch_size
from ideator_rl.search.ideator import Subject

SIZES = (2, 8, 32, 128)


def kind(record: Experiment, archive: Archive, subject: Subject | None) -> str:
    # The catalogue's families are the best labels; a patch's places serve where the text names no edit.
    edits = idea_edits(subject.environment, subject.preset) if subject else None
    families = edits.families(record.idea) if edits else ()
    return "+".join(families) or archive.cell(record)


def size(record: Experiment, archive: Archive, subject: Subject | None) -> str:
    index = bisect_left(SIZES, patch_size(record.patch)[0])
    return f"up to {SIZES[index]}" if index < len(SIZES) else "more"


def component(record: Experiment, archive: Archive, subject: Subject | None) -> str:
    files = []
    # A cell is `path:name,name.inner;path:…` (`patch.cells`).
    for file in archive.cell(record).split(";"):
        path, _, names = file.partition(":")
        outermost = sorted({name.split(".")[0] for name in names.split(",") if name})
        files.append(f"{path}:{','.join(outermost)}" if outermost else path)
    return ";".join(files)


DESCRIPTORS: dict[str, Callable[[Experiment, Archive, Subject | None], str]] = {
    "kind": kind,
    "size": size,
    "component": component,
}


METRIC = "metric:"
"""Begins the name of a descriptor that is a secondary metric."""


@dataclass(frozen=True)
class Bins:
    """Equal parts of the range of a secondary metric."""

    name: str
    low: float
    high: float
    count: int

    def label(self, record: Experiment) -> str:
        """The bin of a record; values outside the range are in the first or the last one."""
        if self.name not in record.secondary:
            return "none"
        # A model's code may choose the number: halves, and a value within the range, so that none becomes infinite.
        value = min(max(record.secondary[self.name], self.low), self.high)
        width = (self.high / 2 - self.low / 2) / self.count
        # Of a range without width, all are in the first bin.
        index = int((value / 2 - self.low / 2) / width) if width > 0 else 0
        return f"{min(index, self.count - 1)}"


def reached_bins(name: str, archive: Archive, count: int) -> Bins:
    """The bins between the least and the greatest value of all successes so far."""
    values = [record.secondary[name] for record in archive.successes() if name in record.secondary] or [0.0]
    return Bins(name, min(values), max(values), count)


def descriptor(
    record: Experiment,
    archive: Archive,
    subject: Subject | None,
    names: tuple[str, ...],
    bins: Mapping[str, Bins] = MappingProxyType({}),
) -> tuple[str, ...]:
    """A record's cell: its labels by these descriptors.

    Args:
        bins: of those descriptors that are secondary metrics, by the descriptor's name.
    """
    return tuple(
        bins[name].label(record) if name in bins else DESCRIPTORS[name](record, archive, subject) for name in names
    )
