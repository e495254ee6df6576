"""Scoring: trusted code measures what an experiment left, in processes that run no experiment code."""
