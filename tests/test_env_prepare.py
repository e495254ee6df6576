"""`ideator-rl env prepare`: large data from a folder, gone on with after a kill, and named where they are missing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

import pytest
import yaml

from ideator_rl.checks.check import check_environment
from ideator_rl.cli.commands import main
from ideator_rl.environments.data import link_or_copy
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError

PREPARE = """
import time
from ideator_rl.environments.data import NeedsSource, SourceError, link_or_copy

def version(preset):
    return f"parts of {preset}, 1"

def prepare(public, private, preset, options):
    if preset == "cpu":
        (private / "made.txt").write_text("made here")
        return
    if options.source is None:
        raise NeedsSource("3 files named part-N.txt")
    for number in range(options.shards or 3):
        part = options.source / f"part-{number}.txt"
        if not part.is_file():
            raise SourceError(f"{options.source} has no {part.name}.")
        options.report(f"{number + 1} of 3" + (" is there" if (public / part.name).exists() else ""))
        link_or_copy(part, public / part.name)
        while (options.source / "wait").exists():
            time.sleep(0.05)
    (private / "hidden.txt").write_text("hidden")
"""


@pytest.fixture
def environment(toy, tmp_path, monkeypatch):
    """The path of a copy of the toy whose preset `slow` is prepared from files, into a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "env"
    shutil.copytree(toy, folder, ignore=shutil.ignore_patterns("__pycache__"))
    raw = yaml.safe_load((folder / "env.yaml").read_text())
    raw["prepare"] = "prepare.py"
    (folder / "env.yaml").write_text(yaml.safe_dump(raw))
    (folder / "prepare.py").write_text(PREPARE)
    return folder


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(3):
        (folder / f"part-{number}.txt").write_text(f"part {number}")
    return folder


def prepare(environment, *arguments):
    return main(["env", "prepare", str(environment), "--preset", "slow", *map(str, arguments)])


def test_data_are_prepared_from_a_folder_once(environment, parts, capsys):
    assert prepare(environment, "--from", parts) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["1 of 3", "2 of 3", "3 of 3"] and "prepared: " in printed.out
    data = load_environment(environment).data("slow")
    assert sorted(path.name for path in data.public.iterdir()) == ["part-0.txt", "part-1.txt", "part-2.txt"]
    assert (data.public / "part-1.txt").samefile(parts / "part-1.txt")
    assert data.private.stat().st_mode & 0o077 == 0
    assert prepare(environment, "--from", parts, "--json") == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["prepared"] is False and again.err == ""


def test_the_folder_that_data_came_from_is_hidden_from_experiments(environment, parts):
    prepare(environment, "--from", parts)
    assert load_environment(environment).data("slow").masked == (parts,)
    shutil.rmtree(parts)
    assert load_environment(environment).data("slow").masked == ()


def test_a_killed_preparation_is_gone_on_with(environment, parts, capsys):
    (parts / "wait").touch()
    command = [sys.executable, "-m", "ideator_rl.cli", "env", "prepare", str(environment), "--preset", "slow"]
    process = subprocess.Popen([*command, "--from", str(parts)], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "1 of 3\n"
    folder = load_environment(environment).data_source("slow").folder()
    partial = folder.with_name(folder.name + ".partial")
    deadline = time.monotonic() + 60
    while not (partial / "public" / "part-0.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (parts / "wait").unlink()
    assert not folder.exists()
    with pytest.raises(IdeatorError, match="needs 3 files"):
        load_environment(environment).data("slow")
    assert prepare(environment, "--from", parts) == 0
    assert capsys.readouterr().err.splitlines() == ["1 of 3 is there", "2 of 3", "3 of 3"]
    assert folder.is_dir() and not partial.exists()


@pytest.mark.parametrize("command", [["execute", "ENV", "--baseline"], ["env", "prepare", "ENV"]])
def test_where_data_are_missing_one_sentence_has_the_command(environment, tmp_path, capsys, command):
    line = [str(environment) if word == "ENV" else word for word in command]
    assert main([*line, "--preset", "slow"]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed == (
        "ideator-rl: The preset 'slow' of toy needs 3 files named part-N.txt. Prepare its data once: "
        f"ideator-rl env prepare {environment} --preset slow --from DIR"
    )


def test_env_check_names_the_command_too(environment):
    *_, last = check_environment(str(environment), "slow")
    assert last.name == "data" and not last.passed and "env prepare" in last.words


def test_a_preset_that_makes_its_data_needs_no_command(environment):
    assert (load_environment(environment).data("cpu").private / "made.txt").read_text() == "made here"


def test_unusable_sources_are_one_sentence(environment, parts, tmp_path, capsys, monkeypatch):
    (parts / "part-2.txt").unlink()
    assert prepare(environment, "--from", parts) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"ideator-rl: {parts} has no part-2.txt."
    assert prepare(environment, "--from", tmp_path / "gone") == 2
    assert "There is no folder" in capsys.readouterr().err
    monkeypatch.chdir("/")
    for folder in ("/", ".", sysconfig.get_paths()["purelib"]):
        assert prepare(environment, "--from", folder) == 2
        assert "is hidden from experiments" in capsys.readouterr().err
    assert prepare(environment, "--shards", "2", "--from", parts) == 0


def test_experiments_can_read_the_data_whatever_the_umask_and_the_users_files(environment, parts):
    (parts / "part-0.txt").chmod(0o600)
    umask = os.umask(0o077)
    try:
        prepare(environment, "--from", parts)
    finally:
        os.umask(umask)
    public = load_environment(environment).data("slow").public
    assert all(path.stat().st_mode & 0o004 for path in (public.parent, public, *public.iterdir()))
    assert (parts / "part-0.txt").stat().st_mode & 0o777 == 0o600
    assert (public / "part-1.txt").samefile(parts / "part-1.txt")


def test_a_file_of_an_earlier_call_is_kept_only_if_it_is_the_sources(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    source.chmod(0o600)
    target.write_text("old")
    link_or_copy(source, target)
    assert target.read_text() == "new"
    first = target.stat().st_ino
    link_or_copy(source, target)
    assert target.stat().st_ino == first


def test_an_environment_without_sources_refuses_them(toy, tmp_path, capsys):
    assert main(["env", "prepare", str(toy), "--preset", "cpu", "--from", str(tmp_path)]) == 2
    assert "makes its data from what is installed" in capsys.readouterr().err
    assert main(["env", "prepare", str(toy), "--preset", "cpu"]) == 0


def test_an_edit_of_prepare_keeps_data_whose_version_it_states(environment, parts):
    prepare(environment, "--from", parts)
    first, digest = load_environment(environment).data("slow"), load_environment(environment).digest("slow")
    copy = environment.with_name("copy")
    shutil.copytree(environment, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "prepare.py").write_text(PREPARE + "\n# an edit\n")
    assert load_environment(copy).data("slow") == first and load_environment(copy).digest("slow") == digest
    (copy.with_name("later")).mkdir()
    shutil.copytree(copy, copy.with_name("later"), dirs_exist_ok=True)
    (copy.with_name("later") / "prepare.py").write_text(PREPARE.replace(", 1", ", 2"))
    assert load_environment(copy.with_name("later")).digest("slow") != digest


def test_what_prepare_recorded_of_the_users_files_is_part_of_the_digest(environment, parts):
    prepare(environment, "--from", parts)
    digest = load_environment(environment).digest("slow")
    record = load_environment(environment).data("slow").public.parent / "identity.txt"
    record.write_text("model a1b2")
    changed = load_environment(environment).digest("slow")
    record.unlink()
    assert changed != digest == load_environment(environment).digest("slow")
