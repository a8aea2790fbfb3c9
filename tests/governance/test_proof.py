"""Laws of manifest, ledger, certificate and verifier: every change shows."""

import json
import random
import shutil
import threading

import pytest

from governance.certificate import seal_bundle
from governance.digests import canonical_json, write_json
from governance.errors import PermanentError, ReleaseBlockedError
from governance.ledger import Ledger, read_entries, verify_chain
from governance.signing import PUBLIC_NAME, load_or_make_signing_key
from governance.suppression import load_or_make_key, pseudonym
from governance.verifier import main, verify_certificate

COUNTS = {
    "before": 10,
    "asked": 2,
    "erased": 2,
    "after": 8,
    "untouched_digest_before": "d",
    "untouched_digest_after": "d",
}


def evidence(**changes):
    content = {
        "verdict": "accept",
        "claim": "approximate",
        "lane": "approximate",
        "alpha": 0.05,
        "n_forget": 2,
        "conditions": [{"name": "shift", "p_value": 0.4, "adjusted_p": 0.4, "passed": True}],
        "controls": {
            "original_fails": True,
            "second_retrain_passes": True,
            "random_fails": True,
        },
        "lineage": {"weights_digest": "sha256:" + "ab" * 32},
    }
    return content | changes


def request(name, **changes):
    content = {
        "request_id": name,
        "outcome": "forgotten",
        "claim": "approximate",
        "lane": "approximate",
        "received_at": "2026-01-01",
        "due_at": "2026-02-01",
        "answered_at": "2026-01-02",
    }
    return content | changes


class Sealed:
    """A workspace with one sealed batch of two requests."""

    def __init__(self, root, requests=None, **changes):
        self.root = root
        self.batch = root / "batches" / "b1"
        self.key = load_or_make_signing_key(root / "keys")
        self.public = root / "keys" / PUBLIC_NAME
        self.ledger = Ledger(root / "ledger.jsonl", self.key)
        self.ledger.append("batch_planned", {"batch_id": "b1"})
        write_json(self.batch / "plan.json", {"requests": ["one", "two"]})
        write_json(self.batch / "erasure.json", {"tables": {"raw": COUNTS}})
        write_json(self.batch / "evidence.json", evidence(**changes))
        write_json(self.batch / "result-model.json", {"model_key": "m"})
        self.requests = requests or [request("one"), request("two")]
        self.seal()
        self.ledger.append("batch_closed", {"batch_id": "b1"})

    def seal(self):
        return seal_bundle(
            self.batch,
            self.requests,
            signing_key=self.key,
            ledger=self.ledger,
            ledger_path=self.root / "ledger.jsonl",
        )

    def certificate(self, name="one"):
        return self.batch / "certificates" / f"{name}.json"

    def verify(self, name="one"):
        return verify_certificate(self.certificate(name), public_key_path=self.public)


@pytest.fixture
def sealed(tmp_path):
    return Sealed(tmp_path)


def test_an_untouched_certificate_verifies(sealed):
    """All six checks hold for every request."""
    for name in ("one", "two"):
        result = sealed.verify(name)
        assert (True, None, 6) == (result.ok, result.problem, len(result.checks))


def test_every_flipped_byte_is_found(sealed):
    """Random bytes of every file of the proof: none goes unseen."""
    generator = random.Random(0)
    files = [
        sealed.certificate(),
        sealed.root / "ledger.jsonl",
        *(sealed.batch / name for name in ("bundle.json", "plan.json", "erasure.json")),
        sealed.batch / "evidence.json",
        sealed.batch / "result-model.json",
    ]
    missed = []
    for path in files:
        original = path.read_bytes()
        for _ in range(40):
            position = generator.randrange(len(original))
            changed = bytearray(original)
            changed[position] ^= 1 << generator.randrange(8)
            path.write_bytes(bytes(changed))
            if sealed.verify().ok:
                missed.append((path.name, position))
        path.write_bytes(original)
    assert missed == []
    assert sealed.verify().ok


def test_every_byte_of_the_bundle_index_counts(sealed):
    """Position by position: hex in capitals or another schema name is another file."""
    path = sealed.batch / "bundle.json"
    original = path.read_bytes()
    missed = []
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 0x20
        path.write_bytes(bytes(changed))
        if sealed.verify().ok:
            missed.append(position)
    path.write_bytes(original)
    assert missed == []


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: lines[:-2],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
    ],
    ids=["first removed", "sealing removed", "repeated", "reordered"],
)
def test_ledger_lines_cannot_be_moved(sealed, change):
    """Removed, repeated or reordered lines break the chain or lose the sealing entry."""
    path = sealed.root / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))

    assert not sealed.verify().ok


