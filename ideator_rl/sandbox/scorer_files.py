"""The files of one scorer: copies in memory of its artifact and code, beside the image that it runs from.

FOLDER/ideator_rl-UID/scorers/NAME/…     locked while the scorer lives
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.mounts import Image

UNUSED_SECONDS = 900
"""A folder that its maker has not locked by then is removed."""


@contextmanager
def files_in_memory(image: Image | None, readonly: Mapping[Path, str]) -> Iterator[dict[Path, str]]:
    """Copies in memory of files and folders for one scorer, removed at the end; without an image the originals.

    Args:
        readonly: host path → path inside, as in `Mounts`.

    Raises:
        MemoryError: no room: a fault of the machine, not of the experiment.
    """
    if image is None:
        yield dict(readonly)
        return
    with ExitStack() as at_end:
        try:
            folder = _scorer_folder(image.root.parent.parent / "scorers", at_end)
            copies = {_copied(source, folder / str(n)): inside for n, (source, inside) in enumerate(readonly.items())}
        except OSError as error:
            raise MemoryError(f"a scorer's files could not be copied to memory: {error}") from error
        yield copies


def _scorer_folder(parent: Path, at_end: ExitStack) -> Path:
    """A new folder, locked and later removed by what it adds to `at_end`.  Raises: OSError."""
    parent.mkdir(mode=0o700, exist_ok=True)
    _remove_stale(parent)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
    at_end.callback(shutil.rmtree, fresh, ignore_errors=True)
    handle = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
    at_end.callback(os.close, handle)
    fcntl.flock(handle, fcntl.LOCK_EX)
    # Only now that it is locked: a folder of this name with a free lock counts as stale.
    folder = fresh.rename(parent / fresh.name.removeprefix("new-"))
    at_end.callback(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    return folder


def _copied(source: Path, target: Path) -> Path:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def _remove_stale(parent: Path) -> None:
    """Remove the folders of scorers whose process was killed."""
    for folder in parent.iterdir():
        with suppress(OSError):
            if folder.name.startswith("new-") and time.time() - folder.stat().st_mtime < UNUSED_SECONDS:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process_tree.kill_stuck_sandboxes(folder)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
