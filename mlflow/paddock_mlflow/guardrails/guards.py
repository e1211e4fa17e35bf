"""The guardrails of one endpoint at work: what each does with a request or an answer."""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

from mlflow.genai.scorers import Scorer

from paddock_mlflow.gateway.hooks import Check, Guarded, GuardrailStop
from paddock_mlflow.guardrails import judges, texts
from paddock_mlflow.guardrails.detectors import PII, SECRETS, Detector
from paddock_mlflow.guardrails.scorers import Action, Stage
from paddock_mlflow.usage import Protocol as Words

_logger = logging.getLogger(__name__)

REFUSED = "content_policy_violation"
UNAVAILABLE = "guardrail_unavailable"
_THREAD_CHARACTERS = 32 * 1024
"""A body beyond this is looked through in a thread: 10 ms for what was never seen."""
_ALL = Detector(PII | SECRETS)


@dataclass(frozen=True)
class Look:
    """What a guardrail looks at: a request, and its answer where there is one already."""

    request: dict[str, Any]
    response: dict[str, Any] | None = None

    @property
    def body(self) -> dict[str, Any]:
        """What is checked."""
        return self.request if self.response is None else self.response


@dataclass(frozen=True)
class Found:
    """What a guardrail found: the body to go on with, and whether it passes as it is."""

    body: dict[str, Any]
    passed: bool
    rationale: str = ""
    told: str = ""
    """The reason in words for the caller: never what was found."""


class Guard(Protocol):
    """One guardrail."""

    name: str
    stage: Stage
    action: Action

    async def check(self, look: Look) -> Found:
        """Check the request, or the answer where there is one. Raises JudgeFailed where it can't."""


@dataclass(frozen=True)
class PatternGuard:
    """Looks for forms of text, in every text of a body."""

    name: str
    stage: Stage
    action: Action
    detector: Detector

    async def check(self, look: Look) -> Found:
        """See Guard."""
        masked, kinds = await _masked(self.detector, look.body)
        if not kinds:
            return Found(masked, True)
        counts = ", ".join(f"{kind} ({count})" for kind, count in Counter(kinds).items())
        return Found(
            masked,
            False,
            f"found {counts}",
            f"it contains {counts}; take that out and send it again"
            if look.response is None
            else f"it contains {counts}",
        )


@dataclass(frozen=True)
class JudgeGuard:
    """Asks a scorer."""

    name: str
    stage: Stage
    action: Action
    scorer: Scorer
    takes: tuple[str, ...]

    async def check(self, look: Look) -> Found:
        """See Guard."""
        opinion = await judges.ask(self.scorer, **self._arguments(look))
        if opinion.passed:
            return Found(look.body, True)
        # A judge may quote what it judges.
        rationale, _ = _ALL.mask(opinion.rationale)
        told = f"the judge {self.scorer.name} does not let it pass; its reason is in the call's usage trace"
        return Found(look.body, False, rationale, told)

    def _arguments(self, look: Look) -> dict[str, Any]:
        if look.response is not None:
            every: dict[str, Any] = {
                "inputs": texts.question(look.request),
                "outputs": texts.answer(look.response),
            }
        else:
            messages = texts.conversation(look.request)
            every = {
                "inputs": {"messages": messages},
                "outputs": "\n\n".join(one["content"] for one in messages),
            }
        return {name: every[name] for name in self.takes}


@dataclass(frozen=True)
class BrokenGuard:
    """A guardrail that can't be made: nothing passes."""

    name: str
    stage: Stage
    action: Action
    reason: str

    async def check(self, look: Look) -> Found:
        """See Guard."""
        raise judges.JudgeFailed(self.reason)


class EndpointGuards:
    """The guardrails of one endpoint, in their order. `paddock_mlflow.gateway.hooks.Guards`."""

    def __init__(self, guards: list[Guard]) -> None:
        self._guards = guards

    def __bool__(self) -> bool:
        return bool(self._guards)

    def without_judges(self) -> "EndpointGuards":
        """See the protocol."""
        return EndpointGuards([guard for guard in self._guards if not isinstance(guard, JudgeGuard)])

    @property
    def after_needs_whole(self) -> bool:
        """See the protocol."""
        return any(guard.stage == "AFTER" for guard in self._guards)

    async def before(self, words: Words, body: dict[str, Any]) -> Guarded:
        """See the protocol. What a later guardrail sees is what an earlier one has masked."""
        return await self._run("BEFORE", "request", Look(body))

    async def after(self, words: Words, request: dict[str, Any], response: dict[str, Any]) -> Guarded:
        """See the protocol. Vectors say nothing, so answers to embedding requests pass, as upstream."""
        if words == "openai_embeddings":
            return Guarded(response)
        return await self._run("AFTER", "answer", Look(request, response))

    async def _run(self, stage: Stage, what: str, look: Look) -> Guarded:
        given, checks = look.body, list[Check]()
        for guard in self._guards:
            if guard.stage != stage:
                continue
            try:
                found = await guard.check(look)
            except judges.JudgeFailed as error:
                reason = _ALL.mask(str(error))[0][:500]
                _logger.warning("guardrail %s: %s", guard.name, reason)
                checks.append(Check(guard.name, stage, guard.action, False, f"not checked: {reason}"))
                message = (
                    f"guardrail {guard.name!r} could not check the {what}, so it does not pass: its judge or its"
                    " configuration is at fault; try again later, or tell the administrator"
                )
                raise await _stop(503, UNAVAILABLE, message, checks, look.body) from None
            checks.append(Check(guard.name, stage, guard.action, found.passed, found.rationale))
            if not found.passed and guard.action == "VALIDATION":
                message = f"guardrail {guard.name!r} refused the {what}: {found.told}"
                raise await _stop(400, REFUSED, message, checks, look.body)
            look = Look(found.body) if look.response is None else Look(look.request, found.body)
        return Guarded(look.body, checks, look.body is not given)


async def _stop(
    status: int, kind: str, message: str, checks: list[Check], body: dict[str, Any]
) -> GuardrailStop:
    """With everything masked that any detector knows, whatever this endpoint looks for."""
    return GuardrailStop(status, kind, message, checks, (await _masked(_ALL, body))[0])


async def _masked(detector: Detector, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    if _size(body, _THREAD_CHARACTERS) < _THREAD_CHARACTERS:
        return detector.mask_body(body)
    return await asyncio.to_thread(detector.mask_body, body)


def _size(value: Any, enough: int) -> int:
    """Characters of the texts in a body, counted up to about `enough`."""
    if isinstance(value, str):
        return len(value)
    total = 0
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        total += _size(item, enough)
        if total >= enough:
            break
    return total
