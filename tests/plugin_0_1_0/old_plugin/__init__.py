"""A plugin for ideator_rl 0.1.0: one part of every kind that the library takes by entry point."""

import json
import os
from pathlib import Path

HILL = Path(__file__).parent / "hill"


def note(part: str, **facts: object) -> None:
    """Append a line to the file that OLD_PLUGIN_LOG names: which part was called, and with what."""
    if log := os.environ.get("OLD_PLUGIN_LOG"):
        with open(log, "a") as file:
            file.write(json.dumps({"part": part, **facts}) + "\n")
