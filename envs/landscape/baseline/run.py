"""The run of an idea: nothing but its list of edits, and the seed that it was run with, are handed to the evaluator."""

import os
import shutil
from pathlib import Path

artifact = Path(os.environ["IDEATOR_ARTIFACT"])
shutil.copy("edits.yaml", artifact / "edits.yaml")
(artifact / "seed").write_text(os.environ["IDEATOR_SEED"])
