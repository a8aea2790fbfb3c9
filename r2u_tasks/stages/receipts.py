"""Receipts of request files: what became of each, found by the digest of its bytes.

A receipt holds counts, reasons for a file as a whole and the name of the reject file: no name of
the request file and no value of a row.
"""

from __future__ import annotations

import re
from pathlib import Path

from governance.digests import read_json, write_json
from governance.errors import RequestError
from r2u_tasks.stages.context import JSON, StageContext, open_context

COUNTS = ("read", "accepted", "duplicates", "rejected")
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")


def new_receipt(digest: str, *, refused: str | None = None) -> JSON:
    """Return a receipt with no rows."""
    return {
        "digest": digest,
        "refused": refused,
        "repeated": False,
        **dict.fromkeys(COUNTS, 0),
        "rejects": None,
        "validation": [],
    }


def write_receipt(context: StageContext, receipt: JSON) -> None:
    """Keep a receipt; the bytes it is about are known from now on."""
    write_json(_path(context, receipt["digest"]), receipt)


def find_receipt(context: StageContext, digest: str) -> JSON | None:
    """Return the receipt of a file, or None if it was not read yet."""
    path = _path(context, digest)
    return read_json(path) if path.exists() else None


def show_file(*, digest: str, dataset: str, root_uri: str) -> JSON:
    """Return what became of a file.

    Returns:
        The receipt, or ``{"digest": ..., "waiting": true}`` while it lies in the inbox.

    Raises:
        RequestError: No such file was dropped, or the digest is not ``sha256:<64 hex digits>``.
    """
    context = open_context(dataset, root_uri)
    if not _DIGEST.match(digest):
        message = "file: expected its digest as sha256:<64 hex digits>"
        raise RequestError(message)
    receipt = find_receipt(context, digest)
    if receipt is not None:
        return {**receipt, "waiting": False}
    if any(context.workspace.inbox.glob(f"{uploaded_name(digest, '')}.*")):
        return {"digest": digest, "waiting": True}
    message = "file: expected one that was dropped, got the digest of none"
    raise RequestError(message)


def keep_upload(part: Path, digest: str, suffix: str, *, dataset: str, root_uri: str) -> bool:
    """Give a complete upload its name in the inbox; return whether it was read before.

    The bytes of a file that was read before are removed.
    """
    context = open_context(dataset, root_uri)
    if find_receipt(context, digest) is not None:
        part.unlink(missing_ok=True)
        return True
    part.replace(context.workspace.inbox / uploaded_name(digest, suffix))
    return False


def uploaded_name(digest: str, suffix: str) -> str:
    """Return the name in the inbox of a file that came over the API: nothing of the sender's."""
    return f"upload-{digest.removeprefix('sha256:')[:32]}{suffix}"


def _path(context: StageContext, digest: str) -> Path:
    return context.workspace.run("intake-file", digest.removeprefix("sha256:")) / "receipt.json"
