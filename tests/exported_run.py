"""A small run's folder with real weights and adapters, and an invented journal."""

import json
import zipfile
from pathlib import Path

import torch
import yaml
from recorded import baseline, journal, record

ENV = str(Path(__file__).parent / "toy_env")
RECIPE = {
    "env": ENV,
    "preset": "cpu",
    "scratch_model": {"vocab_size": 300, "hidden_size": 32},
    "sft_steps": 5,
    "use_peft": True,
    "per_device_train_batch_size": 2,
    "num_generations": 4,
    "max_steps": 3,
    "seed": 7,
}
HASHES = {
    "hashes": {"environment": "e" * 64},
    "hardware": "cpu-x86_64",
    "seconds": {"run": 2.0, "cpu": 1.5, "queue": 0.5},
}


def policy(folder, repeats=30):
    """A tiny Llama with its own tokenizer, as a warm-up saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ideator_rl.training.models import phrase_tokenizer, save_weights

    tokenizer = phrase_tokenizer(["[Experiment] Set the rate. [Code Changes] rate = 0.5 [End]"] * repeats, 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, rope_theta=5e5,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    save_weights(model, tokenizer, folder)
    return model, tokenizer


def checkpoint(folder, model, tokenizer):
    """Write the files of a Trainer's checkpoint that resuming checks."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        zipfile.ZipFile(folder / name, "w").close()
    (folder / "trainer_state.json").write_text("{}")


def adapted(base, seed):
    """The model under LoRA adapters that change it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(
        base, LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    return model


def interrupted(folder, **recipe):
    """A run that was killed after its second step, its newest checkpoint broken by that."""
    folder.mkdir()
    recipe = {**RECIPE, "output_dir": str(folder), **recipe}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    model, tokenizer = policy(folder / "warmup")
    lora = adapted(model, seed=1)
    checkpoint(folder / "checkpoint-1", lora, tokenizer)
    checkpoint(folder / "checkpoint-2", adapted(policy(folder / "warmup")[0], seed=2), tokenizer)
    checkpoint(folder / "checkpoint-3", lora, tokenizer)
    (folder / "checkpoint-3" / "optimizer.pt").unlink()
    write_journal(folder)
    (folder / "ledger.json").write_text(json.dumps({"usd": 1.25, "tokens": 2000.0, "gpu_hours": 0.5}))
    (folder / "timings.json").write_text(json.dumps({"generation": 30.0, "update": 20.0, "total": 50.0}))
    return folder


def write_journal(folder):
    """Two steps of four ideas; the best was run again twice, the baseline three times."""
    best = record(
        "b", value=2.0, seed=11, patch="--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-x = 4.0\n+x = 1.0\n", **HASHES
    )
    failed = record("c", "failed", error={"kind": "crash", "message": "in /home/a-user"}, **HASHES)
    steps = [
        [
            record("a", value=4.0, seed=11, cost={"usd": 0.5, "prompt_tokens": 10, "calls": 1}, **HASHES),
            best,
            failed,
            record("d", "lost", **HASHES),
        ],
        [best, best, record("e", "invalid", value=0.1, **HASHES), None],
    ]
    reruns = [
        record(f"b{i}", value=value, tree="tree-b", replicate=100 + i, idea="idea b", **HASHES)
        for i, value in enumerate((3.0, 3.5))
    ]
    bases = [baseline(i, value) for i, value in enumerate((4.5, 5.0, 5.5))]
    return journal(folder, steps, [*bases, *reruns])


def exported_text(folder):
    """Every text of an export, those inside Parquet too."""
    from pyarrow import parquet

    texts = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        tables = [str(parquet.read_table(path).to_pylist())] if path.suffix == ".parquet" else []
        texts += [path.read_bytes().decode("utf-8", "replace"), *tables]
    return "\n".join(texts)
