"""`leaderboard`: new seeds on the final split, a p-value against the target, and published results beside them."""

import json

import pytest
from checkpointed import LAST, checkpointed
from conftest import replace_line, run

from ideator_rl.cli.commands import main
from ideator_rl.environments.environment import EnvironmentError_, load_environment
from ideator_rl.environments.references import references
from ideator_rl.executor.record_store import save_record
from ideator_rl.experiment import FINAL_REPLICATE, Experiment
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.search.leaderboard import Entry
from ideator_rl.search.rerun import Source
from ideator_rl.storage.bucket import open_bucket


def entry(values, seconds=(), compilation=()):
    return Entry("idea 1", "e", "", list(values), list(seconds), list(compilation))


def test_the_p_value_is_that_of_the_one_sided_t_test():
    from scipy.stats import ttest_1samp

    values = [3.276, 3.279, 3.278, 3.281, 3.277]
    expected = ttest_1samp(values, 3.28, alternative="less").pvalue
    assert entry(values).p(3.28, "min") == pytest.approx(expected)
    assert entry(values).p(3.28, "max") == pytest.approx(1 - expected)
    # Nine runs at a mean of 3.278 with a spread of 0.0019 are the fewest that reach 0.01, by the records' own spread.
    spread = [3.278 + 0.0019 * z for z in (-1.4, -1, -0.6, -0.2, 0, 0.2, 0.6, 1, 1.4)]
    assert entry(spread).p(3.28, "min") < 0.01 < entry(spread[3:6]).p(3.28, "min") * 10
    assert entry([3.2]).p(3.28, "min") is None
    assert entry([3.2, 3.1, None]).p(3.28, "min") is None  # a mean of those that succeeded is a selection
    assert entry([3.2, 3.2]).p(3.28, "min") == 0.0 and entry([3.3, 3.3]).p(3.28, "min") == 1.0


def test_seconds_to_the_target_need_every_run_to_reach_it():
    assert entry([3, 3], [100.0, 120.0], [40.0, 50.0]).seconds_mean == 110.0
    assert entry([3, 3], [100.0, 120.0], [40.0, 50.0]).seconds_without_compilation == 65.0
    assert entry([3, 3], [100.0, None], [40.0, 50.0]).seconds_mean is None
    assert entry([3, 3], [100.0, 120.0], [40.0, None]).seconds_without_compilation is None


def test_the_best_of_a_bucket_is_measured_on_the_final_split(tmp_path, capsys):
    folder, bucket = checkpointed(tmp_path / "env"), f"file://{tmp_path}/bucket"
    buffer = open_buffer(BufferConfig(str(folder), "cpu", bucket, run_dir=str(tmp_path), slots=2))
    better, worse = (replace_line(LAST, LAST.replace("3.0", start)) for start in ("2.0", "4.0"))
    records = [run(buffer.score_patch(patch)) for patch in (better, worse)]
    buffer.close()
    line = ["leaderboard", str(folder), bucket, "--best", "1", "--replicates", "2", "--slots", "2"]
    assert main([*line, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    idea, baseline = facts["entries"]
    assert idea["id"] == records[0].id and baseline["label"] == "baseline" and facts["target"] == 4.5
    # 0.1 harder than the split of the search, and 1 more for each thousand seeds.
    assert idea["values"] == pytest.approx([3.1, 3.101]) and baseline["values"] == pytest.approx([4.1, 4.101])
    assert idea["p"] < 0.01 and 0.2 <= idea["seconds_to_target"] < 30
    assert idea["seconds_without_compilation"] < idea["seconds_to_target"]
    assert [reference["value"] for reference in facts["references"]] == [3.28, 2700]
    assert main(line) == 0  # its results are in the bucket
    shown = capsys.readouterr().out
    assert "p = " in shown and "record 1, 8 H100 (https://example.org/1)" in shown and "2700 s" in shown


def test_results_of_the_final_split_choose_nothing(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    for number, (tree, value, replicate) in enumerate((("a", 3.0, 0), ("b", 2.0, FINAL_REPLICATE), ("a", 1.0, 100))):
        metric = {"name": "val_loss", "value": value, "direction": "min"}
        record = Experiment(str(number), "succeeded", "", "e", "p", replicate=replicate, metric=metric, tree=tree)
        save_record(bucket, record, queued=False)
    assert [record.id for record in Source(bucket).best(5)] == ["0"]


def test_a_preset_without_a_target_has_no_leaderboard(toy_buffer, toy, tmp_path, capsys):
    run(toy_buffer.score_patch(replace_line("x = 4.0", "x = 3.0")))
    assert main(["leaderboard", str(toy), f"file://{tmp_path}/bucket", "--slots", "2"]) == 2
    assert "The preset cpu of toy has no target" in capsys.readouterr().err


def test_a_run_of_another_environment_is_refused(toy_buffer, tmp_path, capsys):
    run(toy_buffer.score_patch(replace_line("x = 4.0", "x = 3.0")))
    assert main(["leaderboard", "nanogpt", f"file://{tmp_path}/bucket"]) == 2
    assert "is about toy, not nanogpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "must be a list of results, got dict"),
        ("- {label: a, value: x, metric: m, source: s, hardware: h}", "entry 1, has value: 'x'. Expected a number"),
        ("- {label: a, value: 1, metric: m, source: s, hardwar: h}", "Did you mean 'hardware'?"),
        ("- {label: a, value: 1, metric: m, source: s, hardware: h}", "is about 'm'. Expected val_loss or seconds_to_"),
        ("- {label: a, value: 1, metric: val_loss, source: s, hardware: h, presets: [gpu]}", "is about 'gpu'"),
    ],
)
def test_broken_references_are_one_sentence(tmp_path, text, message):
    folder = checkpointed(tmp_path / "env")
    (folder / "references.yaml").write_text(text)
    with pytest.raises(EnvironmentError_) as caught:
        references(load_environment(folder), "cpu")
    assert message in str(caught.value)


def test_nanogpts_references_are_shown_beside_the_preset_that_they_compare_with():
    environment = load_environment("nanogpt")
    shown = references(environment, "paper")
    assert {entry.metric for entry in shown} == {"val_loss", "seconds_to_target"} and len(shown) >= 10
    assert references(environment, "cpu") == ()
