import json

import pytest
from conftest import TOY, execute, replace_line, sentence

from ideator_rl.report import write_report
from ideator_rl.report.summary import summary
from ideator_rl.storage.run_reader import read_run

NOISE = 'point = {"x": x + 0.01 * (int(os.environ["IDEATOR_SEED"]) // 1000 % 7), "y": y, "z": z}'


@pytest.fixture
def bucket(call, tmp_path):
    """A bucket with two successes, a failure and a baseline; the metric of the better success depends a little on its seed."""
    for name, new in (("a", NOISE.replace('"x": x', '"x": 2.0')), ("b", "x = 3.0"), ("c", "x = nothing")):
        old = 'point = {"x": x, "y": y, "z": z}' if name == "a" else "x = 4.0"
        (tmp_path / f"{name}.diff").write_text(replace_line(old, new))
        execute(call, tmp_path, "--diff", tmp_path / f"{name}.diff")
    execute(call, tmp_path, "--baseline")
    return f"file://{tmp_path}/bucket"


def test_the_best_ideas_and_the_baseline_are_run_again_under_paired_seeds(call, bucket):
    code, out, _ = call("rerun", bucket, "--best", 5, "--replicates", 2, "--json")
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 0 and first["first"] == pytest.approx(0.5 + 1 + 36 + 0.1) and len(first["values"]) == 2
    assert first["mean"] == pytest.approx(sum(first["values"]) / 2) and first["first"] not in first["values"]
    assert second["values"] == [pytest.approx(0.5 + 4 + 36 + 0.1)] * 2 and second["deviation"] == 0
    assert second["gain"] == pytest.approx(5.0) and second["gain_error"] == 0
    assert call("rerun", bucket, "--best", 1, "--replicates", 2)[1].startswith(
        "baseline 45.6000 ± 0.0000 (2 of 2 runs)"
    )


def test_a_report_shows_reruns_with_their_spread(call, tmp_path):
    from ideator_rl.reward_buffer import BufferConfig, open_buffer

    buffer = open_buffer(BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2))
    import asyncio

    from ideator_rl.search.rerun import rerun, source_of_run

    patch = replace_line('point = {"x": x, "y": y, "z": z}', NOISE.replace('"x": x', '"x": 2.0'))
    asyncio.run(buffer.score_patch(patch))
    source = source_of_run(tmp_path)
    [result] = asyncio.run(rerun(buffer, source.best(1), 2))
    buffer.close()
    run = read_run(tmp_path)
    assert len(run.ranked) == 1 and run.values(run.ranked[0]) == [result.first, *result.values]
    assert len(run.ran) == 1, "a re-run is not a further experiment of the search"
    write_report([tmp_path], tmp_path / "report.html")
    assert "(3 runs)" in (tmp_path / "report.html").read_text() and "3 runs; the first" in summary(tmp_path)


def test_a_bucket_without_a_success_has_nothing_to_run_again(call, tmp_path):
    execute(call, tmp_path, "--baseline")
    code, _, err = call("rerun", f"file://{tmp_path}/bucket")
    assert "nothing to run again" in sentence(code, err)
