"""Archives and records written by hand, with patches, for tests."""

from ideator_rl.archive.archive import Archive
from ideator_rl.experiment import Experiment


def patch(name, value=1):
    """A patch whose cell is `train.py:<name>`."""
    return f"diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n@@ -4 +4 @@\n-{name} = 0\n+{name} = {value}\n"


def record(tree, reward=None, status=None, cell_name=None, id=None, **more):
    """A record: with a reward a success of metric 1 / reward, without one a failure.

    Args:
        cell_name: by default the tree's own name.
    """
    status = status or ("failed" if reward is None else "succeeded")
    metric = {"name": "height", "value": 1 / reward, "direction": "min"} if reward else None
    return Experiment(
        id=id or f"id-{tree}",
        status=status,
        idea=f"[Experiment] Try {tree}. [Code Changes] Set {tree}. [End]" if "idea" not in more else more.pop("idea"),
        environment="toy",
        preset="cpu",
        reward=0.0 if reward is None and status != "lost" else reward,
        metric=metric,
        tree=tree,
        patch=patch(cell_name or tree),
        **more,
    )


def archive(*records, lineage=()):
    result = Archive("min")
    result.update(list(records), list(lineage))
    return result
