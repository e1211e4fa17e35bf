"""Secrets compared without being read: each side hashes its own copy with a salt that is made for one comparison.

Nothing is kept, so a key that somebody typed into the UI is seen to differ too, and neither a plan nor the server's
answer to it carries a secret. (Provider keys are long and random: a fast hash is no help in guessing them.)
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping


def salt() -> str:
    """A new salt, in hexadecimal."""
    return secrets.token_hex(16)


def of(salt_hex: str, value: Mapping[str, str] | str) -> str:
    """The fingerprint of a secret: a text, or the fields of one."""
    text = value if isinstance(value, str) else json.dumps(dict(value), sort_keys=True)
    return hmac.new(bytes.fromhex(salt_hex), text.encode(), hashlib.sha256).hexdigest()
