"""Train an ideator on research ideas that were really run.  Importing this package does nothing."""

__version__ = "0.1.0"
