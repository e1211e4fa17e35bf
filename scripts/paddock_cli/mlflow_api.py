"""The calls of MLflow's REST API that the command line makes, over plain HTTP.

MLflow's own client takes seconds to import. Names and paths are those of MLflow 3.17.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from paddock_cli.errors import NotFound, ServerFailed
from paddock_cli.stack import Connection

TRACES = "/api/3.0/mlflow/traces"
SCORERS = "/api/3.0/mlflow/scorers"
TIMEOUT_SECONDS = 30
PAGE = 500
"""Traces that MLflow gives in one answer at most."""
_OWN_WORDS = re.compile(r"expected (?P<expected>.+?), found (?P<found>.+?); (?P<remedy>.+)", re.DOTALL)
"""How the plugin's own routes refuse."""
FINISHED_STATES = ("OK", "ERROR")
DEMO_MODEL = "demo"
EXPECTATION = "expected_facts"
"""The name under which MLflow's Correctness looks for a list of facts that the answer must support."""


CHECK_PREFIX = "check/"
"""What the names of assessments begin with that tell of a check; every other one is a judge's."""


@dataclass(frozen=True)
class Verdict:
    """What one judge said of a trace: `value` is its answer, or empty where `error` tells why there is none."""

    judge: str
    value: str
    rationale: str
    error: str = ""
    created: str = ""
    passed: bool | None = None
    """Whether it is a pass; None where the judge's scale has none."""


@dataclass(frozen=True)
class Trace:
    """What MLflow tells of a trace. Tokens by kind; cost in USD; time in seconds."""

    trace_id: str
    experiment_id: str
    state: str
    requested: str
    seconds: float | None
    request: str
    response: str
    tokens: dict[str, int]
    cost: float | None
    tags: dict[str, str]
    metadata: dict[str, str]
    verdicts: tuple[Verdict, ...]
    expectations: dict[str, Any] = field(default_factory=dict)
    checks: tuple[Verdict, ...] = ()
    """What checks of the finished workspace said; no judge's."""
    labels: tuple[Verdict, ...] = ()
    """What people said, under the names of judges or others."""

    @property
    def finished(self) -> bool:
        """Whether its root span has arrived."""
        return self.state in FINISHED_STATES

    @property
    def run_id(self) -> str:
        """The run of the trace; empty for a client that is not Paddock's runner."""
        return self.tags.get("paddock.run_id") or self.metadata.get("mlflow.trace.session", "")

    def latest(self) -> dict[str, Verdict]:
        """The newest verdict of each judge."""
        newest: dict[str, Verdict] = {}
        for verdict in sorted(self.verdicts, key=lambda one: one.created):
            newest[verdict.judge] = verdict
        return newest


@dataclass(frozen=True)
class Judge:
    """A registered scorer; `automatic` where it is started on every new trace."""

    name: str
    scorer_id: str
    serialized: str = field(repr=False)
    automatic: bool = False


