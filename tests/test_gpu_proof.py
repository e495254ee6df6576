"""The proof for a GPU, rehearsed on the CPU, and the images for GPUs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="needs the extra `math`")
def test_every_check_of_the_proof_is_rehearsed_on_the_cpu(tmp_path):
    out = tmp_path / "lines.jsonl"
    command = [sys.executable, "benchmarks/gpu_proof.py", "--rehearse", "--out", str(out)]
    finished = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    lines = {line["check"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert finished.returncode == 0, finished.stderr[-3000:] + json.dumps(lines)
    assert list(lines) == ["sandbox", "train", "measure", "audit", "policy", "answers"]
    assert lines["train"]["figures"]["tokens_s"] > 0 and lines["measure"]["figures"]["final"]["tokens"] == 32_768
    audit = lines["audit"]["figures"]
    assert audit["fp32"]["largest_mean_gap"] < 1e-4 < abs(audit["mask off by one"])


def test_a_bound_that_does_not_hold_fails_its_check(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_proof import CPU, GPU, Proof

    on_cpu, on_gpu = Proof(CPU, tmp_path), Proof(GPU, tmp_path)
    for proof in (on_cpu, on_gpu):
        proof.hold(True, "holds")
        proof.hold(False, "broken everywhere")
        proof.hold(False, "broken on a GPU", on_gpu=True)
    assert on_cpu.bounds == ["broken everywhere"] and on_gpu.bounds == ["broken everywhere", "broken on a GPU"]


def test_the_images_for_gpus_pin_what_the_constraints_pin():
    constraints = dict(re.findall(r"(?m)^(\w+)==(\S+)$", (ROOT / "constraints-vllm.txt").read_text()))
    pins = re.findall(r"\b(torch|vllm)==([\d.]+)", (ROOT / "Dockerfile.gpu").read_text())
    assert pins and all(constraints[name] == version for name, version in pins)
