"""The database guards itself: what goes around the code is refused on SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from governance.deletion_queue import TRANSITIONS, Closing, State, open_queue
from governance.deletion_queue import states as words

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = NOW.isoformat(timespec="microseconds")
REQUIRED = (
    "record_keys, key_id, target_key, datasets, dataset, risk, regime, regime_version, "
    "received_at, clock_start, due_at, paused_s"
)
REFUSED = (sa.exc.IntegrityError, sa.exc.InternalError)


@pytest.fixture
def database(queue):
    """Plain SQL on the queue's database, and one transaction for each statement."""

    def run(*statements, **values):
        with queue._database.engine.begin() as connection:
            if queue._database.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            for statement in statements:
                connection.execute(sa.text(statement), values)

    return run


def refuse(run, statement, match, **values):
    with pytest.raises(REFUSED, match=match):
        run(statement, **values)


def test_what_was_stored_cannot_be_changed_or_deleted(queue, database, ask):
    """Requests, events, answers, snapshots, reservations, pauses and leases keep their past."""
    queue.submit_many([ask("a"), ask("b"), ask("c")])
    batch = queue.lease_batch("run", lease_s=60, max_items=1, now=NOW)
    queue.close_many([Closing(request_id="a", outcome="not_found")], token=batch.token, now=NOW)
    queue.place_hold("b", "legal_claim", now=NOW)
    queue.release_hold("b", now=NOW)
    queue.pause("c", reason="identity", now=NOW)
    queue.resume("c", now=NOW + timedelta(days=1))

    for statement, match in (
        ("DELETE FROM requests", "never deleted"),
        ("DELETE FROM events", "append-only"),
        ("UPDATE events SET reason = 'x'", "append-only"),
        ("DELETE FROM answers", "append-only"),
        ("UPDATE answers SET outcome = 'forgotten'", "append-only"),
        ("DELETE FROM batch_items", "fixed"),
        ("UPDATE batch_items SET request_id = 'b'", "fixed"),
        ("DELETE FROM reservations", "append-only"),
        ("UPDATE reservations SET released_at = NULL", "only be released"),
        ("UPDATE reservations SET ground = 'authority_order'", "only be released"),
        ("DELETE FROM pauses", "append-only"),
        ("UPDATE pauses SET ended_at = NULL", "only be ended"),
        ("DELETE FROM leases", "never deleted"),
        ("UPDATE leases SET token = 0", "token"),
        ("UPDATE leases SET snapshot_digest = 'x'", "snapshot"),
        ("UPDATE leases SET run_key = 'x'", "token"),
        ("UPDATE requests SET closed_at = 'x' WHERE request_id = 'a'", "final"),
        ("UPDATE requests SET subject_key = 'x' WHERE request_id = 'b'", "fixed"),
        ("UPDATE requests SET received_at = 'x' WHERE request_id = 'b'", "fixed"),
        ("UPDATE requests SET datasets = '[]' WHERE request_id = 'b'", "fixed"),
        ("UPDATE requests SET live_target = NULL WHERE request_id = 'b'", "live_is_marked"),
        ("UPDATE requests SET risk = 2 WHERE request_id = 'b'", "(?i)check"),
    ):
        refuse(database, statement, match)


def test_postgresql_refuses_to_truncate(queue, database, ask):
    """The one way around row triggers."""
    if queue._database.is_sqlite:
        pytest.skip("SQLite has no TRUNCATE")
    queue.submit(ask("a"))
    for table in ("events", "requests", "answers", "leases"):
        refuse(database, f"TRUNCATE {table} CASCADE", "append-only")


def test_a_change_of_state_without_its_event_is_refused(queue, database, ask):
    """A legal step that leaves no trace is no legal step; neither is one with another's event."""
    queue.submit(ask("a"))
    change = "UPDATE requests SET state = 'held', hold_ground = 'legal_claim'"
    refuse(database, change, "needs its event")
    refuse(database, f"{change}, n_events = n_events + 1", "needs its event")
    event = (
        "INSERT INTO events (request_id, number, at, from_state, to_state) "
        f"VALUES ('a', 4, '{AT}', 'queued', '%s')"
    )
    with pytest.raises(REFUSED, match="needs its event"):
        database(event % "cancelled", f"{change}, n_events = n_events + 1")

    database(event % "held", f"{change}, n_events = n_events + 1")


def test_no_row_of_many_slips_through(queue, database, ask):
    """One bad row among good ones in a statement is enough, whichever it is."""
    queue.submit_many([ask(name) for name in "abc"])
    event = (
        "INSERT INTO events (request_id, number, at, from_state, to_state) "
        f"VALUES ('%s', 4, '{AT}', 'queued', 'held')"
    )
    change = "UPDATE requests SET state = 'held', hold_ground = 'legal_claim', n_events = 4"
    for missing in "abc":
        events = [event % name for name in "abc" if name != missing]
        with pytest.raises(REFUSED, match="needs its event"):
            database(*events, change)

    database(*(event % name for name in "abc"), change)
    rename = "UPDATE requests SET request_id = request_id || 'x' WHERE request_id = 'b'"
    refuse(database, rename, "fixed|FOREIGN")


def test_a_batch_needs_its_lease(queue, database, ask):
    """A request in a batch that nobody holds would never be given back."""
    queue.submit(ask("a"))
    event = (
        "INSERT INTO events (request_id, number, at, from_state, to_state) "
        f"VALUES ('a', 4, '{AT}', 'queued', 'leased')"
    )
    change = "UPDATE requests SET state = 'leased', n_events = 4, batch_id = 'nobody'"
    with pytest.raises(REFUSED, match=r"lease|FOREIGN KEY"):
        database(event, change)


