"""Hooks that tests name as ``signers:callable``: a key service, and some that are none."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.signing import KeySigner

_SERVICE = KeySigner(Ed25519PrivateKey.from_private_bytes(b"k" * 32))


def service():
    return _SERVICE


class _Mismatched:
    public_pem = _SERVICE.public_pem

    def sign(self, message):
        return b"\x00" * 64


def mismatched():
    return _Mismatched()


def broken():
    raise RuntimeError


def nothing():
    return None
