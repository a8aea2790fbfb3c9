"""Laws of certificate and verifier: every change shows, and nothing else is certified."""

import base64
import json
import random
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.certificate import seal_bundle
from governance.digests import canonical_json, digest_file, digest_json, write_json
from governance.errors import ReleaseBlockedError
from governance.ledger import Ledger, read_entries
from governance.signing import PUBLIC_NAME, KeySigner, load_or_make_signing_key
from governance.suppression import pseudonym
from governance.verifier import (
    POOL_CONDITIONS,
    SINGLE_CONDITIONS,
    holm,
    main,
    verify_certificate,
)

COUNTS = {
    "before": 10,
    "asked": 2,
    "erased": 2,
    "after": 8,
    "untouched_digest_before": "d",
    "untouched_digest_after": "d",
}
WEIGHTS = "sha256:" + "ab" * 32
PARENT = "sha256:" + "cd" * 32
CONTROLS = {"original_fails": True, "second_retrain_passes": True, "random_fails": True}
NUMBERS = {
    "error_level": 0.05,
    "power_level": 0.05 * 0.01,
    "original_adjusted_p": 0.0001,
    "original_pool_p": 0.0002,
    "half_adjusted_p": 0.0003,
    "second_retrain_rejected": 0,
    "second_retrain_models": 6,
    "random_adjusted_p": 0.0,
}
DIFFERENCE = {"parent": 9, "asked": 2, "child": 7, "asked_left": 0, "added": 0, "missing": 0}


def conditions(p_values, alpha=0.05):
    """Return conditions as the forgetting test writes them."""
    names = [*SINGLE_CONDITIONS, *POOL_CONDITIONS][: len(p_values)]
    return [
        {"name": n, "p_value": p, "adjusted_p": q, "passed": q > alpha, "text": n}
        for n, p, q in zip(names, p_values, holm(p_values), strict=True)
    ]


def evidence(**changes):
    content = {
        "schema": "r2u-evidence/3",
        "verdict": "accept",
        "claim": "approximate",
        "lane": "approximate",
        "alpha": 0.05,
        "n_forget": 2,
        "conditions": conditions([0.4, 0.1, 0.9, 1.0, 0.5, 0.3, 0.2, 0.08]),
        "controls": CONTROLS,
        "control_numbers": NUMBERS,
        "pools": {"retrained": {"n": 6}, "second_retrain": {"n": 6}},
        "statuses": {"indistinguishable": 1, "still_visible": 1},
        "records": [{"record": "0a"}, {"record": "0b"}],
        "lineage": {
            "weights_digest": WEIGHTS,
            "parent_weights_digest": PARENT,
            "manifest_root": "sha256:" + "02" * 32,
            "parent_manifest_root": "sha256:" + "01" * 32,
        },
    }
    return content | changes


EXACT = {
    "claim": "exact",
    "lane": "retrain",
    "alpha": 0.05 * 0.1,
    "conditions": conditions([0.4, 0.1, 0.9, 1.0, 0.5], 0.05 * 0.1),
}
UNTOUCHED = {
    "claim": "exact",
    "lane": "replay",
    "n_forget": 0,
    "conditions": [],
    "controls": {},
    "lineage": {"weights_digest": PARENT, "manifest_root": "sha256:" + "01" * 32},
}


def plan(**changes):
    content = {
        "batch_id": "b1",
        "requests": ["one", "two"],
        "n_records": 2,
        "n_trained_records": 2,
        "drift": {"changed": 0, "gone": 0},
        "parent_manifest_root": "sha256:" + "01" * 32,
        "parent_weights_digest": PARENT,
    } | changes
    return {**content, "plan_digest": digest_json(content)}


def manifest(key, root, n):
    segments = [{"n_records": n - 1}, {"n_records": 1}]
    return {"model_key": key, "root": root, "n_records": n, "segments": segments}


