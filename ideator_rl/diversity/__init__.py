"""Diversity: ideas as vectors, measures of a population, its windows over a run, and alarms of collapse."""
