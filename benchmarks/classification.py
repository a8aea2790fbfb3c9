"""How fast and in how much memory records get a risk level, from 10^4 to 10^7 rows of 12 columns.

    make bench NAME=classification          (SIZE=small: a minute)

``rules`` reads staged rows bucket by bucket, learns k-anonymity, decides about every row, keeps the
decisions, and applies the budget: everything that a rule needs. ``detect`` is the same with a
detector of personal data on a text column. ``stage`` is the whole of ``r2u classify``: read and
check the source, gate, classify, gate, publish two Delta tables, purge. Baseline ``row by row``:
the same rules as one would write them first, a loop over rows, on at most 100,000 of them. The
rows of ``benchmarks.detection`` (our detectors, Presidio, DataProfiler) come from the same run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from benchmarks.common import in_fresh_process, is_small, peak_mib, plot, row, write_results
from benchmarks.detection import detection_rows
from governance.classification import classify_rows, needed_columns
from governance.classification.conditions import Knowledge
from governance.classification.overrides import Overrides
from governance.classification.population import RANKED, find_rare_groups, rank_records
from governance.classification.staging import Staging, add_groups
from governance.declaration import load_declaration
from governance.policy import load_policy
from governance.source import SourceStream
from governance.storage import with_buckets
from r2u_tasks.stages.classify import classify_data

AS_OF = date(2026, 1, 1)

DECLARATION = """
name: bench
task: tabular
source: {path: rows.parquet, format: parquet}
columns:
  record_id: record_id
  subject_id: subject_id
  label: {name: label, classes: [0, 1]}
  features: [{name: age, kind: numeric}, {name: income, kind: numeric}]
  governance: [basis, country, consented_at, subject_type, tenant, zip, email]
deletion: {deletion_class: bench}
policy: policy.yaml
model: {factory: "a:b"}
"""

POLICY = """
policy: {name: bench, version: 1}
roles: {lawful_basis: basis, consent_at: consented_at, jurisdiction: country,
        subject_type: subject_type, tenant: tenant}
categories: {email: user.contact.email, country: user.contact.address.country}
required: [basis]
strata: [country, basis]
rules:
  - {id: minor, when: {column: age, less_than: 16}, set: high}
  - {id: patient, when: {subject_type: patient}, set: high}
  - {id: contract, when: {lawful_basis: contract}, add: -0.05}
  - {id: consent, when: {lawful_basis: consent}, add: 0.3}
  - {id: old-consent, when: {consent_age_days_gt: 730}, add: 0.1}
  - {id: eu, when: {jurisdiction: EU}, add: 0.1}
  - {id: leaver, when: {tenant: [t3, t7]}, add: 0.2}
  - {id: rich, when: {column: income, greater_than: 90000}, add_cost: 0.5}
  - {id: rare, when: {k_anonymity_lt: 5, quasi: [zip, age, country]}, add_cost: 1.0}
  - {id: contact, when: {category_under: [user.contact]}, add_cost: 0.2}
  - {id: no-mail, when: {column: email, missing: true}, add: -0.01}
