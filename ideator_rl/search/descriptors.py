"""What kind of change an idea is: the labels by which MAP-Elites tells its cells apart.

kind       the catalogue's families that the idea's words name; where there is no catalogue, or the words name
           nothing of it, the patch's cell (`cells.py`)
size       changed lines of the patch: up to 2, 8, 32, 128, or more
component  files, and of each the outermost functions, classes or settings that the patch touches
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from ideator_rl.archive.archive import Archive
from ideator_rl.archive.idea_edits import known_edits
from ideator_rl.experiment import Experiment
from ideator_rl.patch.size import patch_size
from ideator_rl.search.ideator import Subject

SIZES = (2, 8, 32, 128)


def kind(record: Experiment, archive: Archive, subject: Subject | None) -> str:
    edits = known_edits(subject.environment, subject.preset) if subject else None
    families = edits.families(record.idea) if edits else ()
    return "+".join(families) or archive.cell(record)


def size(record: Experiment, archive: Archive, subject: Subject | None) -> str:
    at = bisect_left(SIZES, patch_size(record.patch)[0])
    return f"up to {SIZES[at]}" if at < len(SIZES) else "more"


def component(record: Experiment, archive: Archive, subject: Subject | None) -> str:
    files = []
    for part in archive.cell(record).split(";"):
        path, _, places = part.partition(":")
        outermost = sorted({place.split(".")[0] for place in places.split(",") if place})
        files.append(f"{path}:{','.join(outermost)}" if outermost else path)
    return ";".join(files)


DESCRIPTORS: dict[str, Callable[[Experiment, Archive, Subject | None], str]] = {
    "kind": kind,
    "size": size,
    "component": component,
}


def descriptor(
    record: Experiment, archive: Archive, subject: Subject | None, names: tuple[str, ...]
) -> tuple[str, ...]:
    """A record's cell."""
    return tuple(DESCRIPTORS[name](record, archive, subject) for name in names)
