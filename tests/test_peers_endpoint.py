"""The scripted endpoint of benchmarks/peers.py: one change for every system, in the form that each one asks for."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from ideator_rl.ideas import parse_idea, spans_of_ideas
from ideator_rl.patch import Rules, patched_tree

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import peers_mutation  # noqa: E402 - after the folder of the benchmarks is on the path
from peers_endpoint import Mutator, current_program  # noqa: E402
from peers_table import paired_half_width, table  # noqa: E402

PROGRAM = """# EVOLVE-BLOCK-START
import numpy as np


def construct_packing():
    n = 26
    centers = np.zeros((n, 2))
    for i in range(n):
        centers[i] = [0.1 + 0.15 * (i % 6), 0.1 + 0.2 * (i // 6)]
    centers = np.clip(centers, 0.01, 0.99)
    return centers
# EVOLVE-BLOCK-END"""
OTHER = PROGRAM.replace("0.15", "0.12")
HISTORY = f"## Top Performing Programs\n\n### Program 1 (Score: 0.9)\n```python\n{OTHER}\n```\n\n"
CURRENT = f"# Current Program\n```python\n{PROGRAM}\n```\n\n# Task\n"
AFTER = f"# Crossover Inspiration Programs\n```python\n{OTHER}\n```\n"
PROMPTS = {
    "OpenEvolve's diffs": f"{HISTORY}{CURRENT}You MUST use the exact SEARCH/REPLACE diff format shown below.",
    "OpenEvolve's rewrites": f"{HISTORY}{CURRENT}Rewrite the program. Provide the complete new program code.",
    "Shinka's diffs": f"Respond with <NAME> and <DIFF> in SEARCH/REPLACE form.\n{HISTORY}{CURRENT.replace('Pro', 'pro')}",
    "Shinka's crossovers": f"Respond with <NAME> and <CODE>.\n{HISTORY}{CURRENT}{AFTER}",
    "Shinka's fixes": f"Respond with <CODE>.\n{CURRENT.replace('# Current Program', '# Incorrect Program to Fix')}",
    "ours": (
        f'The code:\n<file path="p.py" lines="11">\n{PROGRAM}\n</file>\n[Experiment] … [Code Changes] … [End]\n'
        f"These ideas were tried before.\n```diff\n{OTHER}\n```"
    ),
}


def program_of(reply, before=PROGRAM):
    """The program that an answer leads to, by our own parser of edits."""
    if "SEARCH" not in reply:
        return reply.split("```python\n")[1].split("\n```")[0]
    edit = "<<<<<<< SEARCH" + reply.split("<<<<<<< SEARCH")[1].split(">>>>>>> REPLACE")[0] + ">>>>>>> REPLACE\n"
    tree = patched_tree({"p.py": before + "\n"}, f"p.py\n{edit}", Rules(editable=("*.py",)))
    return tree["p.py"].removesuffix("\n")


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("number", range(12))
def test_every_system_gets_the_same_change_of_the_program_marked_as_current(name, number):
    expected = peers_mutation.mutated(PROGRAM, random.Random(f"7:{number}:0"))
    assert current_program(PROMPTS[name])[1] == PROGRAM
    assert program_of(Mutator(7).reply(PROMPTS[name], number)) == expected != PROGRAM


def test_an_answer_to_ideator_rl_has_as_many_complete_ideas_as_its_prompt_wants():
    reply = Mutator(1).reply(PROMPTS["ours"] + "\n\nWrite 3 different ideas instead of one", 0)
    ideas = [parse_idea(reply[start:end]) for start, end in spans_of_ideas(reply)]
    assert len({program_of(idea.changes) for idea in ideas}) == 3


@pytest.mark.parametrize("operator", peers_mutation.OPERATORS)
def test_changes_of_every_kind_leave_python_that_places_26_centres(operator, monkeypatch):
    base = PROGRAM
    if operator is peers_mutation._undo:
        # It takes out what these two have written.
        for write in (peers_mutation._push, peers_mutation._move):
            monkeypatch.setattr(peers_mutation, "OPERATORS", {write: 1})
            base = peers_mutation.mutated(base, random.Random(0))
    monkeypatch.setattr(peers_mutation, "OPERATORS", {operator: 1})
    outcomes = []
    for seed in range(20):
        names = {}
        exec(compile(peers_mutation.mutated(base, random.Random(seed)), "p.py", "exec"), names)
        try:
            centers = names["construct_packing"]()
            outcomes.append(centers.shape == (26, 2) and bool(np.isfinite(centers).all()))
        except IndexError:  # rows of too many circles
            outcomes.append(False)
    assert sum(outcomes) >= (5 if operator is peers_mutation._rows else 20), outcomes


def test_a_prompt_without_a_program_is_counted_as_a_problem_and_a_probe_is_not():
    mutator = Mutator(0)
    mutator({"messages": [{"role": "user", "content": "Answer in one word: write OK."}]})
    assert mutator.problems == []
    mutator({"messages": [{"role": "user", "content": "Summarise these programs. " * 20}]})
    assert "marks no current program" in mutator.problems[0]
    mutator({"messages": [{"role": "user", "content": CURRENT.replace("np.clip", "clip") + "x" * 200}]})
    assert "np.clip" in mutator.problems[1]


def test_the_interval_is_students_and_the_table_pairs_by_seed():
    gaps = [0.02, -0.01, 0.05, 0.03, 0.0]
    interval = ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert paired_half_width(gaps) == pytest.approx((interval.high - interval.low) / 2)
    row = {
        "budget": 9,
        "failures": 1,
        "evaluations": 9,
        "wall_s": 18.0,
        "best_after": {"25": 1.0, "50": 1.0},
        "version": "1",
    }
    bests = {"shinka": (2.0, 1.0), "puct": (2.1, 1.5)}
    rows = [
        row | {"arm": arm, "seed": seed, "best": best} for arm, pair in bests.items() for seed, best in enumerate(pair)
    ]
    text = table(rows, 9, ["shinka", "puct"])
    assert "| puct − shinka | +0.300 |" in text and "| 2 of 2 |" in text
    assert "| 18, 2 | 2.00 (2.00 to 2.00) |" in text
