"""Checkpoints: when each was complete, by the supervisor's clock, and the time to a target that follows."""

import os
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from checkpointed import LAST, checkpointed
from conftest import replace_line, run

from ideator_rl.environments.preset import Metric
from ideator_rl.executor.checkpoints import checkpoint_folder, set_aside, time_to_target
from ideator_rl.experiment import FINAL_REPLICATE
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.sandbox.checkpoints import MAX_CHECKPOINTS, Checkpoint, CheckpointWatch

LOSS = Metric("val_loss", "min", (0.0, 11.0))


@pytest.fixture
def buffer(tmp_path):
    folder = checkpointed(tmp_path / "env")
    buffer = open_buffer(BufferConfig(str(folder), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2))
    yield buffer
    buffer.close()


def test_the_time_to_the_target_is_that_of_the_first_checkpoint_that_reaches_it(buffer):
    record = run(buffer.baseline())
    assert record.status == "succeeded" and record.metric["value"] == 3.0, record
    notes = record.scoring
    # On the final split the checkpoints have 5.1, 4.1 and 3.3: the second is the first below 4.5.
    assert notes["loss_final"] == 3.1 and notes["seconds_compilation"] is not None
    assert 0.3 <= notes["seconds_to_target"] < record.seconds["run"]


def test_a_replicate_of_the_leaderboard_is_measured_on_the_final_split(buffer):
    record = run(buffer.baseline(FINAL_REPLICATE))
    assert record.metric["value"] == pytest.approx(4.1) and record.scoring["loss_final"] == pytest.approx(4.1)


def test_a_run_far_from_the_target_is_not_measured_again(buffer):
    record = run(buffer.score_patch(replace_line(LAST, "last = 8.0")))
    assert record.metric["value"] == 8.0 and "loss_final" not in record.scoring


def test_a_checkpoint_that_is_changed_later_does_not_count(buffer):
    cheat = (
        'os.replace(shutil.copy(artifact + "/step-2.safetensors", "x"), artifact + "/step-0.safetensors")\nlast = 3.0'
    )
    patch = replace_line(LAST, "import shutil\n" + cheat)
    record = run(buffer.score_patch(patch))
    assert record.status == "succeeded", record
    assert record.scoring["seconds_to_target"] >= 0.3  # that of step-1


def test_links_pipes_and_oversized_files_are_no_checkpoints(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "step-1.safetensors").symlink_to(secret)
    os.mkfifo(artifact / "step-2.safetensors")
    with open(artifact / "step-3.safetensors", "wb") as file:
        file.truncate(1 << 40)
    (artifact / "step-4.safetensors").write_text("weights")
    (artifact / "step-.txt").write_text("no")
    watch = CheckpointWatch(1 << 20)
    watch.look(artifact, [path.name for path in artifact.iterdir()], 1.0)
    assert [checkpoint.name for checkpoint in watch.close(1.0)] == ["step-4.safetensors"]


def test_checkpoints_behind_a_link_in_place_of_the_folder_are_ignored(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "step-1.safetensors").write_text("secret")
    (tmp_path / "artifact").symlink_to(tmp_path / "elsewhere")
    watch = CheckpointWatch(1 << 20)
    watch.look(tmp_path / "artifact", ["step-1.safetensors"], 1.0)
    assert watch.close(1.0) == ()


def hashed(watch):
    """Wait until the watch has hashed all that it was shown."""
    wait(watch._digests.values())


def test_only_the_first_eight_checkpoints_are_taken(tmp_path):
    for number in range(12):
        (tmp_path / f"step-{number:02}.safetensors").write_text(str(number))
    names = sorted(path.name for path in tmp_path.iterdir())
    watch = CheckpointWatch(1 << 20)
    watch.look(tmp_path, names[:2], 1.0)
    hashed(watch)
    watch.look(tmp_path, names, 2.0)
    hashed(watch)
    watch.look(tmp_path, names, 3.0)
    watch.look(tmp_path, names, 4.0)
    taken = watch.close(5.0)
    assert [checkpoint.seconds for checkpoint in taken] == [2.0] * 2 + [3.0] * 6 and len(taken) == MAX_CHECKPOINTS


def test_a_checkpoint_that_waits_for_its_hash_has_no_earlier_time(tmp_path):
    """Else a file could be filled while a large one before it is hashed."""
    os.mkfifo(tmp_path / "gate")
    watch = CheckpointWatch(1 << 20)
    watch._pool = ThreadPoolExecutor(1)
    watch._pool.submit((tmp_path / "gate").read_text)  # the hashing of a large file
    (tmp_path / "step-1.safetensors").write_text("")
    watch.look(tmp_path, ["step-1.safetensors"], 1.0)
    (tmp_path / "step-1.safetensors").write_text("trained for longer")
    watch.look(tmp_path, ["step-1.safetensors"], 60.0)
    (tmp_path / "gate").write_text("")
    assert [checkpoint.seconds for checkpoint in watch.close(61.0)] == [61.0]


def test_the_report_of_a_compilation_counts_before_the_first_checkpoint_alone(tmp_path):
    (tmp_path / "step-1.safetensors").write_text("")
    for names, compiled in (
        (["compiled"], 1.0),
        (["step-1.safetensors", "compiled"], 1.0),
        (["step-1.safetensors"], None),
    ):
        watch = CheckpointWatch(1 << 20)
        watch.look(tmp_path, names, 1.0)
        watch.look(tmp_path, ["step-1.safetensors", "compiled"], 2.0)
        watch.close(2.0)
        assert watch.compiled == compiled


def test_a_checkpoint_takes_the_place_of_the_weights_and_leaves_the_artifact(tmp_path):
    (tmp_path / "score").mkdir()
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    for name in ("model.safetensors", "config.json", "step-1.safetensors", "step-2.safetensors"):
        (artifact / name).write_text(name)
    watch = CheckpointWatch(1 << 20)
    watch.look(artifact, ["step-1.safetensors", "step-2.safetensors"], 1.0)
    noted = watch.close(1.0)
    (artifact / "step-2.safetensors").write_text("other bytes")
    assert [checkpoint.name for checkpoint in set_aside(tmp_path, noted)] == ["step-1.safetensors"]
    assert sorted(path.name for path in artifact.iterdir()) == ["config.json", "model.safetensors"]
    place = checkpoint_folder(tmp_path, "step-1.safetensors") / "artifact"
    # Nothing that the run wrote after its checkpoint comes along: it could be the last weights.
    assert [(path.name, path.read_text()) for path in place.iterdir()] == [("model.safetensors", "step-1.safetensors")]
    assert (artifact / "model.safetensors").read_text() == "model.safetensors"


@pytest.mark.parametrize(
    ("values", "final", "seconds", "measured"),
    [
        ({"a": 4.0, "b": 3.28, "c": 3.0}, 2.9, 20.0, "ab"),
        ({"a": 4.0, "b": None, "c": 3.5}, 3.2, 99.0, "abc"),
        ({"a": 4.0, "b": 3.9, "c": 3.5}, 3.4, None, "abc"),
        ({}, 3.28, 99.0, ""),
    ],
)
def test_checkpoints_are_measured_in_order_until_one_reaches_the_target(values, final, seconds, measured):
    checkpoints = [Checkpoint(name, 10.0 * (1 + number), "") for number, name in enumerate(values)]
    asked = []
    found = time_to_target(
        LOSS, 3.28, checkpoints, lambda name: asked.append(name) or values[name], (final, 99.0)
    )  # fmt: skip
    assert found == seconds and "".join(asked) == measured
