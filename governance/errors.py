"""The whole error tree, in families by what a caller can do about it.

    R2UError
    ├── PermanentError               retrying cannot help: the task fails at once, exit code 2
    │   ├── DeclarationError         a dataset declaration is wrong (all problems at once)
    │   ├── PolicyError              a risk policy is wrong (all problems at once)
    │   ├── DataError                a table or file does not hold what was declared
    │   ├── ValidationFailedError    a validation gate failed
    │   ├── RequestError             a deletion request or its transition is not allowed
    │   ├── DigestMismatchError      bytes are not the bytes that were committed to
    │   ├── UnlearningError          an unlearning method changed nothing, diverged or collapsed
    │   └── ReleaseBlockedError      the evidence does not allow a release
    └── TransientError               the same call may succeed later: the task is retried
        ├── StoreBusyError
        └── TrackingUnavailableError

Messages say what was expected, what came and what to do. They hold ids of runs, columns, counts
and digests, never a value of a person's record.
"""

from __future__ import annotations

from collections.abc import Sequence


class R2UError(Exception):
    """Something this project expects to go wrong went wrong."""


class PermanentError(R2UError):
    """Retrying cannot help."""


class TransientError(R2UError):
    """The same call may succeed later."""


class ProblemsError(PermanentError):
    """Several problems found in one pass; each has the path to the place it is about."""

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        """Join the problems into one message.

        Args:
            what: The thing that was checked, for example ``dataset declaration people.yaml``.
            problems: One line each: ``path: expected ..., got ...``.
        """
        self.what = what
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        noun = "problem" if len(self.problems) == 1 else "problems"
        super().__init__(f"{what}: {len(self.problems)} {noun}\n{lines}")


class DeclarationError(ProblemsError):
    """A dataset declaration is wrong."""


class PolicyError(ProblemsError):
    """A risk policy is wrong."""


class DataError(PermanentError):
    """A table or file does not hold what was declared."""


class ValidationFailedError(ProblemsError):
    """A validation gate failed; at most ten expectations are listed."""


class RequestError(PermanentError):
    """A deletion request, or a transition of one, is not allowed."""


class DigestMismatchError(PermanentError):
    """Bytes are not the bytes that were committed to."""


class UnlearningError(PermanentError):
    """An unlearning method changed nothing, diverged or collapsed."""


class ReleaseBlockedError(PermanentError):
    """The evidence does not allow a release."""


class StoreBusyError(TransientError):
    """Another writer holds the table or the database."""


class TrackingUnavailableError(TransientError):
    """MLflow could not be reached; ledger and evidence are written, the mirror is owed."""
