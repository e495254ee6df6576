"""`python -m ideator_rl.cli` is the same as `ideator-rl`."""

import sys

from ideator_rl.cli import main

sys.exit(main())
