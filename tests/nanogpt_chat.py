"""A scripted chat model for nanogpt, as ideator and as coder: it edits the settings that its prompt's code shows."""

import itertools
import re
import threading

from llm_server import answer

STEPS = [
    (
        "learning_rate",
        "3e-3",
        "The model is small and the budget short, so the learning rate can be three times higher.",
    ),
    ("batch", "8", "Half of the batch gives twice as many updates in the same seconds."),
    ("heads", "3", "Three heads would be wider each."),
    ("mlp_ratio", "2", "A narrower MLP makes each step cheaper."),
    ("beta2", "0.95", "A shorter memory of squared gradients suits a short run."),
    ("context", "32", "A shorter context costs less, and bytes depend on near neighbours."),
    ("learning_rate", "6e-3", "A higher learning rate still, now that the batch is smaller."),
    ("momentum", "0.9", "Add momentum to the optimizer."),
    ("weight_decay", "0.0", "A model that is trained this briefly does not overfit."),
    ("layers", "1", "One layer sees more bytes in the same time."),
    ("width", "48", "A narrower model takes more steps."),
    ("dropout", "0.3", "Dropout regularises the model."),
]
"""A setting, its value, and why.  `heads` of 3 do not divide the width: a crash.  There is no setting `momentum`."""


def shown_settings(prompt):
    """The settings of train.py in the code that a prompt shows."""
    text = prompt[prompt.index('<file path="train.py"') :]
    return dict(re.findall(r"^(\w+) = ([\d.e-]+)(?:  #.*)?$", text[: text.index("</file>")], re.M))


def block(prompt, name, value):
    """The SEARCH/REPLACE block that sets a value; of a missing setting, one that cannot be applied."""
    old = re.search(rf"^{name} = .*$", prompt[prompt.index('<file path="train.py"') :], re.M)
    line = old[0] if old else f"{name} = 0.0"
    return f"train.py\n<<<<<<< SEARCH\n{line}\n=======\n{name} = {value}\n>>>>>>> REPLACE\n"


class NanogptChat:
    """A step of `Scripted` that answers ideators and coders.

    Args:
        direct: ideas hold the edits themselves; else they name a setting and its value, for the coder.
    """

    def __init__(self, direct=False):
        self._direct, self._lock, self._steps = direct, threading.Lock(), itertools.cycle(STEPS)

    def __call__(self, body):
        prompt = "\n".join(message["content"] for message in body["messages"])
        if "<file path=" not in prompt:
            return {"body": answer("OK")}  # the first call of a search asks whether the server answers
        is_coder = body["messages"][0]["role"] == "system"
        if is_coder:
            name, value = re.findall(r"Set (\w+) = (\S+) in train\.py", prompt)[-1]
            return {"body": answer(block(prompt, name, value))}
        several = re.search(r"Write (\d+) different ideas", prompt)
        count = int(several[1]) if several else 1
        return {"body": answer("\n\n".join(self._idea(prompt) for _ in range(count)))}

    def _idea(self, prompt):
        values = shown_settings(prompt)
        with self._lock:
            name, value, reason = next(step for step in self._steps if values.get(step[0]) != step[1])
        change = block(prompt, name, value) if self._direct else f"Set {name} = {value} in train.py.\n"
        return f"[Experiment] {reason} [Code Changes]\n{change}[End]"