def members(**changes):
    difference = DIFFERENCE | changes
    parent = manifest("p", "sha256:" + "01" * 32, difference["parent"])
    child = manifest("m", "sha256:" + "02" * 32, difference["child"])
    return {"batch_id": "b1", "parent": parent, "child": child, "difference": difference}


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
    """A workspace with one sealed batch of two requests; each part can be another one."""

    def __init__(self, root, requests=None, *, files=None, skip=(), **changes):
        self.root = root
        self.batch = root / "batches" / "b1"
        self.key = load_or_make_signing_key(root / "keys")
        self.public = root / "keys" / PUBLIC_NAME
        self.ledger = Ledger(root / "ledger.jsonl", self.key)
        shown = evidence(**changes)
        self.files = {
            "plan.json": plan(),
            "erasure.json": {"tables": {"raw": COUNTS, "classified": COUNTS}},
            "evidence.json": shown,
            "members.json": members(),
            "result-model.json": {"model_key": "m"},
        } | (files or {})
        for name, content in self.files.items():
            write_json(self.batch / name, content)
        for kind, body in self.steps(shown):
            if kind not in skip:
                self.ledger.append(kind, {"batch_id": "b1", **body})
        both = {"claim": shown["claim"], "lane": shown["lane"]}
        self.requests = requests or [request("one", **both), request("two", **both)]
        self.seal()
        self.ledger.append("batch_closed", {"batch_id": "b1"})

    def steps(self, shown):
        planned = self.files["plan.json"]
        asked = {"plan_digest": planned["plan_digest"], "n_records": planned["n_records"]}
        yield "batch_planned", asked
        yield "erasure_started", asked
        yield "rows_erased", {"tables": self.files["erasure.json"]["tables"]}
        digest = digest_file(self.batch / "evidence.json")
        yield "evidence_recorded", {"evidence_digest": digest, "verdict": shown["verdict"]}
        lineage = {n: shown["lineage"][n] for n in ("weights_digest", "manifest_root")}
        yield "model_unlearned", {**lineage, "claim": shown["claim"]}

    def seal(self):
        return seal_bundle(
            self.batch,
            self.requests,
            signer=self.key,
            ledger=self.ledger,
            ledger_path=self.root / "ledger.jsonl",
        )

    def certificate(self, name="one"):
        return self.batch / "certificates" / f"{name}.json"

    def verify(self, name="one", **options):
        return verify_certificate(self.certificate(name), public_key_path=self.public, **options)


@pytest.fixture
def sealed(tmp_path):
    return Sealed(tmp_path)


def test_an_untouched_certificate_verifies(sealed):
    """All seven checks hold for every request; what was not checked is said."""
    for name in ("one", "two"):
        result = sealed.verify(name)
        assert (True, None, 7) == (result.ok, result.problem, len(result.checks))
        assert [line.split(":")[0].split(",")[0] for line in result.not_checked] == [
            "no ledger head given",
            "model file not given",
        ]


