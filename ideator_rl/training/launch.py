"""Several processes of a training module, by `accelerate launch`, without its output."""

from __future__ import annotations

import os

from ideator_rl.errors import IdeatorError
from ideator_rl.training.libraries import silence


def launch(argv: list[str]) -> int:
    """Start the processes and wait for them; returns the exit status of the first that failed, else 0.

    Args:
        argv: of `accelerate launch`.

    Raises:
        IdeatorError: accelerate refuses its options.
    """
    # A module in the working directory hides no library: the registry looks there for a user's own functions.
    os.environ["PYTHONSAFEPATH"] = "1"
    silence()
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        # --quiet: no traceback of accelerate follows the one sentence that a failed run ends with
        launch_command(launch_command_parser().parse_args(["--quiet", *argv]))
    except SystemExit as error:
        return int(error.code or 0)
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except ValueError as error:
        raise IdeatorError(f"accelerate refuses to launch: {error}") from error
    return 0
