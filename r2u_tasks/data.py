"""Records as tensors: one encoding of a declared table for training, unlearning and evidence.

Rows are sorted by record id, so the order in which a table stores them changes nothing. The scale
of numeric features comes from *stable* training data only: a statistic learned from revocable data
would outlive its deletion.

Shapes: B records, C classes, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from governance.declaration import Declaration, Feature
from governance.errors import DataError
from r2u_tasks.seeding import make_generator

_TEXT_PADDING = 0


@dataclass(frozen=True, slots=True)
class Records:
    """Encoded records.

    Attributes:
        inputs: float32 ``[B, *input_shape]``; int64 ``[B, max_length]`` for text.
        labels: int64 ``[B]``, the index into the declared classes.
        ids: Record ids, sorted, ``[B]`` strings.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    ids: np.ndarray

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.ids)

    def select(self, mask: np.ndarray) -> Records:
        """Return the records where the boolean mask ``[B]`` holds, in the same order."""
        index = torch.from_numpy(np.flatnonzero(mask))
        return Records(self.inputs[index], self.labels[index], self.ids[mask])

    def without(self, ids: Sequence[str] | np.ndarray) -> Records:
        """Return the records whose id is not in ``ids``."""
        return self.select(~np.isin(self.ids, np.asarray(ids, dtype=self.ids.dtype)))


@dataclass(frozen=True, slots=True)
class FeatureScale:
    """Mean and standard deviation of each numeric feature, from stable training data."""

    mean: dict[str, float]
    deviation: dict[str, float]

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return plain JSON."""
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_dict(cls, content: dict[str, dict[str, float]]) -> FeatureScale:
        """Read what ``to_dict`` wrote."""
        return cls(content["mean"], content["deviation"])


def measure_scale(table: pa.Table, declaration: Declaration) -> FeatureScale:
    """Measure the numeric features of the given (stable, training) rows.

    A constant feature gets deviation 1, so that it encodes to 0 and not to NaN.
    """
    mean: dict[str, float] = {}
    deviation: dict[str, float] = {}
    for feature in declaration.columns.features:
        if feature.kind == "numeric":
            values = _numbers(table, feature)
            mean[feature.name] = float(values.mean()) if len(values) else 0.0
            spread = float(values.std()) if len(values) else 0.0
            deviation[feature.name] = spread if spread > 0 else 1.0
    return FeatureScale(mean, deviation)


def encode_records(table: pa.Table, declaration: Declaration, scale: FeatureScale) -> Records:
    """Encode declared columns as tensors.

    Args:
        table: Rows with the declared columns.
        declaration: Roles and kinds of the columns.
        scale: From ``measure_scale``; the same for every use of one model.

    Raises:
        DataError: A label outside the declared classes, or an image of another size.
    """
    columns = declaration.columns
    ids = np.asarray(table[columns.record_id].to_pylist(), dtype=str)
    order = np.argsort(ids, kind="stable")
    parts = [_encode_feature(table, feature, scale) for feature in columns.features]
    inputs = parts[0] if declaration.task != "tabular" else np.concatenate(parts, axis=1)
    labels = _encode_labels(table, declaration)
    return Records(
        inputs=torch.from_numpy(np.ascontiguousarray(inputs[order])),
        labels=torch.from_numpy(labels[order]),
        ids=ids[order],
    )


def iterate_batches(
    n_records: int, batch_size: int, *, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield index batches of one shuffled epoch; the last may be smaller, none is dropped."""
    order = torch.randperm(n_records, generator=generator)
    yield from torch.split(order, batch_size)


class BatchStream:
    """Endless batches of indices into a subset, reshuffled each time the subset is used up."""

    def __init__(self, index: torch.Tensor, batch_size: int, seed: int, name: str) -> None:
        """Prepare the stream; ``index`` must not be empty."""
        self._index = index
        self._size = min(batch_size, len(index))
        self._generator = make_generator(seed, "stream", name)
        self._left = torch.empty(0, dtype=torch.int64)

    def next(self) -> torch.Tensor:
        """Return the next batch of indices."""
        if len(self._left) < self._size:
            order = torch.randperm(len(self._index), generator=self._generator)
            self._left = self._index[order]
        batch, self._left = self._left[: self._size], self._left[self._size :]
        return batch


def _encode_labels(table: pa.Table, declaration: Declaration) -> np.ndarray:
    label = declaration.columns.label
    position = {str(value): index for index, value in enumerate(label.classes)}
    values = [str(value) for value in table[label.name].to_pylist()]
    unknown = sum(value not in position for value in values)
    if unknown:
        message = (
            f"label column '{label.name}': expected one of {len(position)} declared classes, "
            f"got {unknown} other values; correct the table or the declaration"
        )
        raise DataError(message)
    return np.array([position[value] for value in values], dtype=np.int64)


def _encode_feature(table: pa.Table, feature: Feature, scale: FeatureScale) -> np.ndarray:
    if feature.kind == "image":
        return _encode_image(table, feature)
    if feature.kind == "text":
        return _encode_text(table, feature)
    if feature.kind == "numeric":
        values = (_numbers(table, feature) - scale.mean[feature.name]) / scale.deviation[
            feature.name
        ]
        return np.asarray(values, dtype=np.float32)[:, None]
    categories = np.array(feature.categories, dtype=str)
    values = np.array([str(value) for value in table[feature.name].to_pylist()], dtype=str)
    return np.asarray(values[:, None] == categories[None, :], dtype=np.float32)


def _encode_image(table: pa.Table, feature: Feature) -> np.ndarray:
    shape = feature.shape or ()
    column = table[feature.name].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    size = int(np.prod(shape))
    if len(flat) != size * len(column):
        message = f"image column '{feature.name}': expected {size} numbers in each row"
        raise DataError(message)
    images = np.asarray(flat, dtype=np.float32) / np.float32(feature.scale)
    return images.reshape(len(column), *shape)


def _encode_text(table: pa.Table, feature: Feature) -> np.ndarray:
    length = feature.max_length or 1
    encoded = np.full((table.num_rows, length), _TEXT_PADDING, dtype=np.int64)
    for row, text in enumerate(table[feature.name].to_pylist()):
        data = np.frombuffer(text.encode("utf-8")[:length], dtype=np.uint8)
        encoded[row, : len(data)] = data
    return encoded


def _numbers(table: pa.Table, feature: Feature) -> np.ndarray:
    return np.asarray(table[feature.name].to_numpy(), dtype=np.float64)
