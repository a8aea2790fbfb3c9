"""Laws of deletion: what is called deleted is gone, and what cannot be deleted is told."""

import os

import pytest

from governance.errors import StoreBusyError
from governance.removal import remove_file, remove_folder
from r2u_tasks.batch import drop_forgotten, drop_rows


@pytest.fixture
def kept(tmp_path):
    """A folder of a batch with one private file."""
    private = tmp_path / "batch" / "private"
    private.mkdir(parents=True)
    (private / "forget.parquet").write_bytes(b"rows")
    return private


@pytest.fixture
def stuck(monkeypatch):
    """A disk from which nothing can be deleted."""

    def refuse(path, *arguments, **named):
        raise PermissionError(13, "refused", str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)


def test_twice_is_safe(kept):
    """What is gone needs no deletion."""
    for _ in range(2):
        remove_file(kept / "forget.parquet")
        remove_folder(kept)
    assert not kept.exists()


@pytest.mark.parametrize("drop", [drop_rows, drop_forgotten])
def test_rows_that_stay_on_the_disk_are_not_called_dropped(kept, stuck, drop):
    """The step fails as one that is tried again; it does not report a purge."""
    with pytest.raises(StoreBusyError):
        drop(kept.parent)
    assert (kept / "forget.parquet").exists()


def test_a_folder_that_is_written_anew_meanwhile_is_not_called_gone(kept, monkeypatch):
    """A training that still runs may write into the folder while it is deleted."""
    monkeypatch.setattr("shutil.rmtree", lambda folder, **named: None)
    with pytest.raises(StoreBusyError):
        remove_folder(kept)
