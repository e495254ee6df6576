"""RL on execution rewards, as a thin guest in TRL.  The only part of the library that imports trl."""
