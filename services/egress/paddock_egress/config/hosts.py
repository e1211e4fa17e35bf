"""Names of hosts as lists hold them: exact, or `*.` before a name for everything below it.

Addresses are no names here, in none of the forms that resolvers take (`10.0.0.1`, `2130706433`, `0x7f.1`, `[::1]`): the
last label begins with a letter. Nor are single words: those are the names of the stack's own services.
"""

import re

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?"
NAME_PATTERN = rf"^{_NAME}$"
LIST_PATTERN = rf"^(?:\*\.)?{_NAME}$"
"""What a list may hold. A `*.` needs two labels behind it, so that no list opens a whole top-level domain."""
LONGEST = 253

_name = re.compile(NAME_PATTERN)
_entry = re.compile(LIST_PATTERN)


def is_name(text: str) -> bool:
    """Whether it is the name of a host: at least two labels, in small letters, no address."""
    return len(text) <= LONGEST and _name.fullmatch(text) is not None


def is_entry(text: str) -> bool:
    """Whether a list may hold it: a name, or `*.` and a name."""
    return len(text) <= LONGEST and _entry.fullmatch(text) is not None


def matches(entry: str, host: str) -> bool:
    """Whether an entry of a list means this host. `*.a.example` means what is below `a.example`, and not itself."""
    return host.endswith(entry[1:]) if entry.startswith("*.") else host == entry
