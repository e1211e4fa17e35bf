"""What the suite has seen, kept beside the checkout for docs/security.md."""

import json
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / ".paddock" / "escape.json"


@dataclass
class Record:
    """Probe → what was seen: with its wall in place, and without it."""

    seen: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, name: str, **evidence: str) -> None:
        """`evidence` of a probe, or `control` of it."""
        self.seen.setdefault(name, {}).update(evidence)

    def save(self) -> None:
        """Add to what earlier sessions saw: a session may run a part of the suite."""
        known = read()
        for name, evidence in self.seen.items():
            known.setdefault(name, {}).update(evidence)
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False))


def read() -> dict[str, dict[str, str]]:
    """What was kept; empty where the suite has not run here."""
    try:
        return json.loads(FILE.read_text())
    except (OSError, ValueError):
        return {}