"""

DETECTOR = "  - {id: mail, when: {column: email, detects: email}, add_cost: 0.1}\n"


def make_source(folder: Path, n: int) -> None:
    """Write a Parquet file of n rows and 12 mixed columns, its declaration and its policies."""
    statement = f"""
        COPY (SELECT 'rec-' || i AS record_id, 'p-' || (i // 3) AS subject_id,
               (i % 2)::INT AS label, (hash(i * 7) % 90)::DOUBLE AS age,
               (hash(i * 11) % 120000)::DOUBLE AS income,
               ['consent', 'contract', 'interest', ''][1 + (hash(i * 13) % 20 // 6)::INT] AS basis,
               ['DE', 'FR', 'US', 'BR', NULL][1 + (hash(i // 3) % 5)::INT] AS country,
               DATE '2023-01-01' + (hash(i * 17) % 1000)::INT AS consented_at,
               ['adult', 'adult', 'adult', 'patient'][1 + (hash(i // 3 + 5) % 4)::INT]
                   AS subject_type,
               't' || (hash(i // 3 + 9) % 40) AS tenant, 'z' || (hash(i // 3 + 1) % 997) AS zip,
               CASE WHEN hash(i) % 10 = 0 THEN NULL ELSE 'p' || (i // 3) || '@example.org' END
                   AS email
        FROM range({n}) r(i)) TO '{folder / "rows.parquet"}'
        (FORMAT parquet, ROW_GROUP_SIZE 100000)
        """  # noqa: S608
    duckdb.execute("SET memory_limit = '1GB'")
    duckdb.execute("SET preserve_insertion_order = false")
    duckdb.execute(statement)
    buckets = 8 if n <= 1_000_000 else 64  # 8 is the default of a declaration
    (folder / "bench.yaml").write_text(f"{DECLARATION}buckets: {buckets}\n", encoding="utf-8")
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    (folder / "detect.yaml").write_text(POLICY + DETECTOR, encoding="utf-8")


def stage_rows(folder: Path) -> dict[str, Any]:
    """Stream the source into its buckets, checked: what comes before the rules."""
    started = time.perf_counter()
    declaration = load_declaration(folder / "bench.yaml")
    staging = Staging(folder / "staging")
    source = SourceStream(declaration)
    parts = (with_buckets(part, "subject_id", declaration.buckets) for part in source)
    n = staging.write_rows(parts)
    return {"rows_per_s": n / (time.perf_counter() - started), "peak_mib": peak_mib()}


def apply_rules(folder: Path, policy_name: str) -> dict[str, Any]:
    """Decide about every staged row, and apply the budget."""
    declaration = load_declaration(folder / "bench.yaml")
    policy = load_policy(folder / policy_name, declaration)
    staging = Staging(folder / "staging")
    started = time.perf_counter()
    buckets = staging.buckets()
    rare = find_rare_groups(
        lambda names: (staging.rows(bucket, names) for bucket in buckets),
        policy,
        subject_id="subject_id",
    )
    knowledge = Knowledge(
        as_of=AS_OF, subject_id="subject_id", record_id="record_id", rare_groups=rare
    )
    found_groups: dict[str, Any] = {}
    columns = needed_columns(policy, declaration, Overrides())
    n = 0
    for bucket in buckets:
        rows = staging.rows(bucket, columns)
        found = classify_rows(rows, policy, knowledge=knowledge, overrides=Overrides())
        staging.write_decisions(bucket, found)
        for group in found.groups:
            found_groups[group.group] = add_groups(found_groups.get(group.group), group)
        n += rows.num_rows
    groups = list(found_groups.values())
    ranking = rank_records(
        groups,
        lambda: (staging.decisions(bucket, groups, RANKED) for bucket in buckets),
        n_records=n,
        share_max=policy.budget.revocable_share_max,
    )
    revocable = sum(
        int(ranking.revocable(staging.decisions(bucket, groups, RANKED)).sum())
        for bucket in buckets
    )
    seconds = time.perf_counter() - started
    limit = int(policy.budget.revocable_share_max * n)
    high = sum(g.n_records for g in groups if g.decision.level == "high")
    assert revocable == min(limit, high), (revocable, limit, high)
    return {"rows_per_s": n / seconds, "peak_mib": peak_mib(), "groups": len(groups)}


def whole_stage(folder: Path) -> dict[str, Any]:
    """Run ``r2u classify`` from the source to two published tables."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as root:
        result = classify_data(
            run_id="bench",
            dataset=str(folder / "bench.yaml"),
            root_uri=root,
            as_of=AS_OF.isoformat(),
        )
        seconds = time.perf_counter() - started
    n = result["classified"]["rows"]
    return {"rows_per_s": n / seconds, "peak_mib": peak_mib()}


def row_by_row(folder: Path) -> dict[str, Any]:
    """Apply the rules in a loop over rows, to at most 100,000 of them."""
    table = pq.read_table(folder / "rows.parquet").slice(0, 100_000)
    started = time.perf_counter()
    rows = table.to_pylist()
    subjects: dict[tuple[Any, ...], set[str]] = {}
    for r in rows:
        subjects.setdefault((r["zip"], r["age"], r["country"]), set()).add(r["subject_id"])
    decided = []
    for r in rows:
        basis = (r["basis"] or "").strip()
        p, cost, reasons = 0.05, 1.0, []
        for name, hit, add, add_cost in (
            ("contract", basis == "contract", -0.05, 0.0),
            ("consent", not basis or basis == "consent", 0.3, 0.0),
            ("old-consent", (AS_OF - r["consented_at"]).days > 730, 0.1, 0.0),
            ("eu", r["country"] in {None, "DE", "FR"}, 0.1, 0.0),
            ("leaver", r["tenant"] in {"t3", "t7"}, 0.2, 0.0),
            ("rich", r["income"] > 90_000, 0.0, 0.5),
            ("rare", len(subjects[r["zip"], r["age"], r["country"]]) < 5, 0.0, 1.0),
            ("contact", bool(r["email"] or r["country"]), 0.0, 0.2),
            ("no-mail", not r["email"], -0.01, 0.0),
        ):
            if hit:
                p, cost = p + add, cost + add_cost
                reasons.append(name)
        forced = r["age"] < 16 or r["subject_type"] == "patient" or not basis
        high = forced or p >= 0.4
        expected = (max(p, 0.5) if forced else p) * cost
        decided.append((r["record_id"], high, expected, json.dumps(reasons)))
    decided.sort(key=lambda d: (-d[1], -d[2], d[0]))
    seconds = time.perf_counter() - started
    return {"rows_per_s": len(rows) / seconds, "peak_mib": peak_mib()}


def measure(folder: Path, n: int, repeats: int) -> list[dict[str, Any]]:
    """Measure one size, each case in fresh processes."""
    results = []
    plan = {"staging": 1, "rules": repeats, "detect": 1, "row by row": repeats, "stage": 1}
    for what, times in plan.items():
        module = "benchmarks.classification"
        runs = [in_fresh_process(module, what, str(folder)) for _ in range(times)]
        case = f"{what}, {n:,} rows"
        base = None if what == "row by row" else f"row by row, {n:,} rows"
        results.append(row(case, "speed", [r["rows_per_s"] for r in runs], "rows/s", base))
        results.append(row(case, "peak memory", [r["peak_mib"] for r in runs], "MiB", base))
        if "groups" in runs[0]:
            results.append(row(case, "risk groups", [r["groups"] for r in runs], "groups"))
        speed = next(r for r in results if (r["case"], r["metric"]) == (case, "speed"))
        sys.stdout.write(f"{case}: {speed['value']:,.0f} rows/s, {runs[0]['peak_mib']:,.0f} MiB\n")
        sys.stdout.flush()
    return results


def main() -> None:
    """Measure every size, and write results and plot."""
    sizes = (10_000, 100_000) if is_small() else (10_000, 100_000, 1_000_000, 10_000_000)
    repeats = 2 if is_small() else 3
    results: list[dict[str, Any]] = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            make_source(Path(name), n)
            results += measure(Path(name), n, repeats)
    results += detection_rows("small" if is_small() else "full")
    write_results("classification", results)
    found = {(r["case"], r["metric"]): r["value"] for r in results}

    def draw(axes: Any) -> None:
        for what, style in (("rules", "-"), ("detect", "--"), ("stage", "-."), ("row by row", ":")):
            values = [found[f"{what}, {n:,} rows", "speed"] / 1e6 for n in sizes]
            axes.plot(sizes, values, style, marker="o", label=what)
        axes.axhline(1.0, color="#a3a3a3", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="million rows per second")
        axes.legend(frameon=False, fontsize=8)

    plot("classification", draw, title="Giving records a risk level (12 columns, 2 cores)")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        place = Path(sys.argv[2])
        run = {
            "staging": lambda: stage_rows(place),
            "rules": lambda: apply_rules(place, "policy.yaml"),
            "detect": lambda: apply_rules(place, "detect.yaml"),
            "row by row": lambda: row_by_row(place),
            "stage": lambda: whole_stage(place),
        }[sys.argv[1]]
        sys.stdout.write(json.dumps(run()) + "\n")
