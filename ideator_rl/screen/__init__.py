"""The screen: many ideas are sampled, their outcomes are forecast, and only the most promising ones are run.

    records → predictor.fit;  sampled ideas → predictor.predict → acquisition → picks, and an audited random share

A predictor learns from the outcomes of its own run.  `search` uses the screen between ideator and
buffer, `training` between sampling and rewards; both read their runs with `screen.pool`.
"""

from ideator_rl.screen.config import ScreenConfig
from ideator_rl.screen.predictor import Candidate, Forecast, Predictor, PredictorContext, Seen, load_predictor

__all__ = ["Candidate", "Forecast", "Predictor", "PredictorContext", "ScreenConfig", "Seen", "load_predictor"]
