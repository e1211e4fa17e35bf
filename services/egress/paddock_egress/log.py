"""One JSON line for each decision, on standard output."""

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

LONGEST = 200


class Log:
    """Writes lines. Texts that come from an agent are cut, and JSON keeps them in their quotes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def write(self, event: str, **fields: Any) -> None:
        """`event`: `started`, `allowed`, `refused`, `request`, `closed`, `ended`."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        line |= {
            name: value[:LONGEST] if isinstance(value, str) else value
            for name, value in fields.items()
            if value not in (None, "")
        }
        print(json.dumps(line), file=self._stream, flush=True)
