"""Laws of the ring of pseudonym keys: where keys lie, what is refused, and kills in a rotation."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from governance.errors import PermanentError, StoreBusyError
from governance.key_files import key_name
from governance.key_ring import (
    CURRENT_NAME,
    HOOK_VARIABLE,
    KEYS_VARIABLE,
    NEXT_NAME,
    RECORD_NAME,
    KeyRing,
    open_ring,
    read_record,
    ring_locked,
)
from governance.key_rotation import (
    begin_rotation,
    commit_drop,
    commit_rotation,
    tidy_files,
    unfinished_rotation,
)

FIRST, SECOND, THIRD = (bytes([n]) * 32 for n in (1, 2, 3))


def rotate(folder, environment=None):
    environment = environment or {}
    rotation = begin_rotation(folder, environment)
    commit_rotation(folder, rotation, environment)
    tidy_files(folder, environment)
    return rotation


def given(*keys):
    return {KEYS_VARIABLE: ",".join(key.hex() for key in keys)}


def test_the_first_key_is_made_once_and_named(tmp_path):
    """Mode 600; a second opening has the same; the id is no part of the key."""
    ring = open_ring(tmp_path / "keys", {})

    assert ring == open_ring(tmp_path / "keys", {})
    assert 1 == len(ring.keys)
    assert (tmp_path / "keys" / CURRENT_NAME).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / RECORD_NAME).stat().st_mode & 0o777 == 0o600
    assert ring.ids[0] not in ring.keys[0].hex()


def test_a_key_from_before_rings_is_the_current_one_of_a_ring(tmp_path):
    """A workspace of an older version keeps its pseudonyms."""
    (tmp_path / CURRENT_NAME).write_bytes(FIRST)
    (tmp_path / CURRENT_NAME).chmod(0o600)
    ring = open_ring(tmp_path, {}, in_use=True)

    assert (FIRST,) == ring.keys
    assert FIRST == ring.named(None, "data") == ring.named("", "data")


def test_a_rotation_keeps_the_former_keys_in_order(tmp_path):
    """Newest first; data without a name stay those of the first key."""
    first = open_ring(tmp_path, {})
    rotate(tmp_path)
    second = open_ring(tmp_path, {})
    rotate(tmp_path)
    third = open_ring(tmp_path, {})

    assert second.keys[1:] == first.keys
    assert third.keys[1:] == second.keys
    assert third.current == (tmp_path / CURRENT_NAME).read_bytes()
    assert third.named(None, "data") == first.current
    assert not unfinished_rotation(tmp_path)
    for path in tmp_path.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_dropped_key_is_deleted_and_does_not_come_back(tmp_path):
    """Neither as a file, nor as the next key of a source."""
    old = open_ring(tmp_path, {})
    rotate(tmp_path)
    for _ in range(2):
        commit_drop(tmp_path, old.ids[0])
        tidy_files(tmp_path, {})

    assert 1 == len(open_ring(tmp_path, {}).keys)
    assert old.current not in [path.read_bytes() for path in tmp_path.glob("*.key")]
    with pytest.raises(PermanentError, match="never used"):
        begin_rotation(tmp_path, given(old.current, *open_ring(tmp_path, {}).keys))
    with pytest.raises(PermanentError, match=old.ids[0]):
        open_ring(tmp_path, {}).named(None, "data")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    """Each key of the ring, not only the current one."""
    open_ring(tmp_path, {})
    rotate(tmp_path)
    for path in sorted(tmp_path.glob("*.key")):
        path.chmod(mode)
        with pytest.raises(PermanentError, match="chmod 600"):
            open_ring(tmp_path, {})
        path.chmod(0o600)


def test_a_lost_key_is_not_made_anew(tmp_path):
    """Of a ring, or of a workspace that has pseudonyms: else everybody erased could come back."""
    ring = open_ring(tmp_path / "a", {})
    (tmp_path / "a" / CURRENT_NAME).unlink()
    with pytest.raises(PermanentError, match=f"got no {ring.ids[0]}"):
        open_ring(tmp_path / "a", {})
    with pytest.raises(PermanentError, match="restore it from the backup"):
        open_ring(tmp_path / "b", {}, in_use=True)
    assert not list(tmp_path.rglob("*.key"))


def test_a_lost_record_is_not_guessed(tmp_path):
    """With two key files nobody knows which one is the current."""
    open_ring(tmp_path, {})
    rotate(tmp_path)
    (tmp_path / RECORD_NAME).unlink()
    with pytest.raises(PermanentError, match=RECORD_NAME):
        open_ring(tmp_path, {})


def test_two_machines_with_different_rings(tmp_path):
    """The next key is ignored until the rotation; who has not got it then is refused."""
    open_ring(tmp_path, given(FIRST))
    ready = open_ring(tmp_path, given(SECOND, FIRST))
    rotate(tmp_path, given(SECOND, FIRST))

    assert (FIRST,) == ready.keys
    assert (SECOND, FIRST) == open_ring(tmp_path, given(FIRST, THIRD, SECOND)).keys
    for keys in ((FIRST,), (SECOND,), (THIRD, FIRST)):
        with pytest.raises(PermanentError, match="the ring of the others") as refused:
            open_ring(tmp_path, given(*keys))
        assert not any(key.hex() in str(refused.value) for key in (FIRST, SECOND, THIRD))
    with pytest.raises(PermanentError, match="got the current key"):
        begin_rotation(tmp_path, given(SECOND, FIRST))


def test_a_source_without_the_key_of_the_workspace_is_refused(tmp_path):
    """Changing from a file to a variable is a move of the key, not another key."""
    ring = open_ring(tmp_path, {})
    with pytest.raises(PermanentError, match="the ring of the others"):
        open_ring(tmp_path, given(FIRST))
    assert ring == open_ring(tmp_path, given(*ring.keys))


@pytest.mark.parametrize("text", ["x", "00", FIRST.hex() + "0", f"{FIRST.hex()} secret"])
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path, text):
    """In a variable; nothing is written."""
    with pytest.raises(PermanentError, match=KEYS_VARIABLE) as refused:
        open_ring(tmp_path, {KEYS_VARIABLE: text})
    assert FIRST.hex() not in str(refused.value)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / RECORD_NAME).exists()


def ring_hook():
    """A hook of a user."""
    return [FIRST]


def broken_hook():
    raise RuntimeError(FIRST.hex())


def short_hook():
    return [FIRST[:-1]]


def number_hook():
    """As if a key were a number: ``bytes(32)`` would be a key that everybody knows."""
    return (32,)


def test_a_hook_gives_the_keys(tmp_path, monkeypatch):
    """And its own mistakes are told by their type, without a word of it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    name = Path(__file__).stem
    assert (FIRST,) == open_ring(tmp_path / "a", {HOOK_VARIABLE: f"{name}:ring_hook"}).keys
    for hook in ("broken_hook", "short_hook", "number_hook", "none"):
        with pytest.raises(PermanentError, match=hook) as refused:
            open_ring(tmp_path / "b", {HOOK_VARIABLE: f"{name}:{hook}"})
        assert FIRST.hex() not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(PermanentError, match="got both"):
        open_ring(tmp_path / "b", {HOOK_VARIABLE: f"{name}:ring_hook", **given(FIRST)})


