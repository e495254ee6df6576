"""`ideator-rl patch`: repair, apply and judge a patch for a codebase on disk.  Nothing is run, no LLM is called."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ideator_rl.cli.output import print_json, print_progress, print_text, read_patch
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.patch import PatchError, Tree, apply_patch, diff, patched_tree, read_tree, tree_hash, write_tree
from ideator_rl.text.display import visible


def main(args: argparse.Namespace) -> int:
    """Returns 0 if the patched codebase is in `--out`, 1 if there is none."""
    base_folder, out = Path(args.base), Path(args.out)
    if not base_folder.is_dir():
        raise IdeatorError(f"There is no folder {args.base}. Give the codebase that the patch is for as --base.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IdeatorError(f"{args.out} exists already. Give a new or empty folder as --out; nothing is overwritten.")
    base, text = read_tree(base_folder), read_patch(args.diff)
    environment = load_environment(args.env) if args.env else None
    if environment is not None and args.preset is not None:
        environment = environment.at(args.preset)
    rules = environment.rules if environment else None
    try:
        tree = patched_tree(base, text, rules) if rules else apply_patch(base, text)
        _write(tree, out)
    except PatchError as error:
        if args.json:
            refusal = {"kind": error.kind, "message": str(error)}
            print_json({"status": error.kind, "error": refusal, "patch": "", "out": None})
        else:
            print_progress(visible(f"{error.kind}: {error}"))
        return 1
    patch = diff(base, tree)
    if args.json:
        print_json({"status": "applied", "error": None, "patch": patch, "tree": tree_hash(tree), "out": str(out)})
    else:
        print_text(patch.rstrip("\n"))
    return 0


def _write(tree: Tree, out: Path) -> None:
    """Write the tree into a new or empty folder, completely or not at all."""
    folder_existed = out.exists()
    try:
        write_tree(tree, out)
    except FileExistsError:
        raise  # another process wrote there meanwhile: its files are not ours to remove
    except OSError as error:
        for child in out.iterdir() if out.is_dir() else ():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        if not folder_existed and out.is_dir():
            out.rmdir()
        raise IdeatorError(
            f"{out} cannot be written: {error.strerror}. Nothing of it is left; fix this and repeat."
        ) from None
