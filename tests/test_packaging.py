"""The wheel in an empty environment, and the syntax of the sources under every supported interpreter at hand."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUPPORTED = ("3.11", "3.12", "3.13")


def interpreter(version):
    """A Python of this version that runs: on PATH, or installed by pyenv."""
    candidates = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for path in filter(None, candidates):
        if subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return str(path)
    return None


@pytest.mark.parametrize("version", SUPPORTED)
def test_the_sources_compile_under_a_supported_python(version, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    folders = [str(ROOT / name) for name in ("ideator_rl", "rewards", "envs")]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    result = subprocess.run(
        [python, "-m", "compileall", "-q", *folders], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_shipped_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    shipped = {
        name
        for name in tracked
        if name.partition("/")[0] in ("ideator_rl", "ideator_rl_env", "rewards", "envs", "recipes")
    }
    assert shipped - names == set()


@pytest.mark.slow
def test_the_readme_of_the_wheel_shows_its_pictures_on_a_package_index(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = archive.read(name).decode().partition("\n\n")[2]
    targets = re.findall(r"\]\(([^)]+)\)", description)
    assert targets
    assert all(target.startswith(("https://", "#")) for target in targets), targets


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    install = [binaries / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": f"{binaries}:{os.environ['PATH']}"}

    def run(*words):
        result = subprocess.run(
            [binaries / "ideator-rl", *words], cwd=work, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "nanogpt" in run("env", "list")
    assert "experiments" in run("train", "quickstart.yaml", "--dry-run")
    assert '"status": "succeeded"' in run("execute", "nanogpt", "--preset", "cpu", "--baseline", "--json")
