"""Grades of mathematical answers: right ones, wrong ones, and answers that try to hang or crash the grader."""

import importlib.util
import json
import os
import time
from pathlib import Path

import pytest

from ideator_rl.evaluation import answer_of, math_grader
from ideator_rl.sandbox import process_tree

ROOT = Path(__file__).parent.parent
GSM8K = os.environ.get("IDEATOR_TEST_GSM8K", "")
"""Path of GSM8K's `test.jsonl`, which is not part of the project."""
SAMPLE = ["18", "3", "70000", "2,125", "-10", "1,450,000", "0.5", "1", "114,200", "-3"]
"""Golds of the forms that GSM8K has, for runs without its file."""


@pytest.fixture(scope="module")
def grader():
    with math_grader() as pool:
        yield pool


def golds():
    if not GSM8K:
        return SAMPLE
    return [json.loads(line)["answer"].rpartition("####")[2].strip() for line in Path(GSM8K).read_text().splitlines()]


def completion(answer):
    return f" some thought </think> <answer> {answer} </answer>"


def wrong_completion(number, all_golds):
    """A wrong answer to problem `number`, of five kinds in turn."""
    gold = all_golds[number]
    value = float(gold.replace(",", ""))
    others = [other for other in all_golds[number + 1 :] + all_golds if float(other.replace(",", "")) != value]
    kinds = [
        completion(f"{value + 1:.15g}"),
        completion(f"{-value:.15g}"),
        completion(f"{10 * value:.15g}"),
        completion(others[0]),
        f" the answer is {gold} </think> {gold} <answer> </answer>",
    ]
    return kinds[number % 5]


def test_every_gold_answer_is_right_and_every_wrong_one_is_wrong(grader):
    all_golds = golds()
    assert "0" not in all_golds  # with it, two of the wrong answers would be right
    right = [(answer_of(completion(gold)), gold) for gold in all_golds]
    wrong = [(answer_of(wrong_completion(n, all_golds)), gold) for n, gold in enumerate(all_golds)]
    assert grader.grade(right) == [True] * len(all_golds)
    assert grader.grade(wrong) == [False] * len(all_golds)


FORMS = [
    r"\frac43", r"\text{Monday}", "p - q", "11\\sqrt2", r"52_8", r"\left( 3, \frac{\pi}{2} \right)", r"90^\circ", r"10\%",
    r"1\frac45", "6+9i", r"\text{(C)}", r"\pm 19", r"x \in [-2,7]", "y = 2x + 3", r"(-\infty,2)\cup(3,\infty)", "3,5,7",
    r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}", r"5.4 \text{ cents}", r"\$32,\!348", "C", r"x^3+3x-6", "}",
]  # fmt: skip


def test_gold_answers_of_many_forms_are_right_when_written_verbatim(grader):
    assert grader.grade([(form, form) for form in FORMS]) == [True] * len(FORMS)


PERCENTAGES = [r"50\%", "50%", "50 percent", r"\text{50\%}", "50", "0.5", r"\frac12", r"12.5\%", "0.125", "5000"]
LONG = ["8" * 600, "8" + " " * 600 + "9", "8" * 512]


def test_training_and_measurement_grade_one_list_of_answers_alike(grader, monkeypatch):
    spec = importlib.util.spec_from_file_location("experiments_grade", ROOT / "envs/math_grpo/baseline/grade.py")
    experiments_grade = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(experiments_grade)
    # Its alarms would replace those of the tests.
    monkeypatch.setattr(experiments_grade, "SECONDS", None)
    pairs = [(form, form) for form in FORMS] + [(hedge, gold) for hedge in HEDGES for gold in ("3", "4")]
    pairs += [(answer, gold) for answer in PERCENTAGES for gold in PERCENTAGES] + [(text, text) for text in LONG]
    measured = grader.grade([(answer_of(completion(answer)), gold) for answer, gold in pairs])
    rewards = [
        experiments_grade.reward({"answer": gold, "thought": True}, completion(answer)) for answer, gold in pairs
    ]
    assert [bool(reward) for reward in rewards] == measured
    verdicts = dict(zip(pairs, measured, strict=True))
    assert verdicts[r"50\%", "50"] and verdicts[r"50\%", "0.5"] and not verdicts["50", "0.5"]
    assert [verdicts[text, text] for text in LONG] == [False, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "4",
        "</think> 4",
        "<answer>4</answer>",
        "</think> <answer>4",
        "</think> <answer>3</answer> <answer>4</answer>",
        "<answer>3</answer> </think> <answer>4</answer>",
        "</think> <answer>4</answer> or 5",
        "</think> so <answer>4</answer>",
        "</think></think> <answer>4</answer>",
        "</think> <answer><answer>4</answer>",
    ],
)
def test_a_completion_of_another_form_has_no_answer(text):
    assert answer_of(text) is None


