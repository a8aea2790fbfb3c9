"""Classification of one table in memory: the same steps as in streams, with one bucket."""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from governance.classification import TIE, assign_split, classify_rows
from governance.classification.conditions import Knowledge
from governance.classification.overrides import Overrides
from governance.classification.population import find_looks, find_rare_groups, rank_records
from governance.declaration import Declaration
from governance.policy import Policy

_NOBODY = Overrides()


def classify_records(
    table: pa.Table,
    policy: Policy,
    *,
    declaration: Declaration,
    as_of: date,
    overrides: Overrides = _NOBODY,
    pseudonym_key: bytes = b"",
) -> pa.Table:
    """Return the table with decision columns, budget, slice order and split.

    Args:
        table: Declared columns and ``bucket``.
        policy: Risk policy.
        declaration: Roles of the columns.
        as_of: Day on which ages are measured; an argument, so that a rerun gives the same.
        overrides: What persons decided.
        pseudonym_key: Key of the pseudonyms in overrides.
    """
    columns = declaration.columns
    rare = find_rare_groups(
        lambda names: [table.select(list(names))], policy, subject_id=columns.subject_id
    )
    looks = find_looks(
        lambda names: [table.select(list(names))], policy, columns=declaration.columns.all_names
    )
    knowledge = Knowledge(
        as_of=as_of,
        subject_id=columns.subject_id,
        record_id=columns.record_id,
        pseudonym_keys=(pseudonym_key,),
        rare_groups=rare,
        looks=looks,
    )
    found = classify_rows(table, policy, knowledge=knowledge, overrides=overrides)
    decisions = found.table()
    ranking = rank_records(
        found.groups,
        lambda: [decisions],
        n_records=table.num_rows,
        share_max=policy.budget.revocable_share_max,
    )
    decided = ranking.apply(decisions)
    decided = decided.append_column("split", assign_split(table, declaration))
    for name in decided.column_names:
        if name != TIE:
            table = table.append_column(name, decided[name])
    return table