def test_two_open_verified_requests_for_one_target_are_refused(queue, database, ask):
    """The unique index is the last defence against two workers on one erasure."""
    queue.submit_many([ask("a"), ask("b")])
    target = "UPDATE requests SET live_target = (SELECT live_target FROM requests "
    refuse(database, f"{target} WHERE request_id = 'a') WHERE request_id = 'b'", "(?i)unique")


def test_events_of_one_request_are_numbered_once(queue, database, ask):
    """The second writer of a step fails."""
    queue.submit(ask("a"))
    event = "INSERT INTO events (request_id, number, at, from_state, to_state) VALUES "
    refuse(database, f"{event} ('a', 3, '{AT}', 'queued', 'held')", "(?i)unique")
    refuse(database, f"{event} ('a', 4, '{AT}', NULL, 'held')", "first_comes|CHECK")
    refuse(database, f"{event} ('a', 4, '{AT}', 'queued', 'lost')", "(?i)check")


def columns_of(state):
    """The columns that a state demands, so that only the transition itself is in question."""
    live = state in words.LIVE
    needs_batch = state in {*words.IN_BATCH, State.NEEDS_PERSON}
    return {
        "state": state.value,
        "outcome": "rejected" if state in {"closed", "cancelled", "rejected", "exempt"} else None,
        "closed_at": AT if state == "closed" else None,
        "duplicate_of": "primary" if state == "duplicate" else None,
        "hold_ground": "legal_claim" if state == "held" else None,
        "batch_id": "b0" if needs_batch else None,
        "erasure_at": AT if state in words.AFTER_ERASURE else None,
        "not_before": AT if state == "retry_wait" else None,
        "live_target": f"t-{state.value}" if live else None,
    }


def test_exactly_the_transitions_of_the_code_happen_in_the_database(queue_url, ask):
    """All 20 x 20 pairs by plain SQL, each with its event: allowed if and only if in the table."""
    queue = open_queue(queue_url)
    queue.submit(ask("primary", subject_key="p"))
    sqlite = queue._database.is_sqlite
    columns = list(columns_of(State.QUEUED))
    allowed = set()
    with queue._database.engine.connect() as connection:
        # The door is opened for this transaction only, to put a request into each state.
        connection.execute(sa.text("BEGIN")) if sqlite else None
        door = "guard_requests_insert_0" if sqlite else "guard_requests_insert ON requests"
        connection.execute(sa.text(f"DROP TRIGGER {door}"))
        lease = "('b0', 'r', 'r', 'default', 1, 'x', 0, 0, 'x')"
        connection.execute(sa.text(f"INSERT INTO leases VALUES {lease}"))
        values = ", ".join(f":{name}" for name in columns)
        insert = sa.text(
            f"INSERT INTO requests (request_id, n_events, {REQUIRED}, {', '.join(columns)}) "
            f"VALUES (:id, 1, '[]', '', 't', '[]', 'd', 1, 'gdpr', 1, 'x', 'x', 'x', 0, {values})"
        )
        event = sa.text(
            "INSERT INTO events (request_id, number, at, from_state, to_state) "
            "VALUES (:id, 2, 'x', :old, :new)"
        )
        update = sa.text(
            f"UPDATE requests SET n_events = 2, {', '.join(f'{n} = :{n}' for n in columns)} "
            "WHERE request_id = :id"
        )
        for old in State:
            for new in State:
                name = f"{old}-{new}"
                connection.execute(sa.text("SAVEPOINT pair"))
                connection.execute(insert, {"id": name, **columns_of(old)})
                connection.execute(event, {"id": name, "old": old.value, "new": new.value})
                try:
                    if old != new:
                        connection.execute(update, {"id": name, **columns_of(new)})
                        allowed.add((old, new))
                except REFUSED:
                    pass
                connection.execute(sa.text("ROLLBACK TO SAVEPOINT pair"))
        connection.execute(sa.text("ROLLBACK"))
    queue.dispose()

    assert allowed == set(TRANSITIONS)


def test_a_request_enters_by_the_door(queue_url, ask):
    """Nobody inserts a request that is approved already."""
    queue = open_queue(queue_url)
    queue.submit(ask("a"))
    copied = (
        f"INSERT INTO requests (request_id, state, n_events, {REQUIRED}, outcome, closed_at) "
        f"SELECT 'b', 'closed', 1, {REQUIRED}, 'forgotten', due_at FROM requests"
    )
    with (
        pytest.raises(REFUSED, match="door"),
        queue._database.engine.begin() as connection,
    ):
        connection.execute(sa.text(copied))
    queue.dispose()


def test_the_columns_hold_pseudonyms_and_words_only(queue):
    """No column has room for a name, an e-mail address or a free text about a person's identity.

    ``reason`` and ``details`` are words of the staff; the doors say that no personal data go there.
    """
    columns = {
        column["name"] for column in sa.inspect(queue._database.engine).get_columns("requests")
    }

    words = """
        request_id state n_events outcome claim subject_key record_keys selector key_id earlier
        target_key live_target datasets dataset risk regime regime_version ground received_at
        clock_start due_at extended_at paused_since paused_s closed_at hold_ground duplicate_of
        batch_id erasure_at not_before
    """
    assert columns == set(words.split())


def test_an_unsound_queue_is_found_out(queue_url, ask):
    """The positive control of ``find_problems``: a forged event is named."""
    queue = open_queue(queue_url)
    queue.submit(ask("a"))
    with queue._database.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO events (request_id, number, at, from_state, to_state) "
                f"VALUES ('a', 4, '{AT}', 'queued', 'propagated')"
            )
        )

    assert queue.find_problems() == [
        "1 requests with a gap in their events, or one too many",
        "1 events of a transition that may not happen",
    ]
    queue.dispose()
