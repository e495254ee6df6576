# An image for workers.  Build it, and let its sandbox show what it can do:
#
#   docker build -t ideator-worker .
#   docker run --rm --security-opt seccomp=unconfined --security-opt systempaths=unconfined \
#     --tmpfs /dev/shm:rw,exec,nosuid,nodev,size=4g ideator-worker doctor --bucket s3://lab/run
#
# Why these options, what they were tried with, and Kubernetes: docs/how-to/containers.md.
FROM python:3.12-slim-bookworm

# torch for CPUs; for GPUs: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128, and `docker run --gpus …`.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=s3
COPY . /src
RUN pip install --no-cache-dir torch --index-url "$TORCH_INDEX" \
    && pip install --no-cache-dir "/src[$EXTRAS]" \
    && rm -rf /src

# Not root: bubblewrap then uses a user namespace, and needs no capability of the container.
RUN useradd --create-home --uid 1000 worker
USER worker
WORKDIR /home/worker
# Local to the container: work folders, and the cache of environments' data.
VOLUME /home/worker/.cache

# A signal reaches the worker, which then writes that its experiments were preempted.
STOPSIGNAL SIGTERM
ENTRYPOINT ["ideator-rl"]
CMD ["doctor"]
