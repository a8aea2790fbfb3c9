"""The deletion queue: requests, states, events, holds, leases. The only importer of SQLAlchemy.

Rules enforced here, in code and by the database (SQLite and PostgreSQL alike):

* a request is durable before ``submit`` returns;
* only the transitions of ``TRANSITIONS`` happen, each with its event; nothing leaves ``closed``;
* events, answers and snapshots are only ever added; requests are never deleted, and what they ask
  for is fixed;
* one open verified request for a target: another is its duplicate and closes with it; an
  unverified one is never leased and never makes a verified one a duplicate;
* a batch is leased to one run; an old token, or one of a returned lease, cannot write any more;
* a hold or a cancellation counts until ``data_erased``, which is written before the first row is
  destroyed; after it, it is noted and answered;
* what a hold or an exemption keeps, no other request erases: the erasure of a batch does not begin
  while there is a newer one than its plan was compared with;
* no personal data: subjects and records are pseudonyms, with the name of their key.

A request may concern several datasets. It passes through a batch once for each, holds and
exemptions apply per dataset, and its outcome is ``partial`` when the datasets ended differently.
"""

from __future__ import annotations

from governance.deletion_queue.database import REVISION as SCHEMA_REVISION
from governance.deletion_queue.queue import DeletionQueue, open_queue
from governance.deletion_queue.records import (
    Answer,
    Closing,
    Event,
    Keeping,
    KeptTarget,
    Lease,
    LeaseRow,
    Pause,
    Pseudonyms,
    Receipt,
    RequestRow,
    Reservation,
    SubmittedRequest,
)
from governance.deletion_queue.states import (
    AFTER_ERASURE,
    BEFORE_ERASURE,
    IN_BATCH,
    TRANSITIONS,
    ClockState,
    ErasureGround,
    ExemptionGround,
    HoldGround,
    Outcome,
    State,
)

__all__ = [
    "AFTER_ERASURE",
    "BEFORE_ERASURE",
    "IN_BATCH",
    "SCHEMA_REVISION",
    "TRANSITIONS",
    "Answer",
    "ClockState",
    "Closing",
    "DeletionQueue",
    "ErasureGround",
    "Event",
    "ExemptionGround",
    "HoldGround",
    "Keeping",
    "KeptTarget",
    "Lease",
    "LeaseRow",
    "Outcome",
    "Pause",
    "Pseudonyms",
    "Receipt",
    "RequestRow",
    "Reservation",
    "State",
    "SubmittedRequest",
    "open_queue",
]
