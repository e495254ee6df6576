"""Accuracy on hidden problems: trusted code samples answers from the experiment's weights, and grades them apart.

Trusted: nothing of the experiment runs here.  The weights are a safetensors file of the base's names, shapes and types,
checked before they are read.  The generator has the base's configuration and tokenizer and sees prompts, no answers.
Template, length, temperature and number of answers are the preset's, whatever the training used.
"""

import json

import numpy as np

from ideator_rl.evaluation import answer_of, generated, math_grader, weights

STOP = "</answer>"


def evaluate(run) -> float:
    """Share of right answers, over all hidden problems and the answers that are sampled to each."""
    lines = (run.private / f"{run.split}.jsonl").read_text(encoding="utf-8").splitlines()
    problems = [json.loads(line) for line in lines]
    measure = json.loads((run.private / "measure.json").read_text())
    template = (run.public / "template.txt").read_text(encoding="utf-8")
    prompts = [template.replace("{problem}", problem["problem"]) for problem in problems]
    base = run.public / "model"
    answers = generated(
        run,
        prompts,
        base=base,
        weights=weights(run, like=base),
        max_tokens=measure["max_tokens"],
        stop=STOP,
        temperature=measure["temperature"],
        samples=measure["samples"],
        seed=run.split != "main",
    )
    # Where the prompt opens no thought, the form is the same without one.
    before = "" if template.rstrip().endswith("<think>") else "</think> "
    pairs = [(answer_of(before + text), p["answer"]) for p, row in zip(problems, answers, strict=True) for text in row]
    with math_grader(processes=2) as grader:
        grades = grader.grade(pairs)
    run.notes.update({"problems": len(problems), "answers": len(pairs), "finished": _share_finished(answers)})
    return float(np.mean(grades))


def _share_finished(answers: list[list[str]]) -> float:
    """Answers that ended with the tag: the others are wrong for their form or length alone."""
    return float(np.mean([text.rstrip().endswith(STOP) for texts in answers for text in texts]))
