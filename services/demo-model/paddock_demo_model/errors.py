"""What can go wrong, as one tree.

DemoModelError
├── ConfigurationError     a setting or a scenario file is wrong; the process does not start
└── RequestError           an answer with a 4xx or 5xx status, in the error shape of the API that was called
"""

from typing import Any


class DemoModelError(Exception):
    """Root of this package's errors."""


class ConfigurationError(DemoModelError):
    """A setting or scenario file that cannot be used; the message says expected, found and remedy."""


class RequestError(DemoModelError):
    """A refusal, sent with ``status``. On OpenAI's API it is ``{"error": {"message", "type", "param", "code"}}``."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error_type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """The response body."""
        return error_body(str(self), error_type=self.error_type, code=self.code, param=self.param)


def error_body(
    message: str, *, error_type: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object (https://platform.openai.com/docs/guides/error-codes)."""
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}
