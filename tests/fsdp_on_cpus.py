"""Runs `ideator_rl.train` under FSDP in CPU processes.

accelerate 1.15 starts such processes with FSDP's variables, and then takes them for plain ones: its list of devices for
FSDP lacks the CPU, although torch's FSDP2 works there through gloo.  Only that list is widened here.

usage: accelerate launch --config_file tests/accelerate_fsdp_cpu2.yaml -m fsdp_on_cpus --config RECIPE.yaml
"""

import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from ideator_rl.train import main

initialise = AcceleratorState.__init__


def with_fsdp(self, *args, fsdp_plugin=None, **options):
    initialise(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = with_fsdp
    sys.exit(main(sys.argv[1:]))
