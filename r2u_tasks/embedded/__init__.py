"""The embedded default: scikit-learn's digits with made-up subjects, marked synthetic."""

from __future__ import annotations

import shutil
from pathlib import Path

from governance.declaration import EMBEDDED_DIGITS

_HERE = Path(__file__).parent


def resolve(name: str, root: Path) -> Path:
    """Return the path of a declaration; make the embedded data set when it is asked for.

    Args:
        name: Path of a YAML file, or ``embedded:digits``.
        root: Workspace; the generated table goes to ``<root>/source/``.
    """
    if name != EMBEDDED_DIGITS:
        return Path(name)
    folder = root / "source"
    declaration = folder / "dataset.yaml"
    if not declaration.exists():
        from r2u_tasks.embedded.digits import write_digits  # noqa: PLC0415 - pulls in scikit-learn

        folder.mkdir(parents=True, exist_ok=True)
        write_digits(folder / "digits.parquet")
        shutil.copyfile(_HERE / "policy.yaml", folder / "policy.yaml")
        shutil.copyfile(_HERE / "dataset.yaml", declaration)
    return declaration
