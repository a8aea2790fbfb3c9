"""Does the verifier find every change? Mutations of a finished batch, by kind of file.

    make study-mutations            (SIZE=small: a minute)

A real batch of the embedded digits is served once; what an auditor gets of it is copied; then one
thing is changed, the certificate is verified, and the change is undone, over and over. Only the
public key, the request's id and a noted ledger head come from elsewhere (``docs/verify.md``).
The untouched original has to verify, before and after.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import is_small, plot, row, write_results
from governance.digests import read_json
from governance.ledger import verify_chain
from governance.verifier import VerificationResult, verify_certificate
from r2u_tasks.embedded import resolve
from r2u_tasks.stages.classify import classify_data
from r2u_tasks.stages.requests import submit_request
from r2u_tasks.stages.train import train_ready_model
from r2u_tasks.stages.unlearn import run_batch

REQUESTS = ("mutations-1", "mutations-2")
_SEED = 20261125


@dataclass(frozen=True, slots=True)
class Package:
    """What an auditor gets, in a folder of its own.

    Attributes:
        root: Folder.
        certificate: Of the first request.
        other: Of the second request, from the same batch.
        public_key: Handed over apart, never changed.
        head: Noted head of the ledger.
    """

    root: Path
    certificate: Path
    other: Path
    public_key: Path
    head: str

    def verify(self) -> VerificationResult:
        """Verify the certificate of the first request, as ``docs/verify.md`` says."""
        return verify_certificate(
            self.certificate,
            public_key_path=self.public_key,
            model_path=self.weights,
            expected_head=self.head,
            request_id=REQUESTS[0],
        )

    @property
    def weights(self) -> Path:
        """The certified model."""
        return next(self.root.glob("models/*/weights.safetensors"))

    @property
    def files(self) -> dict[str, Path]:
        """Every file that a change must be found in, by what people call it."""
        batch = self.certificate.parent.parent
        sealed = {name: batch / name for name in read_json(batch / "bundle.json")["files"]}
        return {
            "certificate": self.certificate,
            "bundle.json": batch / "bundle.json",
            **sealed,
            "ledger": self.root / "ledger.jsonl",
            "weights": self.weights,
        }


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change: its kind, the file, and the file's new content."""

    kind: str
    file: str
    content: bytes


def serve_batch(folder: Path, *, small: bool) -> tuple[Path, Path]:
    """Train on the embedded digits, erase two persons; return declaration and workspace.

    Args:
        folder: Where the declaration and the workspace go.
        small: A quarter of the epochs and pools of four models.
    """
    declaration = resolve("embedded:digits", folder)
    if small:
        text = declaration.read_text(encoding="utf-8").replace("pool_size: 12", "pool_size: 4")
        text = text.replace("stable_epochs: 40", "stable_epochs: 10")
        declaration.write_text(text.replace("revocable_epochs: 20", "revocable_epochs: 5"))
    place = {"dataset": str(declaration), "root_uri": str(folder / "root")}
    classify_data(run_id="mutations", **place)
    train_ready_model(run_id="mutations", **place)
    for request, person in zip(REQUESTS, ("SYN-P0015", "SYN-P0029"), strict=True):
        submit_request(request_id=request, subject_id=person, **place)
    result = run_batch(run_id="mutations", **place)
    if result["outcomes"] != {"forgotten": len(REQUESTS)}:
        message = f"mutations: expected {len(REQUESTS)} forgotten requests, got {result}"
        raise RuntimeError(message)
    return declaration, folder / "root"


def pack(root: Path, target: Path) -> Package:
    """Copy what an auditor gets of a workspace with one batch."""
    batch = next(root.glob("batches/*/bundle.json")).parent
    model = read_json(batch / "result-model.json")["model_key"]
    names = [*read_json(batch / "bundle.json")["files"], "bundle.json"]
    names += [f"certificates/{request}.json" for request in REQUESTS]
    relative = [(batch / name).relative_to(root) for name in names]
    relative += [Path("ledger.jsonl"), Path("models") / model / "weights.safetensors"]
    for path in relative:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target / path)
    key = target / "from-elsewhere.pem"
    shutil.copyfile(root / "keys" / "signing.pub.pem", key)
    certificates = target / batch.relative_to(root) / "certificates"
    return Package(
        target,
        certificates / f"{REQUESTS[0]}.json",
        certificates / f"{REQUESTS[1]}.json",
        key,
        verify_chain(root / "ledger.jsonl", key).head,
    )


