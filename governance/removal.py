"""Deleting files and folders so that what is called deleted is gone.

What is not there needs no deletion. Anything else that keeps a file on the disk (permissions, a
process that writes beside the deletion, a busy network share) is told, never passed over: a purge
that reports a count must have reached it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from governance.errors import StoreBusyError


def remove_folder(folder: Path) -> None:
    """Delete a folder and everything below it; twice is safe.

    Raises:
        StoreBusyError: Something of it is still there.
    """
    try:
        shutil.rmtree(folder, onerror=_raise_unless_gone)
    except OSError as error:
        raise _busy(folder, error) from error
    if os.path.lexists(folder):
        raise _busy(folder, None)


def remove_file(path: Path) -> None:
    """Delete a file; twice is safe.

    Raises:
        StoreBusyError: It is still there.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _busy(path, error) from error


def _raise_unless_gone(_function: Any, _path: Any, info: Any) -> None:
    """Go on where somebody else deleted the entry first."""
    error = info[1]
    if not isinstance(error, FileNotFoundError):
        raise error


def _busy(path: Path, error: OSError | None) -> StoreBusyError:
    reason = "it was written anew meanwhile" if error is None else type(error).__name__
    message = (
        f"{path.parent.name}/{path.name}: expected it to be deleted, it is still there ({reason}); "
        "end what uses it or give this user the right to delete it, then run the step again"
    )
    return StoreBusyError(message)