def test_a_certificate_of_another_request_is_found(sealed):
    """Swapping two certificates of one batch does not pass."""
    shutil.copy(sealed.certificate("two"), sealed.certificate("one"))
    assert "another request" in sealed.verify().problem


def test_another_key_is_found(sealed, tmp_path):
    """A certificate verifies under the key that signed it only."""
    load_or_make_signing_key(tmp_path / "other")
    result = verify_certificate(
        sealed.certificate(), public_key_path=tmp_path / "other" / PUBLIC_NAME
    )
    assert "another key" in result.problem


@pytest.mark.parametrize(
    ("evidence_change", "request_change", "reason"),
    [
        ({"verdict": "retrain"}, {}, "verdict"),
        ({}, {"outcome": "not_found"}, "outcome"),
        ({}, {"claim": "exact"}, "does not give claim"),
        ({}, {"lane": "replay", "claim": "exact"}, "differ from the evidence"),
        (
            {
                "controls": {
                    "original_fails": False,
                    "second_retrain_passes": True,
                    "random_fails": True,
                }
            },
            {},
            "void",
        ),
        ({"controls": {}}, {}, "void"),
    ],
)
def test_no_certificate_where_none_is_due(tmp_path, evidence_change, request_change, reason):
    """Verdict, outcome, claim and controls are each enough to refuse."""
    with pytest.raises(ReleaseBlockedError, match=reason):
        Sealed(tmp_path, [request("one", **request_change)], **evidence_change)


def test_sealing_again_gives_the_same_root(sealed):
    """A crash between sealing and answering repeats the step without a second ledger entry."""
    before = read_entries(sealed.root / "ledger.jsonl")
    sealed.seal()
    assert before == read_entries(sealed.root / "ledger.jsonl")
    assert sealed.verify().ok


def test_the_command_line_has_exit_codes(sealed, capsys):
    """0 holds, 1 failed with one line, 2 unreadable."""
    arguments = [str(sealed.certificate()), "--public-key", str(sealed.public)]
    assert main(arguments) == 0
    (sealed.batch / "plan.json").write_text("{}")
    assert main(arguments) == 1
    assert "plan.json was changed" in capsys.readouterr().out
    assert main([str(sealed.batch / "none.json"), "--public-key", str(sealed.public)]) == 2


def test_a_torn_line_is_set_aside_and_the_chain_goes_on(sealed):
    """What a crash leaves is kept apart, and the next append is valid."""
    path = sealed.root / "ledger.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq": 3, "at"')
    sealed.ledger.append("batch_closed", {"batch_id": "b2"})

    assert verify_chain(path, sealed.public).ok
    assert path.with_name("ledger.jsonl.torn").exists()


def test_concurrent_writers_make_one_chain(sealed):
    """Four writers, fifty entries each, no gap."""

    def write():
        ledger = Ledger(sealed.root / "ledger.jsonl", sealed.key)
        for _ in range(50):
            ledger.append("request_closed", {"request_id": "x"})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    result = verify_chain(sealed.root / "ledger.jsonl", sealed.public)
    assert (True, 203) == (result.ok, result.n_entries)


def test_keys_are_private_and_refused_when_they_are_not(tmp_path):
    """Mode 600, and an error for anything laxer."""
    key = load_or_make_key(tmp_path / "keys")
    assert key == load_or_make_key(tmp_path / "keys")
    path = tmp_path / "keys" / "pseudonym.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(PermanentError, match="chmod 600"):
        load_or_make_key(tmp_path / "keys")


def test_pseudonyms_depend_on_key_and_kind():
    """One id, two kinds, two keys: four pseudonyms."""
    made = {pseudonym(key, kind, "p-1") for key in (b"a" * 32, b"b" * 32) for kind in ("x", "y")}
    assert len(made) == 4


def test_canonical_json_is_one_form():
    """Key order and white space do not matter; NaN has no form."""
    assert canonical_json({"b": 1.0, "a": "ü"}) == '{"a":"ü","b":1.0}'.encode()
    assert json.loads(canonical_json({"a": [1]})) == {"a": [1]}
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
