"""A scripted chat model that improves the toy's code as its prompt shows it, for searches whose ideas inherit code."""

import re

from conftest import replace_line
from llm_server import answer

GOAL = {"x": 1.0, "y": -2.0, "z": 3.0}


def shown_values(prompt):
    """The values of x, y and z in the files that a prompt shows."""
    text = prompt[prompt.index('<file path="train.py"') : prompt.index("</file>")]
    return {name: float(value) for name, value in re.findall(r"^([xyz]) = (\S+)", text, re.M)}


def step(values):
    """A SEARCH/REPLACE block that moves the coordinate that is furthest from the goal by one."""
    name = max(GOAL, key=lambda name: abs(values[name] - GOAL[name]))
    direction = 1 if GOAL[name] > values[name] else -1
    return replace_line(f"{name} = {values[name]}", f"{name} = {values[name] + direction}")


def improving(body, said=""):
    """One idea that edits the shown code; a step of `Scripted`."""
    values = shown_values(body["messages"][-1]["content"])
    return {"body": answer(f"[Experiment] {said}One step from {values}. [Code Changes]\n{step(values)}\n[End]")}


def coding(body):
    """A code LLM that writes the same step for any idea."""
    return {"body": answer(step(shown_values(body["messages"][-1]["content"])))}
