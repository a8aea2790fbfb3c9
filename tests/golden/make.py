"""Make the golden files of the current formats: two real batches, without the rows.

    python tests/golden/make.py v2

Run it once when a format gets a new version, and never again for that version: what is in
``tests/golden/v<N>/`` has to verify for ever. A folder that exists is not written over.

What is kept of a finished workspace is what an auditor gets: the public key, the ledger, the
sealed files and certificates of each batch, the weights of the last model. The records are those
of the README's example, invented.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
KEPT = ("ledger.jsonl", "keys/*.pub.pem", "batches/*/bundle.json", "batches/*/certificates/*.json")


def main(version: str) -> None:
    """Run two batches on the README's example and keep what an auditor gets."""
    sys.path.insert(0, str(REPOSITORY))
    target = Path(__file__).parent / version
    if target.exists():
        sys.exit(f"expected a new version, got {version}, which is there and must not change")
    with tempfile.TemporaryDirectory() as name:
        root = run(Path(name))
        for pattern in KEPT:
            for path in root.glob(pattern):
                keep(path, root, target)
        for bundle in root.glob("batches/*/bundle.json"):
            for file in sealed_names(bundle):
                keep(bundle.parent / file, root, target)
        for path in root.glob("models/*/weights.safetensors"):
            if certified(path, root):
                keep(path, root, target)


def run(folder: Path) -> Path:
    """Serve revocable persons of a small table, then stable ones, one batch each."""
    from r2u_tasks.stages.classify import classify_data
    from r2u_tasks.stages.requests import submit_request
    from r2u_tasks.stages.train import train_ready_model
    from r2u_tasks.stages.unlearn import run_batch

    declaration = write_small_example(folder)
    place = {"dataset": str(declaration), "root_uri": str(folder / "root")}
    classify_data(run_id="golden", **place)
    train_ready_model(run_id="golden", **place)
    for batch, people in (("first", revocable(folder)), ("second", stable(folder))):
        for number, person in enumerate(people, 1):
            submit_request(request_id=f"{batch}-{number}", subject_id=person, **place)
        result = run_batch(run_id=batch, **place)
        sys.stdout.write(f"{batch}: {result['outcomes']}, lane {result['lane']}\n")
    return folder / "root"


def write_small_example(folder: Path) -> Path:
    """Write the README's example with fewer epochs and a narrow network; return its declaration."""
    place = REPOSITORY / "tests/acceptance/readme.py"
    spec = importlib.util.spec_from_file_location("readme", place)
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    readme.write_example((REPOSITORY / "README.md").read_text(), folder)
    path = folder / "people.yaml"
    text = path.read_text().replace("width: 32", "width: 8")
    path.write_text(text.replace("stable_epochs: 10", "stable_epochs: 4"))
    return path


def rows(folder: Path) -> list[list[str]]:
    """Return the rows of the table: id, person, age, income, plan, basis, country, churned."""
    return [line.split(",") for line in (folder / "people.csv").read_text().splitlines()[1:]]


def revocable(folder: Path) -> list[str]:
    """Return two persons whose records all rest on consent, hence are revocable."""
    bases: dict[str, set[str]] = {}
    for row in rows(folder):
        bases.setdefault(row[1], set()).add(row[5])
    return sorted(person for person, found in bases.items() if found == {"consent"})[:2]


def stable(folder: Path) -> list[str]:
    """Return four persons whose records all rest on a contract, hence are stable."""
    bases: dict[str, set[str]] = {}
    for row in rows(folder):
        bases.setdefault(row[1], set()).add(row[5])
    return sorted(person for person, found in bases.items() if found == {"contract"})[:4]


def sealed_names(bundle: Path) -> list[str]:
    """Return the files that a bundle names."""
    return list(json.loads(bundle.read_text())["files"])


def certified(weights: Path, root: Path) -> bool:
    """Return whether a batch ended with this model."""
    results = [path.read_text() for path in root.glob("batches/*/result-model.json")]
    return any(f'"{weights.parent.name}"' in text for text in results)


def keep(path: Path, root: Path, target: Path) -> None:
    """Copy one file to the same place under the target."""
    copy = target / path.relative_to(root)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)


if __name__ == "__main__":
    main(sys.argv[1])
