"""Data sets and networks of the study, small enough that one training takes seconds on one core.

Training, validation and test records are fixed by name and not by the training seed. Images are
averaged down to half their side. Data come from ``R2U_SHARED_DATA`` (never committed).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn import datasets
from torch import nn

from r2u_tasks.data import Records
from r2u_tasks.seeding import seeded

SHARED = Path(os.environ.get("R2U_SHARED_DATA", "../shared/data"))
_N_TRAIN, _N_VALIDATION, _N_TEST = 3000, 2000, 4000


@dataclass(frozen=True)
class Task:
    """One data set with its network and recipe.

    Attributes:
        classwise: The class that class-wise requests are for.
        epochs: Of ordinary training.
    """

    name: str
    train: Records
    validation: Records
    test: Records
    n_classes: int
    network: Callable[[], nn.Module]
    epochs: int
    learning_rate: float
    classwise: int

    def build(self, seed: int) -> nn.Module:
        """Return the network with weights of this seed."""
        with seeded(seed, "init"):
            return self.network()


class Residual(nn.Module):
    """Two 3x3 convolutions with group normalisation and a shortcut."""

    def __init__(self, width_in: int, width: int) -> None:
        """Halve the resolution when the width grows."""
        super().__init__()
        stride = 1 if width == width_in else 2
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.GroupNorm(4, width),
        )
        self.shortcut = (
            nn.Identity() if stride == 1 else nn.Conv2d(width_in, width, 1, stride, bias=False)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return feature maps."""
        return torch.relu(self.body(images) + self.shortcut(images))


def residual_net() -> nn.Module:
    """Return a residual network for 16x16 colour images: 3 blocks, 56,362 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1),
        Residual(16, 16),
        Residual(16, 32),
        Residual(32, 48),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


def small_cnn() -> nn.Module:
    """Return a convolutional network for 14x14 grey images: 2 layers, 2 linear ones."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 9, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def perceptron(n_inputs: int, n_classes: int, width: int) -> Callable[[], nn.Module]:
    """Return a maker of multilayer perceptrons with two hidden layers."""
    return lambda: nn.Sequential(
        nn.Linear(n_inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, n_classes),
    )


def load_digits() -> Task:
    """scikit-learn's digits, 8x8, digit 3 is the class to forget: no file, a second to train."""
    data = datasets.load_digits()
    inputs, labels = (data.images[:, None] / 16.0).astype(np.float32), data.target.astype(np.int64)
    order = np.random.default_rng(3).permutation(len(labels))
    parts = (order[:1000], order[1000:1300], order[1300:])
    train, validation, test = (_records(inputs[part], labels[part]) for part in parts)
    return Task("digits", train, validation, test, 10, _flat(perceptron(64, 10, 64)), 25, 3e-3, 3)


def _flat(network: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), network())


def load_mnist(n_train: int = _N_TRAIN) -> Task:
    """MNIST, 14x14, digit 3 is the class to forget."""
    folder = SHARED / "vision" / "mnist"

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        images = np.frombuffer(
            gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()),
            np.uint8,
            -1,
            16,
        ).reshape(-1, 1, 28, 28)
        labels = np.frombuffer(
            gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, -1, 8
        )
        return _halve(images), labels.astype(np.int64)

    splits = _split(*read("train"), *read("t10k"), n_train=n_train)
    return Task("mnist", *splits, 10, small_cnn, 16, 2e-3, 3)


def load_cifar(n_train: int = _N_TRAIN) -> Task:
    """CIFAR-10 subset, 16x16, the class 'dog' (5) is the one to forget; at most 5,200 to train."""
    splits = _split(*_read_cifar(), n_train=n_train)
    return Task("cifar10", *splits, 10, residual_net, 12, 3e-3, 5)


