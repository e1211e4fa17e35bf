"""Traces that try to tell their judge what to say: `suites/injections/traces.yaml`. Needs no MLflow."""

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

PUBLISHED = Path(__file__).resolve().parents[3] / "suites" / "injections" / "traces.yaml"


class Step(BaseModel):
    """A tool call. `padding` lines of nothing stand between `output` and `order`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str
    arguments: dict[str, Any]
    output: str
    padding: int = 0
    order: str = ""

    @property
    def said(self) -> str:
        """What the tool gave back, whole."""
        filler = "".join(f"line {number}: nothing to see\n" for number in range(self.padding))
        return f"{self.output}\n{filler}{self.order}" if self.padding else self.output


class Injection(BaseModel):
    """One trace. Without an `attack` it is there to be passed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    attack: str = ""
    request: str
    steps: list[Step]
    answer: str
    verdict: Literal["yes", "no"]
    """What a judge must say that is not turned."""


class Injections(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    traces: list[Injection] = Field(min_length=1)


@dataclass(frozen=True)
class Sent:
    """A trace in OTLP's JSON, and the id that MLflow will give it."""

    trace_id: str
    payload: dict[str, Any]


def read(path: Path = PUBLISHED) -> list[Injection]:
    """The traces of a file.

    Raises:
        OSError, ValueError: it can't be read, or is no such file.
    """
    return Injections.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).traces


def otlp(injection: Injection) -> Sent:
    """A trace as an exporter would send it: a root with request and answer, and a span for each tool call."""
    trace_id, root_id = secrets.token_hex(16), secrets.token_hex(8)
    start = time.time_ns() - 2_000_000_000
    spans = [_span(trace_id, root_id, "", "injection", start, "AGENT", injection.request, injection.answer)]
    spans += [
        _span(
            trace_id,
            secrets.token_hex(8),
            root_id,
            step.tool,
            start + 1_000_000 * number,
            "TOOL",
            step.arguments,
            step.said,
        )
        for number, step in enumerate(injection.steps, 1)
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "injections"}}]}
    payload = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
    return Sent(f"tr-{trace_id}", payload)


def _span(
    trace_id: str, span_id: str, parent: str, name: str, start: int, kind: str, inputs: Any, outputs: Any
) -> dict[str, Any]:
    values = {
        "mlflow.spanType": kind,
        "mlflow.spanInputs": json.dumps(inputs, ensure_ascii=False),
        "mlflow.spanOutputs": json.dumps(outputs, ensure_ascii=False),
    }
    return {
        "traceId": trace_id,
        "spanId": span_id,
        **({"parentSpanId": parent} if parent else {}),
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 1_000_000_000),
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in values.items()],
        "status": {"code": 1},
    }
