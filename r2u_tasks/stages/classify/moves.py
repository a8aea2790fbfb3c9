"""Which records change their level, against the table that is published now."""

from __future__ import annotations

from pathlib import Path

from governance.classification import RiskGroup
from governance.classification.staging import Staging
from governance.declaration import Declaration
from governance.storage import query, read_table, table_exists
from r2u_tasks.stages.context import JSON


def count_moves(
    staging: Staging, groups: list[RiskGroup], classified: Path, declaration: Declaration
) -> JSON | None:
    """Count the records that change their level, by the rules that decide now."""
    if not table_exists(classified):
        return None
    column = declaration.columns.record_id
    totals: dict[tuple[str, str, str], int] = {}
    for bucket in staging.buckets():
        now = staging.decisions(bucket, groups, ("risk_level", "deciding_rules"))
        now = now.append_column("id", staging.rows(bucket, (column,))[column])
        before = read_table(classified, columns=[column, "risk_level"], bucket=bucket)
        found = query(
            f"""
            SELECT b.risk_level AS old, n.risk_level AS new,
                   array_to_string(n.deciding_rules, ' ') AS rules, count(*) AS n
            FROM n JOIN b ON n.id = b."{column}" WHERE n.risk_level <> b.risk_level GROUP BY ALL
            """,  # noqa: S608 - a declared column
            n=now,
            b=before,
        )
        for row in found.to_pylist():
            key = (row["old"], row["new"], row["rules"])
            totals[key] = totals.get(key, 0) + row["n"]
    moved: JSON = {"low_to_high": 0, "high_to_low": 0, "by_rules": {}}
    for (old, new, rules), count in sorted(totals.items()):
        moved[f"{old}_to_{new}"] += count
        moved["by_rules"][f"{old} to {new}: {rules}"] = count
    return moved
