"""Runs inside the sandbox: looks for pieces of data in every file that can be read there.

Standard library only: this file is mounted alone.  Prints {"found": {hex: path}, "searched": count} as JSON.

usage: environment_search.py HEX [HEX …]
"""

import json
import mmap
import os
import stat
import sys

SKIPPED = ("/proc", "/sys", "/dev")


def main() -> None:
    pieces = [bytes.fromhex(word) for word in sys.argv[1:]]
    found: dict[str, str] = {}
    searched = 0
    for folder, names, files in os.walk("/"):
        names[:] = [name for name in names if os.path.join(folder, name) not in SKIPPED]
        for name in files:
            path = os.path.join(folder, name)
            try:
                info = os.lstat(path)
                if not stat.S_ISREG(info.st_mode) or info.st_size == 0:
                    continue
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as body:
                    searched += 1
                    for piece in pieces:
                        if piece.hex() not in found and body.find(piece) >= 0:
                            found[piece.hex()] = path
            except OSError:
                continue
    print(json.dumps({"found": found, "searched": searched}))


if __name__ == "__main__":
    main()
