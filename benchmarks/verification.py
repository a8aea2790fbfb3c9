"""How long the verifier takes for one certificate, in a fresh process, without the project.

    make bench NAME=verification        (SIZE=small: a minute)

The file ``governance/verifier.py`` is copied into an empty folder and run by ``python -I``. Ledgers
of several lengths are made around the same sealed batch (the golden one). Baseline: an interpreter
that imports the libraries the verifier needs and does nothing. Network and other packages cannot
be reached by ``-I`` from an empty folder; ``tests`` look at what is imported.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import is_small, plot, row, write_results
from governance.ledger import Ledger
from governance.signing import PUBLIC_NAME, load_or_make_signing_key
from governance.verifier import read_chain, verify_certificate

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "v2"
_BASELINE = (
    "import argparse, base64, hashlib, json, math, re, pathlib, dataclasses\n"
    "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey\n"
    "from cryptography.hazmat.primitives.serialization import load_pem_public_key\n"
)


def make_workspace(folder: Path, n_entries: int) -> Path:
    """Copy the golden workspace, and lengthen its ledger under a key that it rotates to.

    The private key of the golden batch is gone, so its entries are signed anew: the bundle stays
    as it is, the chain is made of the same bodies, then of closing entries.
    """
    shutil.copytree(GOLDEN, folder)
    entries = [json.loads(line) for line in (GOLDEN / "ledger.jsonl").read_bytes().splitlines()]
    (folder / "ledger.jsonl").unlink()
    (folder / "keys" / PUBLIC_NAME).unlink()
    ledger = Ledger(folder / "ledger.jsonl", load_or_make_signing_key(folder / "keys"))
    for entry in entries:
        ledger.append(entry["kind"], entry["body"])
    with_fsync(ledger, n_entries - len(entries))
    return folder


def with_fsync(ledger: Ledger, n: int) -> None:
    """Append entries as the stages do."""
    for number in range(n):
        ledger.append("request_closed", {"request_id": f"r-{number}", "outcome": "not_found"})


def chain_seconds(folder: Path, repeats: int) -> list[float]:
    """Return how long reading and checking the ledger of a workspace takes, in this process."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        read_chain(folder / "ledger.jsonl", (folder / "keys" / PUBLIC_NAME).read_bytes())
        times.append(time.perf_counter() - started)
    return times


def fresh_process(arguments: list[str], cwd: Path, repeats: int) -> list[float]:
    """Return the wall times in seconds of a command in a fresh interpreter, after a first one."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        done = subprocess.run(  # noqa: S603 - our own file
            [sys.executable, "-I", *arguments], cwd=cwd, capture_output=True, check=False
        )
        times.append(time.perf_counter() - started)
        if done.returncode != 0:
            message = (
                f"expected exit code 0, got {done.returncode}: {done.stdout!r} {done.stderr!r}"
            )
            raise RuntimeError(message)
    return times[1:]


def main() -> None:
    """Measure and write results and plot."""
    repeats = 3 if is_small() else 15
    results: list[dict[str, Any]] = []
    certificate = next(GOLDEN.glob("batches/*/certificates/second-1.json"))
    key = GOLDEN / "keys" / PUBLIC_NAME
    if not verify_certificate(certificate, public_key_path=key).ok:
        message = "expected golden files that verify"
        raise RuntimeError(message)
    with tempfile.TemporaryDirectory() as name:
        alone = Path(name) / "alone"
        alone.mkdir()
        source = Path(__file__).parent.parent / "governance" / "verifier.py"
        shutil.copyfile(source, alone / "verifier.py")
        base = "interpreter and libraries alone"
        results.append(row(base, "time", fresh_process(["-c", _BASELINE], alone, repeats), "s"))
        arguments = ["verifier.py", str(certificate), "--public-key", str(key)]
        case = "one certificate with bundle, ledger and model"
        results.append(row(case, "time", fresh_process(arguments, alone, repeats), "s", base))
        everything = ["verifier.py", str(GOLDEN), "--public-key", str(key)]
        times = fresh_process(everything, alone, repeats)
        results.append(row("a folder of 6 certificates", "time", times, "s", base))
        sizes = (100, 1000) if is_small() else (100, 1000, 3000, 10_000)
        chain = []
        for n in sizes:
            folder = make_workspace(Path(name) / f"ledger-{n}", n)
            times = chain_seconds(folder, repeats)
            chain.append(row(f"ledger of {n:,} entries", "time in the process", times, "s"))
        results += chain
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    results.append(row("all of the above", "peak memory of a process", [peak], "MiB"))
    write_results("verification", results)
    for found in results:
        sys.stdout.write(f"{found['case']}: {found['metric']} {found['value']:.3f}\n")

    def draw(axes: Any) -> None:
        axes.plot(sizes, [found["value"] for found in chain], marker="o", label="ledger alone")
        whole = results[1]["value"]
        axes.axhline(
            whole, ls="--", color="#888", label="one certificate, fresh process, 19 entries"
        )
        axes.axhline(0.5, color="#c44e52", lw=1, label="bound: 0.5 s")
        axes.set(xscale="log", yscale="log", xlabel="entries of the ledger", ylabel="seconds")
        axes.legend(frameon=False, fontsize=8)

    plot("verification", draw, title="Verifying a certificate offline")


if __name__ == "__main__":
    main()
