"""The ideator `local`: a causal LM in this process, one idea a completion, asked with the prompts that training uses.

`model` is a name on the hub, a folder, an export (`ideator-rl export`), a run's folder once the run has ended, or
`package:<import name>/<file>.gguf`; so frozen search, training with reuse and plain training can share one ideator.
Sampled as in training: with the temperature alone, in the model's chat template if it has one.

Guarantees: a question names its answers (its salt seeds them), up to rounding that may differ with what is batched
beside it.  The model is loaded at the first question; it reads and writes in one thread of its own, so that whoever
waits can do something else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.archive.archive import Archive
from ideator_rl.errors import IdeatorError
from ideator_rl.llm.model_files import PACKAGE, ModelError, from_package
from ideator_rl.search.ideator import Ask, Subject
from ideator_rl.search.ideators.prompt_writer import Manner, Questions
from ideator_rl.search.ideators.sampling import Sampler, Stopped
from ideator_rl.search.ideators.settings import MANNER_CHECKS, Check, checked, number
from ideator_rl.storage.ledger import Ledger

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass(frozen=True)
class LocalSettings:
    model: str
    temperature: float = 1.0
    max_tokens: int = 512
    """Of a completion."""
    batch: int = 64
    """Completions that are sampled side by side, at most."""
    dtype: str = "auto"
    """Of the weights; `auto` is as they were saved."""
    device: str | None = None
    """Where the model runs; null for a GPU if there is one."""
    cpu_threads: int | None = None
    """Threads of torch in this process; 1 is best for a small model beside experiments.  Null leaves them."""
    as_trained: bool = True
    """Ask with the prompts of a warm-up and of training, to the letter."""
    max_shown: int | None = None
    """Past ideas in a prompt; null for 2, or for 100 where not as trained."""
    idea_chars: int = 2000
    """The most characters of one of them."""


CHECKS: dict[str, Check] = {
    "model": (
        lambda value: isinstance(value, str) and value.strip() != "",
        "a name on the hub, a folder, or package:<import name>/<file>.gguf",
    ),
    "temperature": (number(0), "a number of at least 0"),
    "max_tokens": (number(1, whole=True), "a whole number of at least 1"),
    "batch": (number(1, whole=True), "a whole number of at least 1"),
    "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "device": (lambda value: value is None or isinstance(value, str), "a device of torch, such as cuda:0, or null"),
    "cpu_threads": (number(1, whole=True, none=True), "a whole number of at least 1, or null"),
    **MANNER_CHECKS,
}


class LocalIdeator:
    name = "local"

    def __init__(self, settings: LocalSettings, subject: Subject):
        self.settings = settings
        self._subject, self._source = subject, model_source(settings.model)
        self._loaded: _Loaded | None = None
        self._thread = ThreadPoolExecutor(1, "local-ideator")
        self._stop = threading.Event()

    @classmethod
    def from_settings(cls, settings: dict[str, Any], subject: Subject, ledger: Ledger) -> LocalIdeator:
        """Nothing is booked: its cost is this machine's time.

        Raises:
            IdeatorError: an unknown key, a value that cannot be, no model there, or no such prompt.
        """
        subject.prompt()  # one that is not there is told before the baseline is run
        checked(cls.name, settings, CHECKS)
        if "model" not in settings:
            raise IdeatorError(f"The settings of the ideator local have no 'model'. Expected {CHECKS['model'][1]}.")
        return cls(LocalSettings(**settings), subject)

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        """See `ideator.Ideator`."""
        return (await self.ideas_many([ask], archive))[0]

    async def ideas_many(self, asks: Sequence[Ask], archive: Archive) -> list[list[str]]:
        """The answers to several questions, sampled together.

        Raises:
            ModelError: the model cannot be loaded or sampled, or has no room for the prompt.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._ideas, list(asks), archive)

    def close(self) -> None:
        """Ends what is being written, and lets go of the model."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)
        self._loaded = None

    def _ideas(self, asks: list[Ask], archive: Archive) -> list[list[str]]:
        if self._loaded is None:
            self._loaded = _Loaded(self._source, self.settings, self._subject)
        asked = [
            (self._loaded.questions.put(ask, archive, 1, part), f"{ask.salt}:{part}")
            for ask in asks
            for part in range(ask.count)
        ]
        texts: list[str] = []
        for start in range(0, len(asked), self.settings.batch):
            chunk = asked[start : start + self.settings.batch]
            try:
                texts += self._loaded.completions([(question.text, seed) for question, seed in chunk], self._stop)
            except Stopped:
                raise ModelError("The local ideator was closed while it was asked.") from None
        answers = iter(question.answer(text) for text, (question, _) in zip(texts, asked, strict=True))
        return [[next(answers) for _ in range(ask.count)] for ask in asks]


class _Loaded:
    """The model in memory."""

    def __init__(self, source: str, settings: LocalSettings, subject: Subject):
        """Raises: ModelError where it cannot be read."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if settings.cpu_threads is not None:
            torch.set_num_threads(settings.cpu_threads)
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(source)
            model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=settings.dtype)
            model.to(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"The local ideator cannot be loaded from {settings.model}: {first} Expected {CHECKS['model'][1]}."
            ) from error
        self._tokenizer, self._chat = tokenizer, bool(tokenizer.chat_template)
        self._sampler = Sampler(model.eval(), _ends(model, tokenizer), settings.max_tokens, settings.temperature)
        window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._name, self._room = settings.model, window and window - settings.max_tokens
        manner = Manner(settings.as_trained, settings.max_shown, settings.idea_chars)
        self.questions = Questions(subject, manner, lambda text: len(self._ids(text)), self._room)

    def completions(self, asked: Sequence[tuple[str, str]], stop: threading.Event) -> list[str]:
        """One completion for each prompt and seed.

        Raises:
            ModelError: a prompt does not fit.
            Stopped: `stop` was set.
        """
        prompts = list(dict.fromkeys(prompt for prompt, _ in asked))
        ids = [self._ids(prompt) for prompt in prompts]
        longest = max(map(len, ids))
        if self._room is not None and longest > self._room:
            raise ModelError(
                f"The prompt has {longest} tokens, and {self._name} has room for {max(0, self._room)} beside "
                f"max_tokens: {self._sampler.max_tokens}. Ask with a shorter prompt of the environment (`prompts`), or "
                "lower max_tokens."
            )
        place = {prompt: index for index, prompt in enumerate(prompts)}
        rows, seeds = [place[prompt] for prompt, _ in asked], [seed for _, seed in asked]
        answers = self._sampler.answers(ids, rows, seeds, stop)
        texts: list[str] = self._tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts

    def _ids(self, prompt: str) -> list[int]:
        """As the trainer tokenizes it."""
        if self._chat:
            prompt = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
        ids: list[int] = self._tokenizer(prompt, add_special_tokens=not self._chat).input_ids
        return ids


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """What ends an answer: the model's own, one or several, and the tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = own if isinstance(own, list) else [own]
    return frozenset(end for end in [*ends, tokenizer.eos_token_id] if end is not None)


def model_source(name: str) -> str:
    """The folder or hub name that transformers loads.

    Raises:
        ModelError: a package or folder that is not there, or a folder without a whole model.
    """
    if name.startswith(PACKAGE):
        return str(from_package(name.removeprefix(PACKAGE)))
    folder = Path(name).expanduser()
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return str(candidate)
    if folder.is_dir():
        raise ModelError(
            f"The folder {name} holds no whole model (config.json, or model/config.json). Of a run that was "
            f"interrupted: `ideator-rl export {name} --out DIR`, and name DIR."
        )
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelError(f"There is no folder {name}. Expected {CHECKS['model'][1]}.")
    return name
