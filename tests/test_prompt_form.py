"""One prompt, one form: training, warm-up, imitation, the ideator `local` and the card use the same template arguments."""

import pytest
from archives import archive
from conftest import TOY, run
from datasets import Dataset
from tiny_policy import arguments, build, save_policy
from transformers import AutoModelForCausalLM, AutoTokenizer

from ideator_rl.environments.environment import load_environment
from ideator_rl.llm.model_lookup import ModelError
from ideator_rl.llm.prompt_form import PromptForm, as_messages, read_template_arguments
from ideator_rl.publishing.cards import _as_keywords
from ideator_rl.search.ideator import Ask, Subject, ask_ideator
from ideator_rl.search.ideators import get_ideator
from ideator_rl.training import imitation
from ideator_rl.training.sft import warmup
from ideator_rl.training.trainer import IdeatorGRPOTrainer

QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""The parts of Qwen3's template that its thinking switch is about."""
OFF = {"enable_thinking": False}
SUBJECT = Subject(load_environment(TOY), "cpu")
ASKED = "<|im_start|>user\nPropose.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "run" / "model"
    tokenizer = AutoTokenizer.from_pretrained(save_policy(folder))
    tokenizer.chat_template = QWEN
    tokenizer.save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
    (folder.parent / "recipe.yaml").write_text("chat_template_kwargs: {enable_thinking: false}\n")
    return folder


def test_training_and_warm_up_and_imitation_and_asking_read_the_same_prompt(chat, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(chat)
    form = PromptForm(tokenizer, OFF)
    asked = form.ids(form.prompt("Propose."))
    assert tokenizer.decode(asked) == ASKED

    # The trainer, by TRL's own tokenization.
    rows = Dataset.from_list([{"prompt": as_messages("Propose.")}] * 2)
    trainer = build(
        IdeatorGRPOTrainer, str(chat), arguments(tmp_path, chat_template_kwargs=OFF), lambda **_: [0.0], rows
    )
    assert list(trainer._tokenize_prompts([as_messages("Propose.")])[0][0]) == asked

    # The warm-up: TRL's SFT is given rows, whose completions begin where the prompt ends.
    given = []
    monkeypatch.setattr("trl.SFTTrainer.train", lambda self: given.append(self.train_dataset[0]))
    settings = warmup.FitSettings(1, 1e-3, 1, 0, template_arguments=OFF)
    warmup.fine_tune(str(chat), tmp_path / "warm", [(as_messages("Propose."), "An idea.")], settings, lambda *_: None)
    labels = given[0]["labels"]
    learned = [token for token, label in zip(given[0]["input_ids"], labels, strict=True) if label != -100]
    assert list(given[0]["input_ids"][: len(asked)]) == asked
    assert tokenizer.decode(learned) == "An idea.<|im_end|>\n"

    # Imitation, with the trainer's own arguments.
    example = {"prompt": as_messages("Propose."), "completion": "An idea."}
    assert imitation._token_ids(trainer._prompt_form(), example, 9)[0] == asked

    # The ideator `local`, which finds the recipe beside the model.
    ideator = get_ideator("local", {"model": str(chat), "max_tokens": 4, "cpu_threads": 1}, SUBJECT)
    run(ask_ideator(ideator, [Ask("free", 1)], archive()))
    assert ideator._model._ids("Propose.") == asked
    ideator.close()
    other = get_ideator("local", {"model": str(chat), "max_tokens": 4, "chat_template_kwargs": {}}, SUBJECT)
    run(ask_ideator(other, [Ask("free", 1)], archive()))
    assert other._model._ids("Propose.") == PromptForm(tokenizer).ids(as_messages("Propose.")) != asked
    other.close()


def test_the_card_asks_with_the_arguments_of_training():
    assert _as_keywords({}) == "" and _as_keywords(OFF) == ", enable_thinking=False"
    assert _as_keywords({"class": "x"}) == ", **{'class': 'x'}"


@pytest.mark.parametrize("value", ["[1]", "no json", [1], 3])
def test_template_arguments_that_are_no_mapping_are_refused(value):
    with pytest.raises(ModelError, match="Expected a mapping such as"):
        read_template_arguments(value)


def test_template_arguments_are_a_mapping_or_its_json():
    assert read_template_arguments(None) == {} and read_template_arguments('{"a": 1}') == {"a": 1}
    assert read_template_arguments(OFF) == OFF
