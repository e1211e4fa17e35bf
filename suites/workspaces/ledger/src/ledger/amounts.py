"""Amounts of money, in whole cents."""

import re

from ledger.errors import LedgerError

_AMOUNT = re.compile(r"(-?)(\d+)(?:\.(\d{1,2}))?")


def parse(text: str) -> int:
    """Cents of an amount such as `-23.40`, `7` or `0.5`."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise LedgerError(f"not an amount: {text!r}")
    sign, whole, fraction = match.groups()
    cents = int(whole) * 100 + int((fraction or "0").ljust(2, "0"))
    return -cents if sign else cents


def show(cents: int) -> str:
    """`-23.40` for -2340."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"
