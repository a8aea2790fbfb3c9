"""Laws of old formats: what was certified once is verified for ever."""

from pathlib import Path

import pytest

from governance.ledger import verify_chain
from governance.verifier import main, verify_certificate

GOLDEN = Path(__file__).parent.parent / "golden"
CERTIFICATES = sorted(GOLDEN.glob("v*/batches/*/certificates/*.json"))


@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda p: f"{p.parts[-5]}-{p.stem}")
def test_a_certificate_of_any_version_verifies(path):
    """Signature, bundle, evidence, ledger and, of the last batch, the weights."""
    root = path.parents[3]
    result = verify_certificate(path, public_key_path=root / "keys" / "signing.pub.pem")

    assert (True, None) == (result.ok, result.problem)
    checked = {name for name, _, _ in result.checks}
    assert {"signature", "inclusion", "bundle", "evidence", "records", "ledger"} <= checked
    assert ("model" in checked) == (path.stem.startswith("second"))


@pytest.mark.parametrize("root", sorted(GOLDEN.glob("v*")), ids=lambda p: p.name)
def test_a_folder_of_any_version_verifies_with_its_head(root, capsys):
    """All certificates of a workspace in one run, up to the last line of its ledger."""
    key = root / "keys" / "signing.pub.pem"
    head = verify_chain(root / "ledger.jsonl", key).head

    assert 0 == main([str(root), "--public-key", str(key), "--head", head])
    out = capsys.readouterr().out
    assert 6 == out.count("ok: ")
    assert "no ledger head" not in out


def test_there_is_a_golden_file_of_each_version():
    """Both predicate versions are here; a new one needs new files."""
    assert {"v1", "v2"} == {path.name for path in GOLDEN.glob("v*")}
