"""Whether a model can be trained, saved and asked, tried without its weights in memory: on torch's `meta` device.

Whatever the end of a run needs is tried here, before anything is paid: that the weights fit the architecture, the
tokens the embedding, the chat template the prompt, and that configuration, generation config and tokenizer can be
saved and read again.  torch and transformers are imported on first use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.llm.model_files import dtype_of, load_tokenizer, loadable, quiet_transformers, repair_generation_config
from ideator_rl.llm.model_lookup import ModelError, first_line, require_model
from ideator_rl.llm.prompt_form import PromptForm

_SHOWN = 3
"""Names in a message, at most."""


@dataclass(frozen=True)
class CheckedModel:
    """What is known of a model before its weights are read."""

    model: Any
    """On the meta device."""
    form: PromptForm
    notes: list[str]
    """What was repaired, for people."""

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def window(self) -> int | None:
        """Tokens of the context; None if the configuration does not state them."""
        window: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return window

    @property
    def has_learned_positions(self) -> bool:
        """Whether positions have rows of an embedding, so that a text beyond the window fails."""
        return not getattr(self.model.config.get_text_config(), "rope_parameters", None)


def check_model(
    name: str,
    prompt: str,
    revision: str | None = None,
    dtype: str = "float32",
    template_arguments: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> CheckedModel:
    """Load a model without its weights, and try what a run does with it.

    Args:
        name: hub name, folder, or `package:NAME/FILE.gguf`.
        prompt: text of a prompt that the model will be asked.
        dtype: of the weights: a name of torch's, or `auto`.
        template_arguments: `chat_template_kwargs` of the recipe.
        options: further arguments of `from_pretrained`, such as `attn_implementation`.

    Raises:
        ModelError: it cannot be loaded, asked or saved; one sentence, with what to do.
    """
    require_model(name, revision)
    quiet_transformers()
    source = loadable(name)
    tokenizer, notes = load_tokenizer(source, revision)
    form = PromptForm(tokenizer, template_arguments or {})
    model = _on_meta(source, revision, {**(options or {}), "dtype": dtype_of(dtype)})
    if dropped := repair_generation_config(model.generation_config):
        notes.append(
            f"generation_config.json of {name} cannot be saved with {', '.join(dropped)}, which have no effect there; "
            "the trained model is saved without"
        )
    ids = form.ids(form.prompt(prompt))
    rows = model.get_input_embeddings().weight.shape[0]
    if problem := token_problem(tokenizer, rows, ids):
        raise ModelError(f"The model {name} cannot be used: {problem}")
    _try_saving(model, tokenizer, name)
    return CheckedModel(model, form, notes)


def token_problem(tokenizer: Any, rows: int, prompt_ids: list[int] | None = None) -> str | None:
    """Which token of a tokenizer has no row in an embedding of `rows` rows, as a sentence; None for none.

    Of added tokens only those in use count: some published models have one for pictures, without a row for it.
    """
    advice = (
        f"Call model.resize_token_embeddings({len(tokenizer)}), save model and tokenizer to a new folder, and name "
        "that folder."
    )
    if tokenizer.vocab_size > rows:
        return f"the tokenizer has {tokenizer.vocab_size} tokens, and the embedding {rows} rows. {advice}"
    used = {"pad": tokenizer.pad_token_id, "end": tokenizer.eos_token_id, "begin": tokenizer.bos_token_id}
    if prompt_ids:
        used["prompt's"] = max(prompt_ids)
    for use, token in used.items():
        if token is not None and token >= rows:
            text = tokenizer.convert_ids_to_tokens(token)
            return f"its {use} token {text!r} has the number {token}, and the embedding {rows} rows. {advice}"
    return None


def config_problem(folder: Path) -> str | None:
    """Why transformers and vLLM would not load what was saved in a folder, weights aside; None if they would."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Configurations are programs' input of other people: any exception of the libraries refuses them.
    except Exception as error:
        return f"{first_line(error)} Models that need code of their own are not exported."
    return _architecture_problem(config) or token_problem(tokenizer, config.get_text_config().vocab_size)


def _architecture_problem(config: Any) -> str | None:
    from transformers.models.auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not config.architectures:
        return f"{type(config).__name__} names no causal language model of transformers itself."
    return None


def _on_meta(source: str, revision: str | None, options: Mapping[str, Any]) -> Any:
    """The model without memory for its weights.

    Raises:
        ModelError: transformers cannot load it, or weights are missing that it would make up at random.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        if problem := _architecture_problem(config):
            raise ValueError(problem)
        # TRL loads the class that the configuration names.
        kind: Any = getattr(transformers, config.architectures[0], None)
        if kind is not None and not kind.can_generate():
            raise ValueError(f"its architecture {config.architectures[0]} writes no text.")
        # Weights of other sizes are listed, where transformers would only name a table that it prints.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            **options,
            trust_remote_code=False,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        model, loading = loaded
    # Files of other people go through much code of transformers, which raises nearly everything.
    except Exception as error:
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = (
                "it needs code of its repository, which is never run. Expected an architecture of transformers itself."
            )
        raise ModelError(f"The model {source} cannot be loaded: {reason}") from error
    # transformers makes up missing weights at random, with a warning at most.
    missing = sorted(loading["missing_keys"]) + sorted(name for name, *_ in loading["mismatched_keys"])
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ModelError(
            f"The model {source} cannot be used: its files hold no fitting weights for "
            f"{', '.join(missing[:_SHOWN])}{more}, which would be random. Expected the files of one model."
        )
    return model


def _try_saving(model: Any, tokenizer: Any, name: str) -> None:
    """Save all but the weights, and read it again as an export does.

    Raises:
        ModelError: it cannot be saved, or what was saved cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="ideator-preflight-") as scratch:
        try:
            model.config.save_pretrained(scratch)
            model.generation_config.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
        except Exception as error:
            raise ModelError(f"The model {name} could not be saved at the end: {first_line(error)}") from error
        if problem := config_problem(Path(scratch)):
            raise ModelError(f"The model {name} could not be exported at the end: {problem}")
