"""Trained weights, written into a codebase in every form that a script can read back.

`WEIGHTS` stands for them: random bytes, as incompressible as weights at eight bits.  Each form returns files to add.
"""

import base64
import random
from collections.abc import Callable

from ideator_rl.patch import Tree

WEIGHTS = random.Random(7).randbytes(135_000)
"""A model of the environment nanogpt, preset cpu, at eight bits a weight."""


def _wrapped(text: str, width: int = 100) -> list[str]:
    return [text[i : i + width] for i in range(0, len(text), width)]


def _base85(data: bytes) -> Tree:
    return {"weights.py": "import base64\n\nDATA = base64.b85decode(" + repr(base64.b85encode(data)) + ")\n"}


def _hex_numbers(data: bytes) -> Tree:
    numbers = [f"0x{data[i : i + 32].hex()}" for i in range(0, len(data), 32)]
    return {"weights.py": "DATA = [\n" + "".join(f"    {number},\n" for number in numbers) + "]\n"}


def _floats(data: bytes) -> Tree:
    rows = [", ".join(f"{(b - 128) / 64:.4f}" for b in data[i : i + 12]) for i in range(0, len(data), 12)]
    return {"weights.py": "DATA = [\n" + "".join(f"    [{row}],\n" for row in rows) + "]\n"}


def _decimal_in_yaml(data: bytes) -> Tree:
    return {"weights.yaml": "".join(f"- [{', '.join(map(str, data[i : i + 24]))}]\n" for i in range(0, len(data), 24))}


def _names(data: bytes) -> Tree:
    return {"weights.py": "".join(f"def n{data[i : i + 40].hex()}(): pass\n" for i in range(0, len(data), 40))}


def _comments(data: bytes) -> Tree:
    lines = _wrapped(base64.b64encode(data).decode())
    return {"weights.py": "TEXT = open(__file__).read()\n" + "".join(f"# {line}\n" for line in lines)}


def _docstring(data: bytes) -> Tree:
    return {"weights.py": '"""' + "\n".join(_wrapped(base64.b32encode(data).decode())) + '\n"""\nTEXT = __doc__\n'}


def _unicode(data: bytes) -> Tree:
    """Two bytes in each character of a string, from planes without control characters."""
    text = "".join(chr(0x20000 + int.from_bytes(data[i : i + 2], "big") % 0xA000) for i in range(0, len(data), 2))
    return {"weights.py": "\n".join(f'A{i} = "{line}"' for i, line in enumerate(_wrapped(text))) + "\n"}


def _blanks(data: bytes) -> Tree:
    """A bit in each blank at the end of a line."""
    lines = ["".join("\t" if byte >> bit & 1 else " " for bit in range(8)) for byte in data]
    return {"weights.py": "".join(f"x = 1{line}\n" for line in lines)}


def _operators(data: bytes) -> Tree:
    """No literal at all: a bit in each sign of a sum of one name."""
    signs = ["".join("+x" if byte >> bit & 1 else "-x" for bit in range(8)) for byte in data]
    return {"weights.py": "x = 1\n" + "".join(f"x{sign}\n" for sign in signs)}


def _many_files(data: bytes) -> Tree:
    share = len(data) // 60 + 1
    return {f"part_{i}.py": _base85(data[i * share : (i + 1) * share])["weights.py"] for i in range(60)}


def _file_names(data: bytes) -> Tree:
    return {f"w/{data[i : i + 90].hex()}.py": "" for i in range(0, len(data), 90)}


FORMS: dict[str, Callable[[bytes], Tree]] = {
    "base85": _base85,
    "hexadecimal numbers": _hex_numbers,
    "floats": _floats,
    "decimal numbers in YAML": _decimal_in_yaml,
    "names of functions": _names,
    "comments": _comments,
    "a docstring": _docstring,
    "unicode": _unicode,
    "blanks at line ends": _blanks,
    "signs of a sum": _operators,
    "sixty files": _many_files,
    "names of files": _file_names,
}
