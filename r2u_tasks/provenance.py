"""What ran: a digest of this project's code and the versions of the libraries under it."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pyarrow", "deltalake", "duckdb")


@cache
def code_digest() -> str:
    """Return one digest over every source file of ``governance`` and ``r2u_tasks``."""
    root = Path(__file__).resolve().parent.parent
    state = hashlib.sha256()
    for package in ("governance", "r2u_tasks"):
        for path in sorted((root / package).rglob("*.py")):
            state.update(path.relative_to(root).as_posix().encode() + b"\x00")
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + state.hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Return full version strings, local labels such as ``+cpu`` included."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions
