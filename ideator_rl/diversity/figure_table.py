"""The diversity figures: name, title, unit and source of each.  `n` is a run's fixed number of ideas to compare."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FigureInfo:
    title: str
    unit: str
    source: str
    """Where the formula comes from, or the data."""
    good: str = ""
    """`up` or `down` if one of them is always better."""


_RECORDS = "records"
_PATCH = "the records' patches"
_HURLBERT = "Hurlbert 1971, rarefaction"
_LI = "Li et al. 2016, arXiv 1510.03055; Colwell, Mao & Chang 2004"
_VENDI = "Friedman & Dieng 2023, arXiv 2210.02410"
_LINKAGE = "average linkage on description embeddings"
_TREES = "distinct codebases among n ideas that have one, over n"

FIGURES: dict[str, FigureInfo] = {
    "success": FigureInfo("Share of the ideas that ran and were scored", "share", _RECORDS, "up"),
    "malformed": FigureInfo("Share of the completions without an idea", "share", _RECORDS, "down"),
    "reward_mean": FigureInfo("Mean reward, failures included", "reward", _RECORDS),
    "reward_of_successes": FigureInfo("Mean reward of the successes", "reward", _RECORDS, "up"),
    "reward_best": FigureInfo("Best reward", "reward", _RECORDS, "up"),
    "reward_spread": FigureInfo("Standard deviation of the rewards", "reward", _RECORDS),
    "metric_mean": FigureInfo("Mean metric of the successes", "metric", _RECORDS),
    "metric_best": FigureInfo("Best metric", "metric", _RECORDS),
    "metric_spread": FigureInfo("Standard deviation of the metric of the successes", "metric", _RECORDS),
    "best_so_far": FigureInfo("Best metric so far", "metric", _RECORDS),
    "beyond_bound": FigureInfo("Successes better than the environment's known bound", "ideas", _RECORDS, "down"),
    "distinct_trees": FigureInfo("Distinct resulting codebases", f"share: {_TREES}", _HURLBERT, "up"),
    "distinct_trees_succeeded": FigureInfo(
        "Distinct resulting codebases of the successes", f"share: {_TREES}", _HURLBERT, "up"
    ),
    "distinct_1": FigureInfo("Different words in n descriptions, over all words", "share", _LI, "up"),
    "distinct_2": FigureInfo("Different pairs of words in n descriptions, over all pairs", "share", _LI, "up"),
    "distance": FigureInfo("Mean cosine distance of two descriptions", "cosine distance", "a U-statistic", "up"),
    "vendi": FigureInfo("Vendi score of n descriptions", "effective number of ideas, 1 to n", _VENDI, "up"),
    "vendi_succeeded": FigureInfo(
        "Vendi score of n/2 descriptions of successes", "effective number of ideas, 1 to n/2", _VENDI, "up"
    ),
    "collapse_index": FigureInfo("1 − Vendi score over that of the start", "share lost", _VENDI, "down"),
    "clusters": FigureInfo("Clusters among n descriptions", "clusters", f"{_LINKAGE}; {_HURLBERT}", "up"),
    "cluster_entropy": FigureInfo("Entropy of the clusters", "nats", f"{_LINKAGE}; Miller 1955", "up"),
    "largest_cluster": FigureInfo("Share of the ideas in the largest cluster", "share", _LINKAGE, "down"),
    "largest_cluster_succeeded": FigureInfo(
        "Share of the successes in their largest cluster", "share", _LINKAGE, "down"
    ),
    "past_duplicates": FigureInfo(
        "Ideas whose description is nearly one of an earlier window", "share", "nearest cosine similarity", "down"
    ),
    "past_duplicates_succeeded": FigureInfo(
        "Successes whose description is nearly one of an earlier window", "share", "nearest cosine similarity", "down"
    ),
    "known_trees": FigureInfo("Ideas whose codebase was proposed in an earlier window", "share", _RECORDS, "down"),
    "parent_copies": FigureInfo(
        "Ideas whose codebase is that of an idea their prompt showed", "share of those shown some", "lineage", "down"
    ),
    "new_cells": FigureInfo("Kinds of change that no earlier window had", "cells", _PATCH, "up"),
    "thought_words": FigureInfo("Mean length of the thought before an idea", "words", _RECORDS),
    "thought_success": FigureInfo(
        "Rank correlation of thought length and success", "−1 to 1", "Spearman 1904; words split at blanks"
    ),
    "patch_lines": FigureInfo("Mean number of changed lines", "lines", _PATCH),
    "patch_files": FigureInfo("Mean number of touched files", "files", _PATCH),
    "coverage": FigureInfo(
        "Catalogue edits that n ideas with a patch have", "share of the catalogue", f"{_PATCH}; {_HURLBERT}", "up"
    ),
    "coverage_so_far": FigureInfo("Catalogue edits that some idea had so far", "share of the catalogue", _PATCH, "up"),
    "token_entropy": FigureInfo(
        "Mean entropy of the ideator's next-token distribution", "nats a token", "the trainer's log", "up"
    ),
}
"""In the order in which a report shows them."""