def test_every_flipped_byte_is_found(sealed):
    """Random bytes of every file of the proof: none goes unseen."""
    generator = random.Random(0)
    files = [
        sealed.certificate(),
        sealed.root / "ledger.jsonl",
        sealed.batch / "bundle.json",
        *(sealed.batch / name for name in sealed.files),
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
    """Swapping two certificates of one batch does not pass, whatever the file is called."""
    assert sealed.verify("two", request_id="two").ok
    assert "another request" in sealed.verify("two", request_id="one").problem
    shutil.copy(sealed.certificate("two"), sealed.certificate("one"))
    assert "another request" in sealed.verify().problem


def test_another_key_is_found(sealed, tmp_path):
    """A certificate verifies under the key that signed it only."""
    load_or_make_signing_key(tmp_path / "other")
    result = verify_certificate(
        sealed.certificate(), public_key_path=tmp_path / "other" / PUBLIC_NAME
    )
    assert "another key" in result.problem


@pytest.mark.parametrize("changes", [{}, EXACT], ids=["approximate", "exact"])
def test_honest_evidence_is_certified(tmp_path, changes):
    """The cases below differ from these in one point each."""
    assert Sealed(tmp_path, **changes).verify().ok


def test_a_model_that_never_knew_the_records_is_certified_untested(tmp_path):
    """Nothing was asked of it: it is its own parent, and no test is claimed."""
    files = {
        "plan.json": plan(n_trained_records=0, drift={"changed": 3, "gone": 1}),
        "members.json": members(asked=0, child=9)
        | {"child": manifest("p", "sha256:" + "01" * 32, 9)},
    }
    skip = ("evidence_recorded", "model_unlearned")
    assert Sealed(tmp_path, files=files, skip=skip, **UNTOUCHED).verify().ok


def test_records_of_an_unfinished_batch_leave_the_model_untested(tmp_path):
    """Their rows are gone, so that only the batch's own two can be tested: of five that go, two."""
    files = {
        "plan.json": plan(n_unfinished_records=3),
        "members.json": members(asked=5, child=4),
    }
    assert Sealed(tmp_path, files=files, **EXACT).verify().ok


VOID = {
    "a verdict that is none": ({"verdict": "retrain"}, "verdict"),
    "original not told apart": (
        {"controls": CONTROLS | {"original_fails": False}},
        "void|does not follow",
    ),
    "no controls": ({"controls": {}}, "void"),
    "control without its number": (
        {"control_numbers": NUMBERS | {"original_pool_p": 0.3}},
        "does not follow from its numbers",
    ),
    "random model passes": (
        {"control_numbers": NUMBERS | {"random_adjusted_p": 0.06}},
        "does not follow from its numbers",
    ),
    "second retrains fail": (
        {"control_numbers": NUMBERS | {"second_retrain_rejected": 4}},
        "does not follow from its numbers",
    ),
    "other second retrains": (
        {"control_numbers": NUMBERS | {"second_retrain_models": 5}},
        "not those of the pool",
    ),
    "a lax level": (
        {"control_numbers": NUMBERS | {"error_level": 0.5}, "alpha": 0.5},
        "at most 0.2",
    ),
    "a level of its own": ({"alpha": 0.01}, "does not follow from the error level"),
    "a condition left out": ({"conditions": conditions([0.4] * 7)}, "is missing"),
    "a rejected condition": ({"conditions": conditions([0.4] * 7 + [1e-5])}, "is not met"),
    "a rejected condition called met": (
        {"conditions": [c | {"passed": True} for c in conditions([0.4] * 7 + [1e-5])]},
        "does not follow",
    ),
    "no correction for many": (
        {"conditions": [c | {"adjusted_p": c["p_value"]} for c in conditions([0.1] * 8)]},
        "adjusted p-value does not follow",
    ),
    "fewer records than tested": ({"statuses": {"indistinguishable": 1}}, "do not add up"),
    "more records tested than left": (
        {"n_forget": 3, "records": [{}] * 3, "statuses": {"indistinguishable": 3}},
        "other records were tested",
    ),
    "the model of before": (
        {"lineage": evidence()["lineage"] | {"weights_digest": PARENT}},
        "nothing was changed",
    ),
    "another parent": (
        {"lineage": evidence()["lineage"] | {"parent_manifest_root": WEIGHTS}},
        "another original",
    ),
    "a record without a line": ({"records": [{"record": "0a"}]}, "one line for each record"),
    "another version": ({"schema": "r2u-evidence/1"}, "version 2"),
}


@pytest.mark.parametrize(("change", "reason"), VOID.values(), ids=VOID.keys())
def test_no_certificate_without_evidence(tmp_path, change, reason):
    """Every verdict follows from its numbers: one that does not is refused when it is issued."""
    with pytest.raises(ReleaseBlockedError, match=reason):
        Sealed(tmp_path, **change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outcome": "not_found"}, "outcome"),
        ({"claim": "exact"}, "does not give claim"),
        ({"lane": "replay", "claim": "exact"}, "differ from the evidence"),
    ],
)
def test_no_certificate_for_another_outcome(tmp_path, change, reason):
    """Outcome, claim and lane are each enough to refuse."""
    with pytest.raises(ReleaseBlockedError, match=reason):
        Sealed(tmp_path, [request("one", **change)])


def counted(**changes):
    return {"tables": {"raw": COUNTS | changes, "classified": COUNTS}}


