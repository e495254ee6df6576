"""The ideator `local`: a causal LM in this process, one idea a completion, with the prompts of training.

`model` is a name on the hub, a folder, an export (`ideator-rl export`), the folder of a run that has ended, or
`package:NAME/FILE.gguf`; so search and training can share one ideator.  Sampling is as in training: with the
temperature alone, in the model's chat template if it has one.

Guarantees: a question's salt seeds its answers, which differ with the batch by rounding at most.  The model is loaded
at the first question.  It runs in one thread of its own, so that the event loop stays free.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from ideator_rl.archive.archive import Archive
from ideator_rl.config.base import Amount, Count, Expected, Flag, read_config
from ideator_rl.llm.model_check import check_model
from ideator_rl.llm.model_files import load_tokenizer, loadable, quiet_transformers
from ideator_rl.llm.model_lookup import EXPECTED, ModelError, NotInstalled, first_line, require_model
from ideator_rl.llm.prompt_form import PromptForm, read_template_arguments
from ideator_rl.llm.sampled_text import sampled_text
from ideator_rl.screen.predictor import IdeatorModel
from ideator_rl.search.ideator import Ask, Ideator, Subject
from ideator_rl.search.ideators.prompt_writer import PromptWriter
from ideator_rl.search.ideators.sampling import Sampler, Stopped
from ideator_rl.search.ideators.settings import PromptStyle
from ideator_rl.search.ideators.vllm_sampling import VllmSampler, has_vllm
from ideator_rl.storage.ledger import Ledger
from ideator_rl.storage.run_folder import MARK
from ideator_rl.storage.run_reader import mapping


@dataclass(frozen=True, kw_only=True)
class LocalSettings(PromptStyle):
    """How ideas are sampled."""

    model: Annotated[str, Expected(EXPECTED, str.strip)]
    """Name on the hub, a folder, or package:NAME/FILE.gguf."""
    temperature: Amount = 1.0
    """Sampling temperature; 0 for the likeliest token."""
    max_tokens: Count = 512
    """Tokens of a completion, at most."""
    batch: Count = 64
    """Completions sampled in one batch, at most."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    """Data type of the weights; `auto` for the saved one."""
    device: Annotated[str, Expected("a device of torch, such as cuda:0")] | None = None
    """Torch device; null for a GPU if there is one."""
    cpu_threads: Count | None = None
    """Threads of torch in this process; null for its default.  1 is best for a small model next to experiments."""
    as_trained: Flag = True
    """Ask with exactly the prompts of warm-up and training."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Arguments of the chat template, such as {enable_thinking: false}; null for those that the model was trained with,
    from the recipe in its folder."""
    engine: Literal["auto", "torch", "vllm"] = "auto"
    """What samples: `auto` for vLLM where it is installed and `device` is null, else torch."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of `vllm.LLM`, such as {gpu_memory_utilization: 0.4, max_model_len: 8192}."""

    @property
    def uses_vllm(self) -> bool:
        return self.engine == "vllm" or (self.engine == "auto" and self.device is None and has_vllm())


class LocalIdeator(Ideator):
    name = "local"

    def __init__(self, settings: LocalSettings, subject: Subject):
        self.settings = settings
        self._subject = subject
        self._model: _Model | None = None
        """Loaded and used by the ideator's thread; dropped by `close` after that thread has ended."""
        self._thread = ThreadPoolExecutor(1, "local-ideator")
        self._stop = threading.Event()
        """Set by `close`, read by the ideator's thread before every token; never reset."""

    @classmethod
    def from_settings(cls, settings: dict[str, Any], subject: Subject, ledger: Ledger) -> LocalIdeator:
        """Books nothing on the ledger: the cost is this machine's time.

        Raises:
            IdeatorError: an unknown key, a wrong value, no such model, or no such prompt.
        """
        # Raises now if there is no such prompt or model, and not after the baseline has run.
        subject.prompt()
        checked = read_config(LocalSettings, settings, "The settings of the ideator local have")
        if checked.engine == "vllm" and checked.device is not None:
            raise ModelError("The ideator local has engine: vllm and a device. Leave one out: vLLM chooses its own.")
        if checked.engine == "vllm" and not has_vllm():
            raise NotInstalled(
                "The ideator local has engine: vllm, and vllm is not installed here. Install it "
                "(docs/how-to/scaling.md), or set engine: torch."
            )
        require_model(checked.model, ask_hub=False)
        return cls(checked, subject)

    def check(self) -> list[str]:
        """Load the model without its weights, and write its prompt.

        Raises:
            ModelError: the model cannot be loaded or asked.
        """
        settings = self.settings
        arguments = template_arguments(settings)
        return check_model(settings.model, self._subject.prompt(), None, settings.dtype, arguments).notes

    def local_model(self) -> IdeatorModel:
        settings = self.settings
        return IdeatorModel(loadable(settings.model), None, settings.dtype, settings.device)

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        """See `Ideator`."""
        return (await self.ideas_many([ask], archive))[0]

    async def ideas_many(self, asks: Sequence[Ask], archive: Archive) -> list[list[str]]:
        """The answers to several questions, sampled together.

        Raises:
            ModelError: the model cannot be loaded or sampled, or has no room for the prompt.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._ideas, list(asks), archive)

    def close(self) -> None:
        """Stop sampling and drop the model."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)
        if self._model is not None:
            self._model.close()
        self._model = None

    def _ideas(self, asks: list[Ask], archive: Archive) -> list[list[str]]:
        """Runs in the ideator's thread."""
        if self._model is None:
            self._model = _Model(self.settings, self._subject)
        # One prompt a completion, with a seed of its own: batches may then mix questions freely.
        requests = [
            (self._model.prompts.write(ask, archive, 1, index), f"{ask.salt}:{index}")
            for ask in asks
            for index in range(ask.count)
        ]
        texts: list[str] = []
        for start in range(0, len(requests), self.settings.batch):
            batch = requests[start : start + self.settings.batch]
            try:
                texts += self._model.completions([(prompt.text, seed) for prompt, seed in batch], self._stop)
            except Stopped:
                raise ModelError("The local ideator was closed while it was asked.") from None
        answers = iter(prompt.answer(text) for text, (prompt, _) in zip(texts, requests, strict=True))
        return [[next(answers) for _ in range(ask.count)] for ask in asks]


