"""The cell of an experiment, under the name by which the archive and rewards ask for it; see `patch.cells`."""

from ideator_rl.patch.cells import LONGEST, cell_of

__all__ = ["LONGEST", "cell_of"]
