"""What an environment's evaluator is written with: honest losses of models, honest grades of generators.

    from ideator_rl.evaluation import Audit, token_loss      a model: the loss of tokens that it never sees ahead
    from ideator_rl.evaluation import graded                 a generator: answers drawn and graded on this side

Nothing of the experiment is imported, opened or unpickled in the evaluator's process: all of it happens in a scorer.
"""

from ideator_rl.evaluation.generators import graded, sample
from ideator_rl.evaluation.losses import nats
from ideator_rl.evaluation.models import Audit, token_loss
from ideator_rl.scoring.scoring import Implausible, ScorerFailed

__all__ = ["Audit", "Implausible", "ScorerFailed", "graded", "nats", "sample", "token_loss"]
