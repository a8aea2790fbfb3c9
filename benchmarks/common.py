"""What every benchmark needs: sizes, repeats, memory of a fresh process, one result file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("duckdb", "pyarrow", "deltalake", "numpy", "torch", "mlflow", "sqlalchemy")


def is_small() -> bool:
    """Return whether ``SIZE=small`` asks for a run of under a minute."""
    return os.environ.get("SIZE") == "small"


def row(
    case: str, metric: str, values: Sequence[float], unit: str, baseline: str | None = None
) -> dict[str, Any]:
    """Return one result: median of the repeats, with the smallest and the largest as spread.

    Few repeats allow no interval; ``low`` and ``high`` are the range, and ``spread`` says so.
    """
    return {
        "case": case,
        "metric": metric,
        "value": statistics.median(values),
        "unit": unit,
        "n": len(values),
        "low": min(values),
        "high": max(values),
        "spread": "range",
        "baseline": baseline,
    }


def write_results(name: str, rows: list[dict[str, Any]], *, peers: Sequence[str] = ()) -> Path:
    """Write ``results/<name>.json`` (``design.md``, section 12); small runs get their own name.

    Args:
        name: Name of the benchmark.
        rows: Its results.
        peers: Packages that it compares with, whose versions are noted beside our own.
    """
    path = RESULTS / f"{name}-small.json" if is_small() else RESULTS / f"{name}.json"
    content = {
        "name": name,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "command": f"python -m {sys.modules['__main__'].__spec__.name}",
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "python": platform.python_version(),
            "load_at_end": round(os.getloadavg()[0], 1),
        },
        "packages": {package: version(package) for package in (*_PACKAGES, *peers)},
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def in_fresh_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module`` and return the JSON of its last line, so that peaks do not mix."""
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", module, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def peak_mib() -> float:
    """Return the largest resident memory of this process so far.

    Not from ``getrusage``, whose peak a child inherits from the process that started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def plot(name: str, draw: Callable[[Any], None], *, title: str) -> Path:
    """Draw ``results/<name>.png`` on one pair of axes."""
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    path = RESULTS / (f"{name}-small.png" if is_small() else f"{name}.png")
    figure.savefig(path)
    return path


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
