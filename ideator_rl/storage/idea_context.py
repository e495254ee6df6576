"""What an idea was written from, in the run's journal: the prompt that asked for it, and the codebase that it changes.

    prompts        one row a text, since many ideas answer one prompt
    idea_prompts   which idea answers which
    bases          of an idea that is written against another codebase than the baseline: that codebase, and the idea's
                   patch to it; the patch to the baseline is in the record

Guarantees: the rows are written in the transaction that writes the proposal, so a resumed run applies an idea to the
same codebase.  A journal without such rows reads as one whose ideas all change the baseline.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from ideator_rl.storage.journal_reader import JournalQueries, parse_parents
from ideator_rl.text.display import encodable

SCHEMA = """
create table if not exists prompts (hash text primary key, text text);
create table if not exists idea_prompts (
  step integer, rank integer, position integer, prompt text, primary key (step, rank, position));
create table if not exists bases (
  step integer, rank integer, position integer, tree text, to_baseline text, parents_json text, problem text,
  patch text, primary key (step, rank, position));
"""


@dataclass(frozen=True)
class Base:
    """The codebase that an idea's patch is written against, where its prompt showed ideas to inherit from."""

    tree: str = ""
    """SHA-256 of the codebase; empty for the baseline."""
    patch: str = ""
    """From the baseline to it."""
    parents: tuple[str, ...] = ()
    """Experiment ids of the ideas whose code it is: one, or two for a merge."""
    problem: str = ""
    """Why a parent's code was not used, as a sentence; the idea was then written against the baseline."""


@dataclass(frozen=True)
class IdeaContext:
    """What one idea was written from."""

    prompt: str = ""
    """The whole text that asked for it; empty where it is not known."""
    base: Base | None = None
    """None for the baseline."""


@dataclass(frozen=True)
class InheritedPatch:
    """A row of `bases`, with what came of the idea."""

    step: int
    position: int
    experiment_id: str
    """Empty while the outcome is not known."""
    base: Base
    patch: str
    """From the base to the idea's codebase; empty while there is none."""


def write_contexts(
    db: sqlite3.Connection, step: int, rank: int, first: int, count: int, contexts: Mapping[int, IdeaContext]
) -> None:
    """Write the contexts of proposals, by index, in place of what an earlier proposal of these rows left."""
    place = (step, rank, first, first + count)
    for table in ("idea_prompts", "bases"):
        db.execute(f"delete from {table} where step=? and rank=? and position>=? and position<?", place)
    for index, context in contexts.items():
        row = (step, rank, first + index)
        if context.prompt:
            # SQLite takes no half surrogate pairs, which the rows of a data set may hold.
            prompt = encodable(context.prompt)
            name = hashlib.sha256(prompt.encode()).hexdigest()
            db.execute("insert or ignore into prompts values (?,?)", (name, prompt))
            db.execute("insert into idea_prompts values (?,?,?,?)", (*row, name))
        if (base := context.base) is not None:
            values = (base.tree, base.patch, json.dumps(base.parents), base.problem)
            db.execute("insert into bases values (?,?,?,?,?,?,?,'')", (*row, *values))


def base_of_row(tree: str | None, patch: str, parents: str, problem: str) -> Base | None:
    """A base from the columns of its row; None where there is no row."""
    return None if tree is None else Base(tree, patch, parse_parents(parents), problem)


def inherited_patches(journal: JournalQueries) -> list[InheritedPatch]:
    """Every idea with a base, in order; none in a journal from before ideas had one."""
    if not journal.has_table("bases"):
        return []
    rows = journal.read(
        "select step, position, coalesce(experiment_id, ''), tree, to_baseline, parents_json, problem, patch "
        "from bases join rollouts using (step, rank, position) order by step, rank, position"
    )
    return [
        InheritedPatch(step, position, id, Base(tree, to_base, parse_parents(parents), problem), patch)
        for step, position, id, tree, to_base, parents, problem, patch in rows
    ]


def ideas_with_base(journal: JournalQueries) -> list[tuple[str, str, str]]:
    """Experiment id, text and hash of the base, of each idea with an outcome that changes another codebase than the
    baseline."""
    query = (
        "select experiment_id, idea, tree from bases join rollouts using (step, rank, position) "
        "where experiment_id is not null and tree != ''"
    )
    return list(journal.read(query))


def prompt_of(journal: JournalQueries, experiment_id: str) -> str | None:
    """The text that asked for the idea that first led to an experiment; None where it is not known."""
    query = (
        "select text from rollouts left join idea_prompts using (step, rank, position) left join prompts on "
        "hash = prompt where experiment_id=? order by step, rank, position limit 1"
    )
    return next((text for (text,) in journal.read(query, (experiment_id,))), None)


def prompts_by_idea(journal: JournalQueries) -> dict[tuple[int, int, int], str]:
    """The text that asked for each idea, by step, rank and position; without those whose prompt is not known."""
    if not journal.has_table("idea_prompts"):
        return {}
    texts = dict(journal.read("select hash, text from prompts"))
    rows = journal.read("select step, rank, position, prompt from idea_prompts")
    return {(step, rank, position): texts[name] for step, rank, position, name in rows if name in texts}
