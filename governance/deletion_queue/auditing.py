"""Does the queue still make sense? What no single constraint can say, asked of all rows at once."""

from __future__ import annotations

import sqlalchemy as sa

from governance.deletion_queue.database import Database
from governance.deletion_queue.states import (
    AFTER_ERASURE,
    BEFORE_ERASURE,
    IN_BATCH,
    LIVE,
    TRANSITIONS,
    State,
)


def _words(states: tuple[State, ...]) -> str:
    return ", ".join(f"'{state.value}'" for state in states)


_BEFORE_MIGRATIONS = (
    "unverified>queued unverified>held unverified>duplicate unverified>closed "
    "queued>duplicate queued>closed held>closed"
)
"""Steps that the first revision took at once, in histories that were upgraded."""

_PAIRS = ", ".join(
    [f"'{old.value}>{new.value}'" for old, new in sorted(TRANSITIONS)]
    + [f"'{pair}'" for pair in _BEFORE_MIGRATIONS.split()]
)
_QUESTIONS = {
    "requests whose events do not end at their state": """
        SELECT count(*) FROM requests r LEFT JOIN events e
        ON e.request_id = r.request_id AND e.number = r.n_events
        WHERE e.to_state IS NULL OR e.to_state <> r.state
    """,
    "requests with a gap in their events, or one too many": """
        SELECT count(*) FROM (
            SELECT r.request_id FROM requests r JOIN events e ON e.request_id = r.request_id
            GROUP BY r.request_id, r.n_events
            HAVING count(*) <> r.n_events OR max(e.number) <> r.n_events) AS gaps
    """,
    "events that do not begin where the one before ended": """
        SELECT count(*) FROM events e JOIN events b
        ON b.request_id = e.request_id AND b.number = e.number - 1
        WHERE e.from_state <> b.to_state
    """,
    "events of a transition that may not happen": f"""
        SELECT count(*) FROM events WHERE from_state IS NOT NULL AND from_state <> to_state
        AND from_state || '>' || to_state NOT IN ({_PAIRS})
    """,
    "duplicates that wait for a request that is over": f"""
        SELECT count(*) FROM requests c JOIN requests p ON p.request_id = c.duplicate_of
        WHERE c.state = 'duplicate' AND p.state NOT IN
        ({_words((*LIVE, *AFTER_ERASURE, State.NEEDS_PERSON))})
    """,
    "requests in a batch that nobody holds": f"""
        SELECT count(*) FROM requests r JOIN leases l ON l.batch_id = r.batch_id
        WHERE r.state IN ({_words(BEFORE_ERASURE)}) AND l.returned = 1
    """,
    "requests in a batch of which they were never part": f"""
        SELECT count(*) FROM requests r LEFT JOIN batch_items i
        ON i.batch_id = r.batch_id AND i.request_id = r.request_id
        WHERE r.state IN ({_words(IN_BATCH)}) AND i.request_id IS NULL
    """,
    "closed requests with an erasure but without an answer": """
        SELECT count(*) FROM requests r LEFT JOIN answers a ON a.request_id = r.request_id
        WHERE r.state = 'closed' AND a.request_id IS NULL AND r.outcome IN
        ('forgotten', 'not_found', 'already_forgotten', 'partial')
    """,
}


def find_problems(database: Database) -> list[str]:
    """Return what does not fit together, as counts; an empty list is a sound queue."""
    problems = []
    with database.read() as connection:
        for what, question in _QUESTIONS.items():
            n = connection.execute(sa.text(question)).scalar_one()
            if n:
                problems.append(f"{n} {what}")
    return problems
