"""Runs Shinka as the `run_evo.py` of its circle packing example does; run by the interpreter of Shinka's environment.

usage: PYTHON benchmarks/peers_shinka.py SETTINGS.json SEED

SETTINGS.json has `evo_config`, `db_config`, `job_config` and the numbers of workers, as the example's YAML file has.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
from shinka.core import EvolutionConfig, ShinkaEvolveRunner  # type: ignore[import-not-found]
from shinka.database import DatabaseConfig  # type: ignore[import-not-found]
from shinka.launch import LocalJobConfig  # type: ignore[import-not-found]


def main() -> None:
    settings, seed = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    random.seed(seed)
    np.random.seed(seed)
    runner = ShinkaEvolveRunner(
        evo_config=EvolutionConfig(**settings["evo_config"]),
        job_config=LocalJobConfig(**settings["job_config"], python_executable=sys.executable),
        db_config=DatabaseConfig(**settings["db_config"]),
        max_evaluation_jobs=settings["max_evaluation_jobs"],
        max_proposal_jobs=settings["max_proposal_jobs"],
        max_db_workers=settings["max_db_workers"],
        verbose=False,
    )
    runner.run()


if __name__ == "__main__":
    main()