UNEVEN = {
    "a row too many is gone": ({"erasure.json": counted(after=7)}, "do not add up"),
    "an erased row came back": ({"erasure.json": counted(after=9)}, "do not add up"),
    "another row changed": (
        {"erasure.json": counted(untouched_digest_after="e")},
        "other rows of table raw",
    ),
    "others were asked for": ({"erasure.json": counted(asked=1)}, "than planned"),
    "a fraction of a row": ({"erasure.json": counted(after=8.0)}, "number of records"),
    "an erased record in the model": (
        {"members.json": members(asked_left=1, child=8)},
        "1 of the erased records",
    ),
    "a record came": ({"members.json": members(added=1, child=8)}, "added, lost or changed"),
    "a record was lost": ({"members.json": members(missing=1, child=6)}, "added, lost or changed"),
    "a record was changed": (
        {"members.json": members(added=1, missing=1)},
        "added, lost or changed",
    ),
    "fewer were asked": ({"members.json": members(asked=1, child=8)}, "other records were asked"),
    "counts do not add up": ({"members.json": members(child=6)}, "do not add up"),
    "manifest of another model": (
        {"members.json": members() | {"child": manifest("m", WEIGHTS, 7)}},
        "those of other models",
    ),
    "manifest with other counts": (
        {"members.json": members() | {"child": manifest("m", "sha256:" + "02" * 32, 8)}},
        "other counts",
    ),
    "request that the plan does not name": (
        {"plan.json": plan(requests=["two"])},
        "does not name the request",
    ),
    "a plan that was changed": (
        {"plan.json": plan() | {"n_subjects": 3}},
        "does not match its digest",
    ),
}


@pytest.mark.parametrize(("files", "reason"), UNEVEN.values(), ids=UNEVEN.keys())
def test_no_certificate_unless_exactly_the_asked_records_left(tmp_path, files, reason):
    """A1 = A0 - B0, B1 = 0, C1 = C0, for rows of tables and for records of models."""
    with pytest.raises(ReleaseBlockedError, match=reason):
        Sealed(tmp_path, files=files)


def replayed(before, after):
    """Return the files of a batch that hit slice 2, with named checkpoints."""
    sealed = members()
    for name, checkpoints in (("parent", before), ("child", after)):
        if checkpoints is not None:
            sealed[name]["checkpoints"] = checkpoints
    return {"plan.json": plan(first_segment=2), "members.json": sealed}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"2": PARENT}, {"2": WEIGHTS}),
        ({"1": PARENT}, {"2": PARENT}),
        ({"1": PARENT, "2": PARENT}, {"1": WEIGHTS, "2": PARENT}),
        (None, {"2": PARENT}),
        ({"2": PARENT}, {"3": WEIGHTS}),
    ],
)
def test_no_certificate_for_a_replay_from_other_weights_than_the_parent_named(
    tmp_path, before, after
):
    """Another digest, there or before, none for the slice, none at all: the start is bound."""
    with pytest.raises(ReleaseBlockedError, match="same weights before the records"):
        Sealed(tmp_path, files=replayed(before, after), **EXACT | {"lane": "replay"})


def test_weights_that_an_approximate_model_hands_on_are_those_of_its_parent(tmp_path):
    """The next exact model may start from them, so that they are bound from one to the next."""
    Sealed(tmp_path / "same", files=replayed({"1": PARENT, "2": PARENT}, {"1": PARENT}))
    with pytest.raises(ReleaseBlockedError, match="same weights before the records"):
        Sealed(tmp_path / "other", files=replayed({"1": PARENT}, {"1": WEIGHTS}))


def test_a_replay_starts_from_the_weights_that_its_parent_named(tmp_path):
    """Named by both, all is checked; by a manifest of version 3, the verifier says what is not."""
    same = {"1": WEIGHTS, "2": PARENT}
    own = same | {"3": WEIGHTS}  # of a later slice: trained again, so another one
    now = Sealed(
        tmp_path / "now", files=replayed(same | {"3": PARENT}, own), **EXACT | {"lane": "replay"}
    )
    old = Sealed(tmp_path / "old", files=replayed(None, None), **EXACT | {"lane": "replay"})

    for sealed, told in ((now, False), (old, True)):
        result = sealed.verify()
        assert result.ok
        assert told is any("trained again from" in line for line in result.not_checked)


