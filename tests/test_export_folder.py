"""The folder of an export: new, or empty and still empty at the end."""

from pathlib import Path

import pytest
from recorded import journal, record

from ideator_rl.publishing import export
from ideator_rl.publishing.export import ExportError, Options, export_to_folder

DATASET = Options(dataset_only=True)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return journal(folder, [[record("a", value=3.0)]])


def test_what_appears_in_the_folder_meanwhile_is_kept(run, tmp_path, monkeypatch):
    out, write = tmp_path / "out", export._write

    def write_while_another_writes(*arguments):
        exported = write(*arguments)
        out.mkdir()
        (out / "mine").write_text("kept")
        return exported

    monkeypatch.setattr(export, "_write", write_while_another_writes)
    with pytest.raises(ExportError, match="not an empty folder"):
        export_to_folder(run, out, DATASET)
    assert (out / "mine").read_text() == "kept" and sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_link_to_an_empty_folder_is_filled(run, tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out"
    link.symlink_to("disk")
    exported = export_to_folder(run, link, DATASET)
    assert link.is_symlink() and Path(exported.dataset).is_relative_to(link)
    assert (tmp_path / "disk" / "dataset" / "README.md").is_file()