def test_a_ring_shows_ids_only():
    """A log that holds its text holds no key."""
    ring = KeyRing.of(FIRST, SECOND)
    assert f"KeyRing({key_name(FIRST)}, {key_name(SECOND)})" == repr(ring) == str(ring)


def test_two_rotations_at_once_do_not_mix(tmp_path):
    """The second is told to try again."""
    with ring_locked(tmp_path), pytest.raises(StoreBusyError), ring_locked(tmp_path, wait=False):
        pass


_KILLED = """
import os, signal, sys
from pathlib import Path
from governance.key_rotation import *

folder, left, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def counted(work):
    def call(*arguments, **more):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return work(*arguments, **more)
    return call


for name in ("open", "link", "replace", "unlink", "fsync", "chmod"):
    setattr(os, name, counted(getattr(os, name)))
Path.unlink = counted(Path.unlink)
if what == "rotate":
    rotation = begin_rotation(folder, {})
    commit_rotation(folder, rotation, {})
else:
    commit_drop(folder, what)
tidy_files(folder, {})
print("done")
"""


@pytest.mark.parametrize("what", ["rotate", "drop"])
def test_a_kill_at_any_point_leaves_a_ring_that_the_same_call_completes(tmp_path, repository, what):
    """SIGKILL before each write in turn: always a whole ring, and one new key in the end."""
    kills = 0
    for left in range(100):
        folder = tmp_path / str(left)
        before = open_ring(folder, {})
        if what == "drop":
            rotate(folder)
            before = open_ring(folder, {})
        command = [sys.executable, "-c", _KILLED, str(folder), str(left)]
        command.append("rotate" if what == "rotate" else before.ids[1])
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert -9 == done.returncode, done.stderr
        kills += 1
        after = open_ring(folder, {})  # whole, whatever was killed
        assert set(before.keys) <= set(after.keys) or what == "drop"
        if what == "rotate":
            if unfinished_rotation(folder) or after == before:
                rotate(folder)
            ended = open_ring(folder, {})
            assert ended.keys[1:] == before.keys
        else:
            commit_drop(folder, before.ids[1])
            tidy_files(folder, {})
            ended = open_ring(folder, {})
            assert ended.keys == before.keys[:1]
            assert before.keys[1] not in [path.read_bytes() for path in folder.glob("*.key")]
        assert not (folder / NEXT_NAME).exists()
        assert ended.current == (folder / CURRENT_NAME).read_bytes()
        assert read_record(folder).ids == ended.ids
    assert "done\n" == done.stdout
    assert kills >= (10 if what == "rotate" else 5)