class _Model:
    """The model, its tokenizer and its prompts, in memory."""

    def __init__(self, settings: LocalSettings, subject: Subject):
        """
        Raises:
            ModelError: the model cannot be loaded.
        """
        import torch
        from transformers import AutoConfig

        quiet_transformers()
        if settings.cpu_threads is not None:
            torch.set_num_threads(settings.cpu_threads)
        source = loadable(settings.model)
        tokenizer, _ = load_tokenizer(source)
        self._form = PromptForm(tokenizer, template_arguments(settings))
        with _refuse_load(settings.model):
            config: Any = AutoConfig.from_pretrained(source)
        # A prompt and its answer share the context.
        window = getattr(config.get_text_config(), "max_position_embeddings", None)
        window = settings.engine_options.get("max_model_len", window) if settings.uses_vllm else window
        self._name, self._room = settings.model, window and window - settings.max_tokens
        self._sampler: Sampler | VllmSampler
        if settings.uses_vllm:
            self._sampler = _vllm_sampler(settings, source, tokenizer, config)
        else:
            self._sampler = _torch_sampler(settings, source, tokenizer)
        self.prompts = PromptWriter(subject, settings, lambda text: len(self._ids(text)), self._room)

    def completions(self, requests: Sequence[tuple[str, str]], stop: threading.Event) -> list[str]:
        """One completion for each pair of prompt and seed.

        Raises:
            ModelError: a prompt does not fit into the context.
            Stopped: `stop` was set.
        """
        prompts = list(dict.fromkeys(prompt for prompt, _ in requests))
        ids = [self._ids(prompt) for prompt in prompts]
        longest = max(map(len, ids))
        if self._room is not None and longest > self._room:
            raise ModelError(
                f"The prompt has {longest} tokens, and {self._name} has room for {max(0, self._room)} with "
                f"max_tokens: {self._sampler.max_tokens}. Choose a shorter prompt of the environment (`prompts`), or "
                "lower max_tokens."
            )
        # Equal prompts are read once: `rows` names the prompt of every completion.
        index_of = {prompt: index for index, prompt in enumerate(prompts)}
        rows, seeds = [index_of[prompt] for prompt, _ in requests], [seed for _, seed in requests]
        answers = self._sampler.answers(ids, rows, seeds, stop)
        tokenizer, limit = self._form.tokenizer, self._sampler.max_tokens
        texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [
            sampled_text(tokenizer, ids, text, self._form.text(self._form.prompt(prompt)), len(ids) >= limit)
            for ids, text, (prompt, _) in zip(answers, texts, requests, strict=True)
        ]

    def close(self) -> None:
        """Free what the sampler holds outside this process's memory."""
        if isinstance(self._sampler, VllmSampler):
            self._sampler.close()

    def _ids(self, prompt: str) -> list[int]:
        """Token ids, as the trainer makes them."""
        return self._form.ids(self._form.prompt(prompt))


@contextmanager
def _refuse_load(name: str) -> Iterator[None]:
    """
    Raises:
        ModelError: loading failed inside.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The local ideator cannot be loaded from {name}: {first_line(error)} Expected {EXPECTED}."
        ) from error


def _torch_sampler(settings: LocalSettings, source: str, tokenizer: Any) -> Sampler:
    import torch
    from transformers import AutoModelForCausalLM

    with _refuse_load(settings.model):
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=settings.dtype)
        model.to(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    ends = _end_tokens(model.generation_config, tokenizer)
    return Sampler(model.eval(), ends, settings.max_tokens, settings.temperature)


def _vllm_sampler(settings: LocalSettings, source: str, tokenizer: Any, config: Any) -> VllmSampler:
    from transformers import GenerationConfig

    # vLLM's own `auto` turns float32 into a narrower type.
    dtype: str = settings.dtype
    if dtype == "auto":
        dtype = str(config.get_text_config().dtype or "float32").removeprefix("torch.")
    try:
        generation_config: Any = GenerationConfig.from_pretrained(source)
    except (OSError, ValueError):  # a model may have none
        generation_config = config
    ends = _end_tokens(generation_config, tokenizer)
    return VllmSampler(source, ends, settings.max_tokens, settings.temperature, dtype, settings.engine_options)


def _end_tokens(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: those of the model's generation config, and the tokenizer's."""
    configured = getattr(generation_config, "eos_token_id", None)
    tokens = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*tokens, tokenizer.eos_token_id] if token is not None)


def template_arguments(settings: LocalSettings) -> dict[str, Any]:
    """The arguments of the chat template: those of the settings, else those that the model was trained with.

    Raises:
        ModelError: the recipe of the training run has no mapping there.
    """
    if settings.chat_template_kwargs is not None:
        return settings.chat_template_kwargs
    folder = Path(settings.model).expanduser()
    # An export has the recipe beside its weights, a run above them.
    candidates = [folder / MARK, folder / "model" / MARK, *([folder.parent / MARK] if folder.name == "model" else [])]
    recipe = next((mapping(file) for file in candidates if file.is_file()), {})
    return read_template_arguments(recipe.get("chat_template_kwargs"))