def test_what_loads_changed_before_is_told_and_does_not_hide_more(tmp_path):
    """Drift that the plan noted explains itself, exactly; it stands in the certificate."""
    drifted = plan(drift={"changed": 1, "gone": 2})
    honest = members(added=1, missing=3, child=5)
    sealed = Sealed(tmp_path / "a", files={"plan.json": drifted, "members.json": honest})
    stated = json.loads(base64.b64decode(json.loads(sealed.certificate().read_text())["payload"]))

    result = sealed.verify()
    told = "1 other records of the model were changed and 2 lost by loads"
    assert result.ok
    assert any(told in line for line in result.not_checked)
    assert told in dict((name, detail) for name, _, detail in result.checks)["records"]
    assert {"changed": 1, "gone": 2} == stated["predicate"]["records"]["drift"]
    for number, hidden in enumerate((members(added=2, missing=4, child=5), members(child=7))):
        files = {"plan.json": drifted, "members.json": hidden}
        with pytest.raises(ReleaseBlockedError, match="added, lost or changed"):
            Sealed(tmp_path / str(number), files=files)


@pytest.mark.parametrize(
    "step",
    ["batch_planned", "erasure_started", "rows_erased", "evidence_recorded", "model_unlearned"],
)
def test_no_certificate_for_a_step_that_the_ledger_does_not_tell(tmp_path, step):
    """Write before destroy: each step has its entry, before the next one."""
    with pytest.raises(ReleaseBlockedError, match=f"does not tell the step {step}"):
        Sealed(tmp_path, skip=(step,))


def test_steps_in_another_order_are_refused(tmp_path):
    """An erasure that was written down before its plan is none that was planned."""

    class Hasty(Sealed):
        def steps(self, shown):
            planned, started, *rest = super().steps(shown)
            return [started, planned, *rest]

    with pytest.raises(ReleaseBlockedError, match="erasure_started"):
        Hasty(tmp_path)


def test_a_table_that_was_loaded_while_it_was_erased_is_not_called_compared(tmp_path):
    """What could not be compared is listed, not passed over."""
    result = Sealed(tmp_path, files={"erasure.json": counted(superseded=True)}).verify()

    assert result.ok
    assert any("raw was loaded anew" in line for line in result.not_checked)


def test_rows_that_were_asked_for_and_not_erased_are_told(tmp_path):
    """Nothing erased of two asked rows: no certificate, unless a load had taken them away."""
    none = {"erased": 0, "after": COUNTS["before"]}
    with pytest.raises(ReleaseBlockedError, match="fewer rows were erased"):
        Sealed(tmp_path / "a", files={"erasure.json": counted(**none)})
    result = Sealed(
        tmp_path / "b", files={"erasure.json": counted(**none, superseded=True)}
    ).verify()

    assert result.ok
    assert any("raw was loaded anew" in line for line in result.not_checked)


def test_a_public_key_with_other_line_ends_is_the_same_key(sealed):
    """Auditors copy keys through mail and other systems."""
    sealed.public.write_bytes(sealed.public.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert sealed.verify().ok


def test_certificates_verify_after_the_key_was_rotated(sealed, tmp_path):
    """By the old public key and by the new one; a certificate under a retired key is refused."""
    new = KeySigner(Ed25519PrivateKey.generate())
    sealed.ledger.rotate(new)
    path = tmp_path / "new.pem"
    path.write_bytes(new.public_pem)
    assert sealed.verify().ok
    result = verify_certificate(sealed.certificate(), public_key_path=path)
    assert (True, "by a key that the ledger chains" in result.checks[0][2]) == (result.ok, True)

    for entry in sealed.batch.glob("certificates/*"):
        entry.unlink()
    (sealed.batch / "bundle.json").unlink()
    sealed.ledger.append("batch_closed", {"batch_id": "b0"})
    with pytest.raises(ReleaseBlockedError, match="no longer in use"):
        sealed.seal()


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
    out = capsys.readouterr().out
    assert "FAILED bundle: plan.json was changed" in out
    assert "not checked: no ledger head given" in out
    assert main([str(sealed.batch / "certificates" / "*.json"), *arguments[1:]]) == 1
    assert main([str(sealed.batch / "none.json"), "--public-key", str(sealed.public)]) == 2


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
