"""Diversity of a population of ideas: embeddings, measures, windows over a run, and alarms of a collapse."""
