"""The base of every expected error: a command prints its sentence, without a traceback."""


class IdeatorError(Exception):
    """Its message states what the value was, what was expected, and what to do next."""