def byte_mutations(package: Package, generator: random.Random, n: int) -> Iterator[Mutation]:
    """Yield n changes of each file: bytes flipped, removed and added, and the end cut off."""
    for name, path in package.files.items():
        data = path.read_bytes()
        for number in range(n):
            place = generator.randrange(len(data))
            flipped = bytes([data[place] ^ 1 << generator.randrange(8)])
            kind, content = "byte flipped", data[:place] + flipped + data[place + 1 :]
            if number % 10 == 7:
                kind, content = "byte removed", data[:place] + data[place + 1 :]
            elif number % 10 == 8:
                added = bytes([generator.randrange(256)])
                kind, content = "byte added", data[:place] + added + data[place:]
            elif number % 10 == 9:
                kind, content = "end cut off", data[:place]
            yield Mutation(kind, name, content)


def line_mutations(package: Package, generator: random.Random, n: int) -> Iterator[Mutation]:
    """Yield n changes of whole lines of the ledger."""
    lines = package.files["ledger"].read_bytes().splitlines(keepends=True)
    changes: dict[str, Callable[[list[bytes], int, int], list[bytes]]] = {
        "line removed": lambda kept, i, _: kept[:i] + kept[i + 1 :],
        "line repeated": lambda kept, i, j: [*kept[: j + 1], kept[i], *kept[j + 1 :]],
        "lines reordered": _swapped,
        "lines cut off the end": lambda kept, i, _: kept[:i],
    }
    for number in range(n):
        kind = list(changes)[number % len(changes)]
        i, j = generator.sample(range(len(lines)), 2)
        yield Mutation(kind, "ledger", b"".join(changes[kind](lines, i, j)))


def swap_mutations(package: Package) -> Iterator[Mutation]:
    """Yield the certificate of another request in the place of the first one's."""
    yield Mutation("another request's certificate", "certificate", package.other.read_bytes())


def missed(package: Package, mutations: Iterator[Mutation]) -> tuple[Counter[str], list[Mutation]]:
    """Apply each change alone; return how many there were by kind and file, and those not found."""
    counts: Counter[str] = Counter()
    unseen = []
    for mutation in mutations:
        path = package.files[mutation.file]
        original = path.read_bytes()
        if mutation.content == original:
            continue  # a byte added beside an equal one, removed again: no change
        counts[f"{mutation.file}, {mutation.kind}"] += 1
        path.write_bytes(mutation.content)
        try:
            if package.verify().ok:
                unseen.append(mutation)
        finally:
            path.write_bytes(original)
    return counts, unseen


def all_mutations(package: Package, *, n_bytes: int, n_lines: int) -> Iterator[Mutation]:
    """Yield the whole study."""
    generator = random.Random(_SEED)  # noqa: S311 - a study that can be repeated
    yield from byte_mutations(package, generator, n_bytes)
    yield from line_mutations(package, generator, n_lines)
    yield from swap_mutations(package)


def _swapped(lines: list[bytes], i: int, j: int) -> list[bytes]:
    lines = list(lines)
    lines[i], lines[j] = lines[j], lines[i]
    return lines


def main() -> None:
    """Serve a batch, change it in every way, and write results and plot."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    n_bytes, n_lines = (150, 200) if is_small() else (2000, 2000)
    with tempfile.TemporaryDirectory() as name:
        _, root = serve_batch(Path(name) / "work", small=is_small())
        package = pack(root, Path(name) / "package")
        first = package.verify()
        started = time.perf_counter()
        counts, unseen = missed(package, all_mutations(package, n_bytes=n_bytes, n_lines=n_lines))
        seconds = time.perf_counter() - started
        last = package.verify()
    total = sum(counts.values())
    rows: list[dict[str, Any]] = [
        row("untouched original", "verifies", [float(first.ok and last.ok)], "share"),
        row("all", "mutations", [float(total)], "mutations"),
        row("all", "missed", [float(len(unseen))], "mutations"),
        row("all", "time for each", [seconds / total * 1000], "ms"),
    ]
    lost = Counter(f"{mutation.file}, {mutation.kind}" for mutation in unseen)
    for case, count in sorted(counts.items()):
        rows.append(row(case, "mutations", [float(count)], "mutations"))
        rows.append(row(case, "missed", [float(lost[case])], "mutations"))
    write_results("mutations", rows)
    files: Counter[str] = Counter()
    for case, count in counts.items():
        files[case.split(", ")[0]] += count

    def draw(axes: Any) -> None:
        names = sorted(files, key=lambda file: files[file])
        axes.barh(names, [files[file] for file in names], color="#4c72b0", label="found")
        gone = [sum(n for case, n in lost.items() if case.split(", ")[0] == f) for f in names]
        axes.barh(names, gone, color="#c44e52", label="missed")
        axes.set(xlabel="single changes")
        axes.legend(frameon=False, fontsize=8, loc="lower right")

    plot("mutations", draw, title=f"{total:,} changes of a sealed batch, {len(unseen)} missed")
    sys.stdout.write(f"{total:,} mutations, {len(unseen)} missed, original verifies: {last.ok}\n")
    sys.exit(1 if unseen or not (first.ok and last.ok) else 0)


if __name__ == "__main__":
    main()
