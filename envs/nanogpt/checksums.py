"""Checksums of the shards of FineWeb: shipped, from the folder of the shards, of the hub, and recorded at first use.

Shards of one name must be the same files for every preset, folder and day, or results do not compare.  No list was
published with the shards, so what was used first on a machine counts there, until checksums.yaml is filled.
"""

import hashlib
from pathlib import Path

import yaml

from ideator_rl.config.yaml_reader import parse_yaml
from ideator_rl.environments.data import SourceError
from ideator_rl.files import cache_root, write_atomic

NAME = "checksums.yaml"
REVISION = "revision"
"""The key of the hub's commit; all other keys are names of shards."""

sha256 = hashlib.sha256


class Checksums:
    """What is expected of each shard, and what was seen in this preparation."""

    def __init__(self, folder: Path | None):
        """
        Args:
            folder: of the shards; it may hold a checksums.yaml of its own.

        Raises:
            SourceError: a file of checksums cannot be read.
        """
        self.record_path = cache_root() / "data" / f"nanogpt-{NAME}"
        self.recorded = _read(self.record_path)
        self._stated = _read(Path(__file__).with_name(NAME))
        self._beside = _read(folder / NAME) if folder else {}
        self.published: dict[str, str] = {}
        self.seen: dict[str, str] = {}
        """SHA-256 of each shard of this preparation, by name."""
        self.revision: str | None = self._stated.pop(REVISION, None) or self.recorded.get(REVISION)

    def add(self, name: str, checksum: str) -> None:
        """Compare a shard's checksum with every statement about it, then record it.

        Raises:
            SourceError: it differs from one of them, or equals that of another shard.
        """
        places = {
            f"nanogpt's {NAME}": self._stated,
            f"the {NAME} in its folder": self._beside,
            "the hub": self.published,
            f"{self.record_path}, recorded at first use": self.recorded,
        }
        for place, checksums in places.items():
            expected = checksums.get(name, checksum)
            if expected != checksum:
                others = [other for other, value in checksums.items() if value == checksum]
                found = f"holds what {others[0]} should hold: shards were reordered" if others else "is another file"
                raise SourceError(
                    f"{name} {found}. Its SHA-256 is {checksum[:12]}…; {expected[:12]}… is expected by {place}."
                )
        if twin := next((other for other, value in self.seen.items() if value == checksum), None):
            raise SourceError(f"{name} and {twin} are the same file. Copy both again.")
        self.seen[name] = checksum
        if self.recorded.get(name) != checksum:
            # Another preset may be prepared at the same time.
            self.recorded = _read(self.record_path) | {name: checksum}
            if self.revision:
                self.recorded[REVISION] = self.revision
            self.record_path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.record_path, yaml.safe_dump(self.recorded))


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    keys = parse_yaml(path.read_bytes(), str(path), SourceError)
    if not isinstance(keys, dict) or not all(isinstance(text, str) for pair in keys.items() for text in pair):
        raise SourceError(f"{path} is not a list of `name: SHA-256`. Correct it, or delete it.")
    return dict(keys)
