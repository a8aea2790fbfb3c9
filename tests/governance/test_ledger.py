"""Laws of the ledger and its keys: one chain, whoever writes, whenever they are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from governance.errors import DigestMismatchError, PermanentError
from governance.key_files import load_or_make_key
from governance.ledger import GENESIS, Ledger, read_entries, verify_chain
from governance.signing import (
    HOOK_VARIABLE,
    KEY_VARIABLE,
    PRIVATE_NAME,
    PUBLIC_NAME,
    KeySigner,
    adopt_key,
    key_id,
    load_or_make_signing_key,
    make_next_key,
    open_signer,
)

WRITER = """
import sys
from pathlib import Path
from governance.key_files import load_or_make_key
from governance.ledger import Ledger
from governance.signing import load_or_make_signing_key
root, writer, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ledger = Ledger(root / "ledger.jsonl", load_or_make_signing_key(root / "keys"))
print("ready", flush=True)
for number in range(n):
    ledger.append("request_closed", {"writer": writer, "number": number})
    print(number, flush=True)
"""


class Book:
    """A ledger in a folder."""

    def __init__(self, root, n=0):
        self.root, self.path = root, root / "ledger.jsonl"
        self.key = load_or_make_signing_key(root / "keys")
        self.public = root / "keys" / PUBLIC_NAME
        self.ledger = Ledger(self.path, self.key)
        for number in range(n):
            self.ledger.append("request_closed", {"number": number})

    def check(self, **options):
        return verify_chain(self.path, options.pop("public", self.public), **options)

    def writer(self, name, n):
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, str(self.root), name, str(n)],
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path, 3)


def fresh():
    return KeySigner(Ed25519PrivateKey.generate())


def public_file(folder, signer, name="other.pem"):
    path = folder / name
    path.write_bytes(signer.public_pem)
    return path


def test_processes_make_one_chain(tmp_path):
    """Six processes, thirty entries each: none is lost, none stands twice, no gap."""
    book = Book(tmp_path)
    writers = [book.writer(f"w{number}", 30) for number in range(6)]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 6
    for writer in writers:
        writer.stdout.close()

    found = sorted((e["body"]["writer"], e["body"]["number"]) for e in read_entries(book.path))
    assert found == [(f"w{w}", n) for w in range(6) for n in range(30)]
    assert (True, 180) == (book.check().ok, book.check().n_entries)


def test_a_process_killed_while_it_writes_loses_nothing_that_was_told(tmp_path):
    """SIGKILL at eight moments: every entry that the writer reported is in an unbroken chain."""
    book = Book(tmp_path)
    told = []
    for attempt in range(8):
        writer = book.writer(f"w{attempt}", 10_000)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.01 + 0.013 * attempt)
        writer.send_signal(signal.SIGKILL)
        told += [(f"w{attempt}", int(line)) for line in writer.stdout.read().split()]
        writer.wait()
        writer.stdout.close()
    Ledger(book.path, book.key).append("request_closed", {"writer": "last", "number": 0})

    kept = {(e["body"]["writer"], e["body"]["number"]) for e in read_entries(book.path)}
    assert told
    assert set(told) <= kept
    assert len(kept) == len(read_entries(book.path)) <= len(told) + 9
    assert book.check().ok


@pytest.mark.parametrize("size", [1, 15, 4095, 70_000, 200_000])
def test_a_torn_line_of_any_length_is_set_aside(book, size):
    """What a crash leaves is kept apart, whole, and the next append is valid."""
    torn = (b'{"seq": 3, "at"' * (size // 15 + 1))[:size]
    with book.path.open("ab") as file:
        file.write(torn)
    assert (True, 3) == (book.check().ok, book.check().n_entries)
    book.ledger.append("batch_closed", {"batch_id": "b2"})

    assert (True, 4) == (book.check().ok, book.check().n_entries)
    assert torn + b"\n" == book.path.with_name("ledger.jsonl.torn").read_bytes()


def test_a_ledger_that_is_one_torn_line_begins_anew(tmp_path):
    """A crash in the very first append leaves no entry."""
    book = Book(tmp_path)
    book.path.write_bytes(b'{"at":')
    book.ledger.append("batch_closed", {})
    assert [0] == [entry["seq"] for entry in read_entries(book.path)]


@pytest.mark.parametrize("n_lost", [1, 2, 3])
def test_lines_cut_off_the_end_show_by_a_noted_head(book, n_lost):
    """The rest is a whole chain; only the head in MLflow or in a report tells."""
    noted = {"MLflow, batch b1": book.ledger.head(), "an empty ledger": GENESIS}
    lines = book.path.read_bytes().splitlines(keepends=True)
    assert book.check(noted_heads=noted).ok
    book.path.write_bytes(b"".join(lines[:-n_lost]))

    result = book.check(noted_heads=noted)
    assert book.check().ok
    assert (False, ("MLflow, batch b1",)) == (result.ok, result.lost_heads)
    book.path.unlink()
    assert not book.check(noted_heads=noted).ok


def test_a_ledger_is_not_written_on_under_another_key(book, tmp_path):
    """A key that nobody introduced is refused before it writes, and the message says what to do."""
    before = book.path.read_bytes()
    with pytest.raises(DigestMismatchError, match="keys rotate"):
        Ledger(book.path, fresh()).append("batch_closed", {})
    assert before == book.path.read_bytes()


def test_a_rotated_key_goes_on_and_either_key_leads_to_the_other(book, tmp_path):
    """Three keys in a row: the chain verifies by each of them, and by no other."""
    second, third = fresh(), fresh()
    book.ledger.rotate(second)
    book.ledger.append("batch_closed", {"batch_id": "b2"})
    book.ledger.rotate(third)
    book.ledger.append("batch_closed", {"batch_id": "b3"})

    for signer in (book.key, second, third):
        result = book.check(public=public_file(tmp_path, signer))
        assert (True, 7) == (result.ok, result.n_entries)
    assert "another key" in book.check(public=public_file(tmp_path, fresh())).problem
    for old in (book.key, second):
        with pytest.raises(DigestMismatchError, match="keys rotate"):
            Ledger(book.path, old).append("batch_closed", {})
    assert third.public_pem.decode() == read_entries(book.path)[5]["body"]["new_key"]


def test_rotating_twice_introduces_a_key_once(book):
    """A killed rotation is simply done again."""
    new = fresh()
    assert book.ledger.rotate(new) == Ledger(book.path, book.key).rotate(new)
    assert 4 == len(read_entries(book.path))


def test_a_key_that_did_not_agree_is_no_key(book, tmp_path):
    """An introduction without the new key's own signature proves nothing to who trusts the new."""
    victim = fresh()

    class Claimed:
        public_pem = victim.public_pem

        def sign(self, message):
            return fresh().sign(message)

    book.ledger.rotate(Claimed())
    assert "did not sign its introduction" in book.check().problem
    assert not book.check(public=public_file(tmp_path, victim)).ok


