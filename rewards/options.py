"""`Option`, for plugins; the module is `rewards.support.options`."""

from .support.options import Option, Options, read

__all__ = ["Option", "Options", "read"]
