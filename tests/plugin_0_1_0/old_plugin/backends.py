"""The local backend, with a note of every experiment that it starts."""

from ideator_rl.bucket import Bucket, open_bucket
from ideator_rl.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import attempts
from ideator_rl.executor.backends import Backend, get_backend
from ideator_rl.executor.backends.in_process import InProcessBackend
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.backends.watched import WatchedBucket, want, wanted
from old_plugin import note


class Counting(LocalBackend):
    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        super().__init__(bucket_url, slots, isolation)
        self._bucket: Bucket = open_bucket(bucket_url)

    def refuse_if_too_large(self, resources: Resources) -> None:
        if resources.gpus:
            raise IdeatorError("The backend old_counting has no GPU.")
        super().refuse_if_too_large(resources)

    def submit(self, id: str, resources: Resources) -> bool:
        spec = attempts.Spec.load(self._bucket, id)
        assert spec is not None and attempts.load_tree(self._bucket, spec.tree)
        started = super().submit(id, resources)
        if started:
            note("counting", id=id, implementer=spec.implementer)
        return started


def others() -> list[type[Backend]]:
    """The library's own backends, by name."""
    assert get_backend("in_process") is InProcessBackend and get_backend("bucket") is WatchedBucket
    assert callable(want) and callable(wanted)
    return [get_backend("local"), InProcessBackend, WatchedBucket]
