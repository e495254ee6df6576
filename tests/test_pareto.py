"""Two metrics at once: the front against a slow count, its figure in a report, and axes of MAP-Elites."""

import random
import shutil
from itertools import product
from types import SimpleNamespace

import pytest
import yaml
from archives import archive, record
from report_page import journal
from report_page import record as journal_record

from ideator_rl.errors import IdeatorError
from ideator_rl.report.page import render_report
from ideator_rl.report.pareto import front, pareto_figures
from ideator_rl.report.run_view import run_view
from ideator_rl.search.descriptors import Bins
from ideator_rl.search.strategies import History
from ideator_rl.search.strategies.map_elites import MapElites
from ideator_rl.storage.run_reader import read_run


def slow_front(points, directions):
    """By comparing all pairs; of equal points the first."""

    def better(a, b):
        signs = [1 if direction == "min" else -1 for direction in directions]
        return all(s * x <= s * y for s, x, y in zip(signs, a, b, strict=True)) and a != b

    values = {point[:2] for point in points}
    return {v for v in values if not any(better(other, v) for other in values)}


def test_the_front_is_what_no_other_point_beats():
    rng = random.Random(0)
    for directions, size in product([("min", "min"), ("min", "max"), ("max", "min"), ("max", "max")], (1, 2, 9, 40)):
        points = [(rng.randrange(8), rng.randrange(8), SimpleNamespace(number=i)) for i in range(size)]
        found = front(points, directions)
        assert {point[:2] for point in found} == slow_front(points, directions)
        assert len(found) == len({point[:2] for point in found}), "equal points once"
    assert front([], ("min", "max")) == []


def test_a_report_draws_the_front_of_a_declared_secondary_metric(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = yaml.safe_load((tmp_path / "env/env.yaml").read_text())
    manifest["metric"]["secondary"] = {"size $n$": "min", "absent": "max"}
    (tmp_path / "env/env.yaml").write_text(yaml.safe_dump(manifest))
    folder = tmp_path / "run"
    folder.mkdir()
    values = [(4.0, 10.0), (3.0, 20.0), (3.5, 25.0), (2.0, 30.0)]
    records = [journal_record(f"e{i}", value=v, secondary={"size $n$": s}) for i, (v, s) in enumerate(values)]
    journal(folder, [records], [])
    (folder / "recipe.yaml").write_text(f"env: {tmp_path}/env\npreset: cpu\n")
    view = run_view("run", read_run(folder))
    [figure] = pareto_figures(view)
    assert figure.heading == "height and size $n$" and "experiments 1, 2, 4." in figure.remark
    html = render_report([view.run])
    assert "Several metrics" in html and "no other idea is better in both" in html
    del manifest["metric"]["secondary"]
    (tmp_path / "env/env.yaml").write_text(yaml.safe_dump(manifest))
    assert pareto_figures(run_view("run", read_run(folder))) == []


def test_map_elites_takes_secondary_metrics_as_axes():
    past = archive(
        *(record(f"t{i}", 1 / (1 + i), cell_name="lr", secondary={"size": float(i)}) for i in range(8)),
        record("u", 0.9),
    )
    cells = MapElites(descriptors=("metric:size",), bins=4).cells(History(past))
    assert {key[0]: best.tree for key, best in cells.items()} == {
        "0": "t0", "1": "t2", "2": "t4", "3": "t6", "none": "u"
    }  # fmt: skip
    fixed = MapElites(descriptors=["metric:size", "kind"], bins=2, ranges={"size": [0, 4]}).cells(History(past))
    assert {key: best.tree for key, best in fixed.items()} == {
        ("0", "train.py:lr"): "t0", ("1", "train.py:lr"): "t2", ("none", "train.py:u"): "u"
    }  # fmt: skip
    assert Bins("size", 1.0, 1.0, 4).label(past.records()[3]) == "0"
    # A model's code may have chosen the number.
    huge = [record("h", 0.5, secondary={"size": sign * 1.7e308}) for sign in (-1, 1)]
    for bounds in ((-1.7e308, 1.7e308), (0.0, 1e-3)):
        assert [Bins("size", *bounds, 4).label(item) for item in huge] == ["0", "3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"descriptors": ["size", "params"]}, "no descriptor 'params'.*metric:NAME"),
        ({"bins": 1}, "bins: 1. Expected at least 2"),
        ({"descriptors": ["metric:a"], "ranges": {"a": [2, 1]}}, r"ranges.a: \[2, 1\]. Expected \[lowest, highest\]"),
        ({"descriptors": ["metric:a"], "ranges": {"a": ["x", 1]}}, "ranges.a"),
        ({"descriptors": ["metric:a"], "ranges": {"a": [0, float("inf")]}}, r"\[0, inf\]. Expected"),
        ({"ranges": {"a": [0, 1]}}, "no descriptor 'metric:a'"),
    ],
)
def test_wrong_axes_are_refused(options, message):
    with pytest.raises(IdeatorError, match=message):
        MapElites(**options)