class Mlflow:
    """A session with the server as its administrator."""

    def __init__(self, connection: Connection, transport: httpx.BaseTransport | None = None) -> None:
        self.url = connection.url
        self._client = httpx.Client(
            transport=transport,
            base_url=connection.url,
            auth=(connection.user, connection.password),
            timeout=TIMEOUT_SECONDS,
            # A proxy or netrc of the caller's shell is not meant for the local stack.
            trust_env=False,
        )

    def call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """One request.

        Raises:
            NotFound: 404.
            ServerFailed: any other refusal, or no answer.
        """
        answer = self._answer(method, path, **arguments)
        return answer.json() if answer.content else {}

    def content(self, path: str, **arguments: Any) -> bytes:
        """What a GET answers, as it is. Raises as `call`."""
        return self._answer("GET", path, **arguments).content

    def _answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise ServerFailed(
                f"MLflow to answer at {self.url}",
                str(error) or type(error).__name__,
                "look at it: ./paddock status, ./paddock logs mlflow",
            ) from None
        if answer.status_code == 404:
            if own := _OWN_WORDS.fullmatch(_message(answer)):
                raise NotFound(own["expected"], own["found"], own["remedy"])
            raise NotFound(f"{path} to exist", _message(answer), "list what there is: ./paddock traces")
        if answer.is_error:
            if own := _OWN_WORDS.fullmatch(_message(answer)):
                raise ServerFailed(own["expected"], own["found"], own["remedy"])
            raise ServerFailed(
                f"MLflow to accept {method} {path}",
                f"{answer.status_code}: {_message(answer)}",
                "look at its log: ./paddock logs mlflow",
            )
        return answer

    def experiment_id(self, name: str = "agents") -> str:
        """The id of the experiment that agents write to."""
        query = {"experiment_name": name}
        return self.call("GET", "/api/2.0/mlflow/experiments/get-by-name", params=query)["experiment"][
            "experiment_id"
        ]

    def endpoints(self) -> dict[str, str]:
        """The gateway's endpoints, each with the model that it leads to first, in a user's words."""
        found = self.call("GET", "/api/3.0/mlflow/gateway/endpoints/list").get("endpoints", [])
        return {endpoint["name"]: _model_of(endpoint) for endpoint in found}

    def trace(self, trace_id: str) -> Trace:
        """One trace. Raises NotFound."""
        return _trace(self.call("GET", f"{TRACES}/{trace_id}")["trace"]["trace_info"])

    def traces(self, experiment_id: str, limit: int, filter_string: str = "") -> list[Trace]:
        """The newest traces, newest first."""
        body: dict[str, Any] = {
            "locations": [
                {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
            ],
            "max_results": limit,
            "order_by": ["timestamp_ms DESC"],
        }
        if filter_string:
            body["filter"] = filter_string
        return [_trace(info) for info in self.call("POST", f"{TRACES}/search", json=body).get("traces", [])]

    def trace_infos(self, experiment_id: str, filter_string: str = "") -> Iterator[dict[str, Any]]:
        """What MLflow tells of every trace that a filter finds, newest first, without their spans."""
        body: dict[str, Any] = {
            "locations": [
                {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
            ],
            "max_results": PAGE,
            "order_by": ["timestamp_ms DESC"],
            **({"filter": filter_string} if filter_string else {}),
        }
        while True:
            answer = self.call("POST", f"{TRACES}/search", json=body)
            yield from answer.get("traces", [])
            if not answer.get("next_page_token"):
                return
            body["page_token"] = answer["next_page_token"]

    def judges(self, experiment_id: str) -> dict[str, Judge]:
        """The experiment's judges by name."""
        listed = self.call("GET", f"{SCORERS}/list", params={"experiment_id": experiment_id}).get(
            "scorers", []
        )
        ids = [scorer["scorer_id"] for scorer in listed]
        configured = (
            self.call("GET", f"{SCORERS}/online-configs", params=[("scorer_ids", one) for one in ids]).get(
                "configs", []
            )
            if ids
            else []
        )
        started = {one["scorer_id"] for one in configured if one.get("sample_rate", 0) > 0}
        return {
            scorer["scorer_name"]: Judge(
                scorer["scorer_name"],
                scorer["scorer_id"],
                scorer["serialized_scorer"],
                scorer["scorer_id"] in started,
            )
            for scorer in listed
        }

    def expect(self, trace_id: str, facts: list[str], user: str) -> None:
        """Log what the answer should support, for judges that compare with an expectation."""
        assessment = {
            "assessment_name": EXPECTATION,
            "trace_id": trace_id,
            "source": {"source_type": "HUMAN", "source_id": user},
            # The protocol takes a list only as text with its own marker of the form.
            "expectation": {
                "serialized_value": {"serialization_format": "JSON_FORMAT", "value": json.dumps(facts)}
            },
        }
        self.call("POST", f"{TRACES}/{trace_id}/assessments", json={"assessment": assessment})

    def assess(self, trace_id: str, name: str, passed: bool, rationale: str, *, error: str = "") -> None:
        """Log what a program found out about a trace; with an `error` it could not, and there is no value."""
        feedback: dict[str, Any] = {"value": passed}
        if error:
            feedback = {"error": {"error_code": "CHECK_ERROR", "error_message": error}}
        assessment = {
            "assessment_name": name,
            "trace_id": trace_id,
            "source": {"source_type": "CODE", "source_id": "paddock"},
            "feedback": feedback,
            "rationale": rationale,
            "metadata": {"paddock.passed": str(passed).lower()},
        }
        self.call("POST", f"{TRACES}/{trace_id}/assessments", json={"assessment": assessment})

    def invoke(
        self, experiment_id: str, judge: Judge, trace_ids: list[str], *, log_assessments: bool = True
    ) -> list[str]:
        """Let a judge look at traces now, as the UI's *Run judges* does. Returns the ids of the jobs.

        Args:
            log_assessments: store the verdicts; otherwise they are in the job's result alone.
        """
        body = {
            "experiment_id": experiment_id,
            "serialized_scorer": judge.serialized,
            "trace_ids": trace_ids,
            "log_assessments": log_assessments,
        }
        jobs = self.call("POST", "/ajax-api/3.0/mlflow/scorer/invoke", json=body).get("jobs", [])
        return [job["job_id"] for job in jobs]

    def job(self, job_id: str) -> tuple[str, Any]:
        """State (PENDING, RUNNING, SUCCEEDED, FAILED, TIMEOUT, CANCELED) and result of a job."""
        found = self.call("GET", f"/ajax-api/3.0/jobs/{job_id}")
        return str(found.get("status", "")), found.get("result")

    def trace_link(self, experiment_id: str, trace_id: str) -> str:
        """The page of the UI that shows the trace."""
        return f"{self.url}/#/experiments/{experiment_id}/traces?traceId={trace_id}"

    def experiment_link(self, experiment_id: str) -> str:
        """The page of the UI that lists the traces with their verdicts."""
        return f"{self.url}/#/experiments/{experiment_id}/traces"


def _model_of(endpoint: dict[str, Any]) -> str:
    mappings = endpoint.get("model_mappings", [])
    primary = next((one for one in mappings if one.get("linkage_type") != "FALLBACK"), {})
    model = primary.get("model_definition") or {}
    if model.get("model_name") == DEMO_MODEL:
        return "the demo model (deterministic, no account)"
    return f"{model.get('provider', '')}/{model.get('model_name', '')}".strip("/")


def _message(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        # MLflow says `message`, FastAPI `detail`.
        return str(body.get("message") or body.get("detail") or answer.text)[:500]
    except (ValueError, AttributeError):
        return answer.text[:500]


def _trace(info: dict[str, Any]) -> Trace:
    metadata = info.get("trace_metadata", {})
    location = info.get("trace_location", {}).get("mlflow_experiment", {})
    tokens = _json(metadata.get("mlflow.trace.tokenUsage"))
    cost = _json(metadata.get("mlflow.trace.cost"))
    duration = str(info.get("execution_duration") or "").rstrip("s")
    listed = info.get("assessments", [])
    # A person's word under a judge's name is a label, and no verdict; a verdict that it corrects is one all the same.
    by_people = [one for one in listed if _is_human(one) and "feedback" in one]
    labels = [one for one in by_people if one.get("valid", True)]
    corrected = {one["overrides"] for one in by_people if one.get("overrides")}
    verdicts, expectations = [], {}
    for assessment in listed:
        name = assessment.get("assessment_name", "")
        if "expectation" in assessment:
            expectations[name] = _expected(assessment["expectation"])
        elif not _is_human(assessment) and (
            assessment.get("valid", True) or assessment.get("assessment_id") in corrected
        ):
            verdicts.append(_verdict(name, assessment))
    return Trace(
        trace_id=info["trace_id"],
        experiment_id=location.get("experiment_id", ""),
        state=info.get("state", ""),
        requested=info.get("request_time", ""),
        seconds=float(duration) if duration else None,
        request=info.get("request_preview", ""),
        response=info.get("response_preview", ""),
        tokens=tokens if isinstance(tokens, dict) else {},
        cost=cost.get("total_cost") if isinstance(cost, dict) else None,
        tags=info.get("tags", {}),
        metadata=metadata,
        verdicts=tuple(one for one in verdicts if not one.judge.startswith(CHECK_PREFIX)),
        expectations=expectations,
        checks=tuple(one for one in verdicts if one.judge.startswith(CHECK_PREFIX)),
        labels=tuple(_verdict(one.get("assessment_name", ""), one) for one in labels),
    )


def _is_human(assessment: dict[str, Any]) -> bool:
    return (assessment.get("source") or {}).get("source_type") == "HUMAN"


def _verdict(name: str, assessment: dict[str, Any]) -> Verdict:
    feedback = assessment.get("feedback", {})
    error = feedback.get("error") or assessment.get("error") or {}
    text = f"{error.get('error_code', '')}: {error.get('error_message', '')}".strip(": ") if error else ""
    value = feedback.get("value")
    return Verdict(
        judge=name,
        value="" if value is None else (str(value).lower() if isinstance(value, bool) else str(value)),
        rationale=assessment.get("rationale", ""),
        error=text,
        created=assessment.get("create_time", ""),
        passed=_passed(assessment.get("metadata", {}).get("paddock.passed"), value),
    )


def _passed(told: str | None, value: Any) -> bool | None:
    """What the judge's threshold said, or what a verdict without one says by itself."""
    if told in ("true", "false"):
        return told == "true"
    return {"yes": True, "true": True, "no": False, "false": False}.get(str(value).lower())


def _expected(expectation: dict[str, Any]) -> Any:
    serialized = expectation.get("serialized_value")
    return _json(serialized["value"]) if serialized else expectation.get("value")


def _json(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
