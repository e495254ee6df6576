"""Spends CPU seconds, as training would."""

import time


def burn(seconds, clock=time.process_time):
    """Count the pairs of letters again and again; the count is of no use."""
    end, number = clock() + seconds, 0
    while clock() < end:
        number += 1
    return number
