"""Files over the API: streamed to the inbox under a name of ours, whole or not at all.

The sender's file name is never used, so no path can be in it. The bytes go to a hidden file, are
counted and hashed on the way, and get their name when they are complete; whatever goes wrong, the
hidden file is removed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

MAX_UPLOAD_BYTES = 256 << 20
SUFFIXES = {
    "text/csv": ".csv",
    "application/x-ndjson": ".jsonl",
    "application/vnd.apache.parquet": ".parquet",
    "application/zip": ".zip",
}


def suffix_of(request: Request) -> str:
    """Return the suffix for the content type of a request, or answer 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in SUFFIXES:
        raise HTTPException(415, f"Content-Type: expected one of {', '.join(SUFFIXES)}")
    return SUFFIXES[kind]


def require_size(request: Request) -> None:
    """Answer 413 before anything is read when the sender says that it is too much."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_UPLOAD_BYTES:
        raise _too_large()


async def receive(chunks: AsyncIterator[bytes], inbox: Path) -> tuple[Path, str]:
    """Write a stream to a hidden file of the inbox and return its path and digest.

    The caller gives it its name or removes it. Memory does not grow with the file.
    """
    state, size = hashlib.sha256(), 0
    with _hidden(inbox) as (file, path):
        async for chunk in chunks:
            size += len(chunk)
            if size > MAX_UPLOAD_BYTES:
                raise _too_large()
            await run_in_threadpool(file.write, chunk)
            state.update(chunk)
        if size == 0:
            raise HTTPException(422, "body: expected a file, got no bytes")
        await run_in_threadpool(_to_disk, file)
    return path, f"sha256:{state.hexdigest()}"


@contextmanager
def _hidden(inbox: Path) -> Iterator[tuple[IO[bytes], Path]]:
    inbox.mkdir(parents=True, exist_ok=True)
    path = inbox / f".upload-{secrets.token_hex(8)}.part"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, path
    except BaseException:  # also a sender who hangs up
        path.unlink(missing_ok=True)
        raise


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _too_large() -> HTTPException:
    message = f"body: expected at most {MAX_UPLOAD_BYTES} bytes; drop larger files into the inbox"
    return HTTPException(413, message)