def test_the_file_key_is_rotated_in_steps_that_can_be_repeated(tmp_path):
    """Killed between any two steps, the same steps again finish; then the old key is gone."""
    book = Book(tmp_path, 1)
    keys = tmp_path / "keys"
    old = (keys / PRIVATE_NAME).read_bytes()
    new = make_next_key(keys)
    assert new.public_pem == make_next_key(keys).public_pem
    book.ledger.rotate(new)
    adopt_key(keys, new)
    adopt_key(keys, new)

    assert old != (keys / PRIVATE_NAME).read_bytes()
    assert new.public_pem == load_or_make_signing_key(keys).public_pem
    assert sorted(path.name for path in keys.iterdir()) == [PRIVATE_NAME, PUBLIC_NAME]
    Ledger(book.path, load_or_make_signing_key(keys)).append("batch_closed", {})
    assert book.check().ok


def test_a_key_comes_from_the_environment_or_a_key_service(tmp_path, monkeypatch):
    """Variable or hook instead of the file; no private key reaches the disk."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for number, environment in enumerate(
        ({KEY_VARIABLE: pem.decode()}, {HOOK_VARIABLE: "signers:service"})
    ):
        keys = tmp_path / str(number)
        keys.mkdir()
        signer = open_signer(keys, environment)
        Ledger(tmp_path / f"{number}.jsonl", signer).append("batch_closed", {})
        assert verify_chain(tmp_path / f"{number}.jsonl", keys / PUBLIC_NAME).ok
        assert [PUBLIC_NAME] == os.listdir(keys)
        assert key_id(signer.public_pem) == key_id((keys / PUBLIC_NAME).read_bytes())


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({HOOK_VARIABLE: "signers:service", KEY_VARIABLE: "x"}, "got both"),
        ({KEY_VARIABLE: "not a key"}, "unreadable"),
        ({HOOK_VARIABLE: "signers:mismatched"}, "InvalidSignature"),
        ({HOOK_VARIABLE: "signers:broken"}, "RuntimeError"),
        ({HOOK_VARIABLE: "signers:nothing"}, "AttributeError"),
        ({HOOK_VARIABLE: "signers:absent"}, "AttributeError"),
        ({HOOK_VARIABLE: "no_such_module:x"}, "ModuleNotFoundError"),
    ],
)
def test_a_key_source_that_does_not_work_is_refused_at_once(
    tmp_path, monkeypatch, environment, reason
):
    """A signer signs something before anything is made with it; no secret is in the message."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(PermanentError, match=reason) as error:
        open_signer(tmp_path, environment)
    assert "not a key" not in str(error.value)


def test_a_workspace_keeps_its_key(book, monkeypatch):
    """Another key than the published one is refused, whatever source it comes from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(PermanentError, match="keys rotate"):
        open_signer(book.root / "keys", {HOOK_VARIABLE: "signers:service"})


def test_keys_are_private_and_refused_when_they_are_not(tmp_path):
    """Mode 600, and an error for anything laxer."""
    load_or_make_key(tmp_path / "keys", "pseudonym.key")
    load_or_make_signing_key(tmp_path / "keys")
    for name, load in (
        ("pseudonym.key", lambda folder: load_or_make_key(folder, "pseudonym.key")),
        (PRIVATE_NAME, load_or_make_signing_key),
    ):
        path = tmp_path / "keys" / name
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        with pytest.raises(PermanentError, match="chmod 600"):
            load(tmp_path / "keys")


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b'{"seq":0}\n', b"\xff\n", b"\n", b"null\n"])
def test_a_line_that_is_no_entry_is_a_broken_chain(book, line):
    """Whatever is in the file, the check answers and does not raise."""
    book.path.write_bytes(book.path.read_bytes() + line)
    assert not book.check().ok


def test_an_entry_of_an_unknown_kind_is_refused(book):
    """A misspelt kind would be found by nobody."""
    with pytest.raises(ValueError, match="expected one of"):
        book.ledger.append("batch_close", {})
    assert 3 == len([json.loads(line) for line in book.path.read_bytes().splitlines()])
