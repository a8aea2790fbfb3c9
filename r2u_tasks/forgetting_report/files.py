"""Weights, networks and records from files, as ``r2u evidence`` takes them."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import nn

from governance.errors import DataError
from governance.key_files import KEY_BYTES, read_key
from r2u_tasks.data import Records

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
RECORDS = (".npz", ".parquet")


def find_callable(name: str) -> Callable[..., Any]:
    """Return ``module:callable``; modules of the working directory are found, too.

    Raises:
        DataError: There is none of that name.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"{name}: expected module:callable that can be imported, got: {error}"
        raise DataError(message) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        message = f"{name}: expected a callable, got {type(found).__name__}"
        raise DataError(message)
    return found  # type: ignore[no-any-return]


def weight_paths(given: Sequence[Path]) -> list[Path]:
    """Return files of weights: those given, and those in the folders given, by name.

    Raises:
        DataError: A path does not exist, or a folder has no weights.
    """
    paths: list[Path] = []
    for path in given:
        inside = sorted(p for p in path.glob("*") if p.suffix in WEIGHTS) if path.is_dir() else []
        if path.is_dir() and not inside:
            message = f"{path.name}: expected files of {', '.join(WEIGHTS)} in the folder, got none"
            raise DataError(message)
        if not path.exists():
            message = f"{path}: expected a file or folder of weights, got nothing"
            raise DataError(message)
        paths += inside or [path]
    return paths


def load_network(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Return the network with the weights of a file. No code of the file is run.

    Args:
        build: Returns the network.
        path: A state dict by ``torch.save`` (alone, or under ``state_dict``), or safetensors.

    Raises:
        DataError: There is no network, the file cannot be read, or it does not fit the network.
    """
    network = _build(build)
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        state = state.get("state_dict", state)
        network.load_state_dict(state)
    except Exception as error:  # torch and safetensors raise types of all kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"{path.name}: expected a state dict of the network, got: {first}"
        raise DataError(message) from error
    return network.eval()


def _build(build: Callable[[], nn.Module]) -> nn.Module:
    try:
        network = build()
    except Exception as error:  # the user's own code
        message = f"network: expected it from a call without arguments, got: {error}"
        raise DataError(message) from error
    if not isinstance(network, nn.Module):
        message = f"network: expected a torch.nn.Module, got {type(network).__name__}"
        raise DataError(message)
    return network


def read_records(
    path: Path, *, id_column: str = "id", label_column: str = "label", inputs_column: str = ""
) -> Records:
    """Read records, sorted by id.

    ``.npz``: arrays ``inputs`` ``[B, ...]``, ``labels`` ``[B]`` (classes) or ``[B, T]`` (tokens)
    and ``ids`` ``[B]``. ``.parquet``: one column of ids, one of labels, and the inputs either as
    one column of lists of equal length or as all other columns, which must be numbers. Inputs of 32
    or 64 bit integers stay as they are (tokens); everything else becomes float32, not scaled.

    Args:
        path: File.
        id_column: Of a Parquet file.
        label_column: Of a Parquet file.
        inputs_column: Of a Parquet file; empty takes all other columns.

    Raises:
        DataError: Another format, a missing array or column, or lengths that differ.
    """
    if not path.is_file() or path.suffix not in RECORDS:
        message = f"{path}: expected a file of records ({', '.join(RECORDS)}), got none"
        raise DataError(message)
    try:
        arrays = (
            _from_npz(path)
            if path.suffix == ".npz"
            else _from_parquet(path, id_column, label_column, inputs_column)
        )
    except (KeyError, ValueError, pa.ArrowInvalid) as error:
        message = f"{path.name}: expected inputs, labels and ids, got a problem: {error}"
        raise DataError(message) from error
    inputs, labels, ids = arrays
    if not len(inputs) == len(labels) == len(ids) or labels.ndim > 2:
        message = (
            f"{path.name}: expected as many inputs, labels and ids, "
            f"got {len(inputs)}, {len(labels)} and {len(ids)}"
        )
        raise DataError(message)
    kind = np.int64 if inputs.dtype.kind == "i" and inputs.dtype.itemsize >= 4 else np.float32
    order = np.argsort(ids, kind="stable")
    return Records(
        torch.from_numpy(np.ascontiguousarray(inputs[order], dtype=kind)),
        torch.from_numpy(np.ascontiguousarray(labels[order], dtype=np.int64)),
        ids[order],
    )


def read_ids(path: Path) -> list[str]:
    """Return the ids of a text file, one a line; empty lines do not count.

    Raises:
        DataError: There is no such file.
    """
    if not path.is_file():
        message = f"{path}: expected a text file with one id a line, got nothing"
        raise DataError(message)
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_json_file(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: There is none, or it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path}: expected a JSON file, got: {error}"
        raise DataError(message) from error


def load_or_make_salt(path: Path) -> bytes:
    """Return the 32 bytes of a salt file; made with mode 600 where there is none.

    Raises:
        PermanentError: The file is readable by others, or is not 32 bytes.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
    return read_key(path)


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return content["inputs"], content["labels"], content["ids"].astype(str)


def _from_parquet(
    path: Path, id_column: str, label_column: str, inputs_column: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = pq.read_table(path)
    ids = np.asarray(table[id_column].to_pylist(), dtype=str)
    labels = _numbers(table[label_column])
    if inputs_column:
        return _numbers(table[inputs_column]), labels, ids
    others = [name for name in table.column_names if name not in {id_column, label_column}]
    if not others:
        message = "no column is left for the inputs"
        raise ValueError(message)
    if len(others) == 1 and pa.types.is_nested(table[others[0]].type):
        return _numbers(table[others[0]]), labels, ids
    return np.stack([_numbers(table[name]) for name in others], axis=1), labels, ids


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers, or of lists of equal length, as an array."""
    array = np.array(column.to_pylist())
    if array.dtype.kind not in "iufb":
        message = "expected numbers, or lists of one length"
        raise ValueError(message)
    return array
