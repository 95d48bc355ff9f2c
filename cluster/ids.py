"""Names of searches and jobs, which are those of their run folders."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as the numbers do


def new_id(letter: str = "s") -> str:
    """``s-`` and 26 characters that sort by time: 48 bits of milliseconds, 80 of chance (as in a ULID)."""
    number = int(time.time() * 1000) << 80 | secrets.randbits(80)
    return f"{letter}-" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