def load_adult() -> Task:
    """UCI Adult: income above 50,000; class-wise requests make no sense with two classes."""
    folder = SHARED / "tabular" / "adult"
    rows = [
        [value.strip() for value in line]
        for name in ("adult.data.gz", "adult.test.gz")
        for line in csv.reader(gzip.decompress((folder / name).read_bytes()).decode().splitlines())
        if len(line) == 15
    ]
    numeric = [0, 2, 4, 10, 11, 12]
    labels = np.array([row[14].startswith(">50K") for row in rows], np.int64)
    columns = []
    for index in range(14):
        values = [row[index] for row in rows]
        if index in numeric:
            number = (
                np.log1p(np.array(values, float)) if index in (10, 11) else np.array(values, float)
            )
            columns.append(((number - number.mean()) / number.std())[:, None])
        else:
            names = np.array(sorted(set(values)))
            columns.append(np.array(values)[:, None] == names[None, :])
    inputs = np.concatenate(columns, axis=1).astype(np.float32)
    half = 32561
    splits = _split(inputs[:half], labels[:half], inputs[half:], labels[half:])
    return Task("adult", *splits, 2, perceptron(inputs.shape[1], 2, 64), 10, 2e-3, 1)


def load_banking() -> Task:
    """Banking77: hashed bag of words and word pairs (2,048 columns), one intent to forget."""
    folder = SHARED / "text" / "banking77"
    names: dict[str, int] = {}

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1:]
        labels = [names.setdefault(row[1], len(names)) for row in rows]
        return np.stack([_hash_words(row[0]) for row in rows]), np.array(labels, np.int64)

    train = read("train")
    splits = _split(*train, *read("test"), n_train=8000)
    return Task("banking77", *splits, 77, perceptron(2048, 77, 128), 10, 2e-3, 11)


LOADERS: dict[str, Callable[[], Task]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar10": load_cifar,
    "adult": load_adult,
    "banking77": load_banking,
}


@cache
def load_task(name: str) -> Task:
    """Return a task; its data are read once."""
    return LOADERS[name]()


def _read_cifar() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the first images of each class, by file number."""
    wanted = {"train": 720, "test": 400}
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    members = re.compile(r"(train|test)/(\w+)/(\d+)\.jpe?g$")
    with tarfile.open(SHARED / "vision" / "cifar10_jpeg.tar.xz") as archive:
        seen: dict[tuple[str, str], int] = {}
        for member in archive:
            match = members.search(member.name)
            if match is None:
                continue
            part, name = match[1], match[2]
            count = seen.get((part, name), 0)
            if count >= wanted[part]:
                continue
            seen[part, name] = count + 1
            stream = archive.extractfile(member)
            assert stream is not None
            image = np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"))
            images[part].append(image.transpose(2, 0, 1))
            labels[part].append(name)
    names = sorted(set(labels["train"]))
    out: list[np.ndarray] = []
    for part in ("train", "test"):
        out.append(_halve(np.stack(images[part])))
        out.append(np.array([names.index(name) for name in labels[part]], np.int64))
    return out[0], out[1], out[2], out[3]


def _halve(images: np.ndarray) -> np.ndarray:
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels, height // 2, 2, width // 2, 2)
    return (blocks.mean(axis=(3, 5)) / 255.0).astype(np.float32)


def _split(
    inputs: np.ndarray,
    labels: np.ndarray,
    test_inputs: np.ndarray,
    test_labels: np.ndarray,
    n_train: int = _N_TRAIN,
) -> tuple[Records, Records, Records]:
    order = np.random.default_rng(20250516).permutation(len(labels))
    parts = (order[:n_train], order[n_train : n_train + _N_VALIDATION])
    test = np.random.default_rng(7).permutation(len(test_labels))[:_N_TEST]
    train, validation = (_records(inputs[part], labels[part]) for part in parts)
    return train, validation, _records(test_inputs[test], test_labels[test])


def _records(inputs: np.ndarray, labels: np.ndarray) -> Records:
    ids = np.array([f"r{index:05d}" for index in range(len(labels))])
    return Records(torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(labels), ids)


def _hash_words(text: str) -> np.ndarray:
    words = re.findall(r"[a-z0-9']+", text.lower())
    counts = np.zeros(2048, np.float32)
    for token in words + [f"{a} {b}" for a, b in itertools.pairwise(words)]:
        digest = hashlib.blake2s(token.encode(), digest_size=4).digest()
        counts[int.from_bytes(digest, "little") % 2048] += 1
    return counts / max(1.0, float(np.linalg.norm(counts)))
