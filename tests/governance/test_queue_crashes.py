"""Small versions of the crash and drain studies (``make study-queue-crash``, ``-drain``)."""

from benchmarks.queue_crash import control, crash
from benchmarks.queue_drain import drain


def test_kills_at_random_points_lose_double_and_stick_nothing(queue_url):
    """What was acknowledged is there, once, and comes to its end after the leases ran out."""
    crashes = crash(queue_url, repeats=10, seed=7)

    assert sum(crashes.killed_in.values()) == 10
    assert (0, 0, 0, []) == (crashes.lost, crashes.doubled, crashes.stuck, crashes.problems)


def test_the_count_of_losses_sees_a_loss(queue_url):
    """Positive control: three requests that were acknowledged and are not there."""
    assert control(queue_url) == 3


def test_workers_at_once_handle_each_request_exactly_once(queue_url):
    """Four processes, 600 requests in batches of 20."""
    done = drain(queue_url, n=600, workers=4, batch=20)

    assert (0, 0, 0, 0) == (
        done.missing,
        done.handled_twice,
        done.doubled_events,
        done.problems,
    )
    assert done.workers_that_worked == 4