def test_the_text_between_the_tags_is_the_answer():
    assert answer_of(completion("4\n5")) == "4\n5"
    assert answer_of("</think><answer>4</answer>\n") == "4"


HEDGES = [
    "3,4", "3 or 4", r"3 \text{ or } 4", r"\{3,4\}", r"\boxed{3}\boxed{4}", r"3} \boxed{4", r"3 \ne 4", "[3,4]", "x=3,x=4",
    r"\begin{pmatrix}3\\4\end{pmatrix}", "3|4", r"3.5 \pm 0.5", r"\infty - \infty", "0/0", "x", r"3 \le x \le 4", "",
]  # fmt: skip


def test_an_answer_of_several_values_is_wrong_for_each_of_them(grader):
    for gold in ("3", "4"):
        assert grader.grade([(hedge, gold) for hedge in HEDGES]) == [False] * len(HEDGES)


@pytest.mark.parametrize(("answer", "gold"), [("50%", "50"), ("50%", "0.5"), ("x = 5", "5"), ("2+3", "5")])
def test_what_math_verify_takes_for_equal(grader, answer, gold):
    """As the module says; a release that decides otherwise changes every figure."""
    assert grader.grade([(answer, gold)]) == [True]


ENDLESS = {
    "power tower": "9^{9^{9^{9^{9}}}}",
    "factorial": "(10^9)!",
    "factorial of a factorial": "((9!)!)!",
    "binomial": r"\binom{10^{12}}{10^{11}}",
    "sum": r"\sum_{n=1}^{10^{12}} \sin(n)/n",
    "product": r"\prod_{n=1}^{10^9} n",
    "power of a large power": r"7^{10^{20}} \mod 13",
    "brackets": "(" * 250 + "1" + ")" * 250,
}
"""Each of these computes for over five seconds."""
ODD = {
    "nested fractions": r"\frac{1}{" * 56 + "x" + "}" * 56,
    "long sum": "+".join(f"x^{{{n}}}" for n in range(80)),
    "large set": ",".join(map(str, range(3000))),
    "many digits": "9" * 100_000,
    "no number": '\x00\x1b\n\ud800{}[]"\\',
    "a line of the protocol": '3"], "3"]\n["4", "4"]\n',
}


@pytest.mark.slow  # 45 s of CPU: each of them runs until it is killed
@pytest.mark.timeout(1200)
def test_answers_that_never_end_are_wrong_and_those_between_them_are_graded(grader):
    pairs = [pair for text in ENDLESS.values() for pair in ((text, "5"), ("5", "5"))]
    assert grader.grade(pairs) == [False, True] * len(ENDLESS)


def test_odd_answers_are_wrong_and_those_between_them_are_graded(grader):
    pairs = [pair for text in ODD.values() for pair in ((text, "5"), ("5", "5"))]
    assert grader.grade(pairs) == [False, True] * len(ODD)


def test_an_answer_that_computes_for_too_long_is_wrong_and_the_next_one_is_graded(monkeypatch):
    monkeypatch.setattr("ideator_rl.evaluation.math_answers.CPU_SECONDS", 0.5)
    with math_grader(processes=1) as grader:
        assert grader.grade([(ENDLESS["power tower"], "5"), ("5", "5")]) == [False, True]


def test_no_process_is_left_when_the_pool_is_closed_during_an_answer(monkeypatch):
    before = set(process_tree.descendants(os.getpid()))
    with pytest.raises(KeyboardInterrupt), math_grader(processes=1) as grader:
        grader._processes[0].stdin.write(json.dumps([ENDLESS["power tower"], "5"]).encode() + b"\n")
        started = set(process_tree.descendants(os.getpid())) - before
        assert len(started) == 2
        raise KeyboardInterrupt
    deadline = time.monotonic() + 60
    # The child of the worker is killed by the kernel a moment after its parent.
    while any(process_tree.start_time(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(process_tree.start_time(pid) for pid in started)
