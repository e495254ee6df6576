"""For authors of an environment's evaluator: measurements that the measured model cannot influence.

    from ideator_rl.evaluation import Audit, token_loss      a model: the loss of tokens that it never sees ahead
    from ideator_rl.evaluation import graded                 a generator: answers drawn and graded on this side
    from ideator_rl.evaluation import generated, math_grader, weights   a language model's weights: answers of ours

The evaluator's process never imports, opens or unpickles a file of the experiment: a scorer process does.
"""

from ideator_rl.evaluation.audit import Audit
from ideator_rl.evaluation.generated import generated
from ideator_rl.evaluation.generators import graded, sample
from ideator_rl.evaluation.losses import nats
from ideator_rl.evaluation.math_answers import answer_of, math_grader
from ideator_rl.evaluation.models import step_loss, token_loss
from ideator_rl.evaluation.weights import weights
from ideator_rl.evaluation.windows import windows_of
from ideator_rl.scoring.scoring import Implausible, ScorerFailed

__all__ = [
    "Audit",
    "Implausible",
    "ScorerFailed",
    "answer_of",
    "generated",
    "graded",
    "math_grader",
    "nats",
    "sample",
    "step_loss",
    "token_loss",
    "weights",
    "windows_of",
]
