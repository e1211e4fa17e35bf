"""The exceptions of the proxy.

EgressError
├── SettingsError   the proxy can't start: a setting, the configuration or a secret
└── Refusal         a client is refused; it is answered in these words
"""


class EgressError(Exception):
    pass


class SettingsError(EgressError):
    pass


class Refusal(EgressError):
    """Why a client does not get what it asks for.

    Args:
        reason: a word for programs, such as `not-allowed`.
        expected, found, remedy: for people.
        status: of the HTTP answer.
    """

    def __init__(self, reason: str, expected: str, found: str, remedy: str, *, status: int = 403) -> None:
        super().__init__(f"expected {expected}, found {found}; {remedy}")
        self.reason = reason
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.status = status

    def as_json(self) -> dict[str, object]:
        """`{"error": {"reason", "expected", "found", "remedy"}}`."""
        return {
            "error": {
                "reason": self.reason,
                "expected": self.expected,
                "found": self.found,
                "remedy": self.remedy,
            }
        }
