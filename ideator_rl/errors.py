"""The base of every error this library expects: a command line prints its sentence, without a traceback."""


class IdeatorError(Exception):
    """What came, what was expected, and what to do next, in one message for a person."""
