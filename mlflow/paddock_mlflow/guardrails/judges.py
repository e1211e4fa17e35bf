"""Asking a scorer for its verdict, outside of the event loop.

A judge's own call goes through the gateway to its endpoint, in the name of the judges' user with the internal token
(`environment.export_web`), so that it has a budget and a trace like any other. Calls by that token
are looked through for personal data and keys where their endpoint says so, but no judge is asked about them: a judge
would have to judge its own question, without end.
"""

import asyncio
import base64
import binascii
import hmac
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mlflow.entities.assessment import Feedback
from mlflow.environment_variables import _MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN
from mlflow.gateway.constants import MLFLOW_GATEWAY_AUTH_HEADER
from mlflow.genai.scorers import Scorer

TIMEOUT_SECONDS = 30.0
# Threads of its own: a judge's call comes back to this server, which may need the event loop's usual threads for it.
_threads = ThreadPoolExecutor(16, thread_name_prefix="guardrail")


class JudgeFailed(Exception):
    """No verdict: the judge's model does not answer, or not in the form that was asked for."""


@dataclass(frozen=True)
class Opinion:
    """A scorer's verdict and its reason."""

    passed: bool
    rationale: str


async def ask(scorer: Scorer, **arguments: Any) -> Opinion:
    """Raises JudgeFailed."""
    loop = asyncio.get_running_loop()
    call = loop.run_in_executor(_threads, lambda: scorer(**arguments))
    try:
        return _opinion(await asyncio.wait_for(call, TIMEOUT_SECONDS))
    except TimeoutError:
        raise JudgeFailed(f"no verdict within {TIMEOUT_SECONDS:.0f} s") from None
    except JudgeFailed:
        raise
    except Exception as error:
        # Whatever it is, there is no verdict, and the call must not pass without one.
        raise JudgeFailed(f"{type(error).__name__}: {error}") from error


def is_internal(headers: Mapping[str, str]) -> bool:
    """Whether a request comes with the internal token. `headers` have names in lower case."""
    token = _MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN.get()
    given = headers.get(MLFLOW_GATEWAY_AUTH_HEADER.lower()) or headers.get("authorization") or ""
    scheme, _, credentials = given.partition(" ")
    if not token or scheme.lower() != "basic":
        return False
    try:
        _, separator, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    return bool(separator) and hmac.compare_digest(password.encode(), token.encode())


def _opinion(result: Any) -> Opinion:
    """The rules are those of mlflow/gateway/guardrails.py (`_is_passing`), but that an error is no "no"."""
    results = result if isinstance(result, list) else [result]
    passed, reasons = True, []
    for one in results:
        value, rationale = one, ""
        if isinstance(one, Feedback):
            if one.error is not None:
                raise JudgeFailed(one.error.error_message or one.error.error_code or "an error")
            value, rationale = one.value, one.rationale or ""
        if not isinstance(value, bool | str):
            raise JudgeFailed(
                f"a verdict of the type {type(value).__name__}, expected yes, no, true or false"
            )
        fine = value if isinstance(value, bool) else value.strip().lower() == "yes"
        passed = passed and fine
        if not fine:
            reasons.append(rationale or str(value))
    return Opinion(passed and bool(results), "; ".join(reasons))
