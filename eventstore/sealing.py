"""Secrets at rest: sealed with the installation's key, and bound to the place they are kept at."""

from __future__ import annotations

import os
from hashlib import sha256

from eventstore.errors import StoreError

_NONCE_BYTES = 12
_SEALED, _PLAIN = b"\x01", b"\x00"


class Sealing:
    """`place` is the name of the Redis key: what is sealed for one cannot be moved to another."""

    def __init__(self, secret_key: str | None) -> None:
        self._secret_key = secret_key

    def seal(self, place: str, plain: bytes) -> bytes:
        """Raises ValueError without a secret key."""
        if self._secret_key is None:
            raise ValueError("TRUNKLINE_SECRET_KEY is not set: it encrypts what organizations entrust to the store")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # only where something is sealed: it is heavy

        nonce = os.urandom(_NONCE_BYTES)
        return _SEALED + nonce + AESGCM(_key(self._secret_key)).encrypt(nonce, plain, place.encode())

    def keep(self, place: str, plain: bytes) -> bytes:
        """Sealed where there is a secret key: for our own secrets, which every installation has."""
        return self.seal(place, plain) if self._secret_key is not None else _PLAIN + plain

    def open(self, place: str, stored: bytes) -> bytes:
        """Raises StoreError without the key that it was sealed with."""
        if stored.startswith(_PLAIN):
            return stored[1:]
        if self._secret_key is None:
            raise StoreError(f"{place} is encrypted, and TRUNKLINE_SECRET_KEY is not set")
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce, sealed = stored[1 : 1 + _NONCE_BYTES], stored[1 + _NONCE_BYTES :]
        try:
            return AESGCM(_key(self._secret_key)).decrypt(nonce, sealed, place.encode())
        except InvalidTag:
            raise StoreError(f"{place} was encrypted with another TRUNKLINE_SECRET_KEY") from None


def _key(secret_key: str) -> bytes:
    return sha256(b"trunkline provider settings\0" + secret_key.encode()).digest()
