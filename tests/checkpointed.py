"""An environment whose runs leave checkpoints: "weights" are a number, which is their loss."""

import yaml

LAST = 'last = 3.0 + int(os.environ["IDEATOR_SEED"]) * 1e-6'
TRAIN = """
import os
import time

artifact = os.environ["IDEATOR_ARTIFACT"]


def save(name, value):
    with open(os.path.join(artifact, name + ".part"), "w") as file:
        file.write(str(value))
    os.replace(os.path.join(artifact, name + ".part"), os.path.join(artifact, name))


time.sleep(0.15)
open(os.path.join(artifact, "compiled"), "w").close()
for step, value in enumerate((5.0, 4.0, 3.2)):
    time.sleep(0.15)
    save(f"step-{step}.safetensors", value)
LAST
save("model.safetensors", last)
""".replace("LAST", LAST)
EVALUATE = '''
def evaluate(run):
    """The split `final` is 0.1 harder than the others."""
    return float((run.artifact / "model.safetensors").read_text()) + 0.1 * (run.split == "final")
'''
REFERENCES = """
- {label: record 1, value: 3.28, metric: val_loss, source: "https://example.org/1", hardware: 8 H100}
- {label: record 1, value: 2700, metric: seconds_to_target, source: "https://example.org/1", hardware: 8 H100}
"""


def checkpointed(folder, **preset):
    """Write the environment into a new folder; `preset` replaces keys of its only preset, `cpu`."""
    (folder / "baseline").mkdir(parents=True)
    (folder / "baseline" / "train.py").write_text(TRAIN)
    (folder / "evaluator.py").write_text(EVALUATE)
    (folder / "references.yaml").write_text(REFERENCES)
    (folder / "task.md").write_text("Lower the loss.")
    keys = {
        "name": "checkpointed", "task": "task.md", "command": ["python", "train.py"], "evaluator": "evaluator.py",
        "prompts": {"short": "task.md"}, "references": "references.yaml",
        "metric": {"name": "val_loss", "direction": "min", "plausible": [0.0, 11.0]},
        "presets": {"cpu": {"budget": {"clock": "wall", "seconds": 30}, "target": 4.5} | preset},
    }  # fmt: skip
    (folder / "env.yaml").write_text(yaml.safe_dump(keys))
    return folder
