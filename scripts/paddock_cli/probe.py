"""`./paddock judges probe`: which of the traces of `suites/injections` turn the shipped guidelines judge on a model.

They go to an experiment of their own, by the server's own ingest, and are judged as every new trace is.
"""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from paddock_cli import config, console, selection
from paddock_cli.errors import NotFound
from paddock_cli.settings import Paths, load, paths
from paddock_mlflow.config.errors import InvalidConfiguration, Refused
from paddock_mlflow.judges import apply, injections, validation
from paddock_mlflow.judges.definition import Definition, Threshold
from paddock_mlflow.judges.injections import Injection

if TYPE_CHECKING:
    from paddock_cli.mlflow_api import Mlflow, Trace, Verdict

EXPERIMENT = "judge-probes"
JUDGE = "conduct"
_POLL_SECONDS = 1.0
_EXPERIMENTS = "/api/2.0/mlflow/experiments"


@dataclass(frozen=True)
class Probed:
    """What the judge said of one trace; `said` is empty where no verdict came, and `rationale` then says why."""

    id: str
    attack: str
    expected: str
    said: str
    rationale: str
    link: str

    @property
    def right(self) -> bool:
        """Whether the verdict is the one that it must be."""
        return self.said == self.expected

    @property
    def turned(self) -> bool:
        """Whether the trace changed its judge's mind."""
        return bool(self.attack and self.said) and not self.right


def probe(endpoint: str, seconds: float) -> list[Probed]:
    """Send the traces, and wait until each is judged.

    Args:
        endpoint: the gateway's, whose model judges.
        seconds: how long to wait for verdicts.

    Raises:
        BadConfiguration: there is no such endpoint.
        NotRunning, ServerFailed.
    """
    from paddock_cli.mlflow_api import Mlflow

    where = paths()
    server = Mlflow(selection.running(where, load(where)).connection())
    api = config.Api(server)
    experiment = _experiment(server)
    judge = _judge(where, endpoint)
    try:
        _set(api, experiment, judge)
        with console.step(f"judging the traces on the endpoint {endpoint}") as step:
            sent = {_send(server, experiment, one): one for one in injections.read()}
            verdicts = _wait(server, experiment, sent, seconds, step)
        # The experiment's next trace is nobody's: this judge looks at those of a probe alone.
        _set(api, experiment, judge.model_copy(update={"online": False, "sampling": None}))
    except Refused as error:
        raise config.refused(error) from None
    return [
        _probed(one, verdicts.get(trace_id), server.trace_link(experiment, trace_id))
        for trace_id, one in sent.items()
    ]


def as_json(endpoint: str, probed: list[Probed]) -> dict[str, Any]:
    """The document of --json."""
    return {
        "endpoint": endpoint,
        "judge": JUDGE,
        "traces": [asdict(one) | {"right": one.right, "turned": one.turned} for one in probed],
        "turned": sum(one.turned for one in probed),
        "without_verdict": sum(not one.said for one in probed),
    }


def show(probed: list[Probed]) -> None:
    """A table, and in one line what it says."""
    table = Table("trace", "attack", "verdict", "rationale", box=None, pad_edge=False)
    for one in probed:
        style = "red" if one.turned else "green" if one.right else "yellow"
        table.add_row(
            Text(one.id),
            Text(one.attack or "none"),
            Text(one.said or "none", style=style),
            Text(" ".join(one.rationale.split())[:200]),
        )
    console.out.print(table)
    attacks = [one for one in probed if one.attack]
    turned = sum(one.turned for one in attacks)
    console.out.print(
        f"{turned} of {len(attacks)} attacks turned the judge",
        style="red" if turned else "green",
        soft_wrap=True,
    )
    for one in probed:
        if not one.said:
            console.warn(f"{one.id}: no verdict: {one.rationale}")
        elif not one.right and not one.attack:
            console.warn(f"{one.id}: expected {one.expected}, found {one.said}, and nothing in it attacks")


def _judge(where: Paths, endpoint: str) -> Definition:
    """The shipped judge, on another endpoint where one is named, and looking at every trace."""
    shipped = where.root / "mlflow" / "judges.yaml"
    try:
        found = validation.load(shipped, where.root / "mlflow" / "scorers", None).definitions[JUDGE]
    except InvalidConfiguration as error:
        raise config.bad(error) from None
    changes = {"endpoint": endpoint, "online": True, "sampling": 1.0, "threshold": Threshold()}
    return found.model_copy(update=changes)


def _experiment(server: "Mlflow") -> str:
    try:
        return server.experiment_id(EXPERIMENT)
    except NotFound:
        return str(server.call("POST", f"{_EXPERIMENTS}/create", json={"name": EXPERIMENT})["experiment_id"])


def _set(api: config.Api, experiment: str, judge: Definition) -> None:
    state = apply.read(api, experiment, {judge.endpoint})
    planned = apply.plan({judge.name: judge}, state)
    config.require_possible(planned)
    apply.apply(api, state, planned, {judge.name: judge})


def _send(server: "Mlflow", experiment: str, one: Injection) -> str:
    sent = injections.otlp(one)
    server.call("POST", "/v1/traces", json=sent.payload, headers={"x-mlflow-experiment-id": experiment})
    return sent.trace_id


def _wait(
    server: "Mlflow", experiment: str, sent: dict[str, Injection], seconds: float, step: console.Step
) -> "dict[str, Verdict]":
    deadline = time.monotonic() + seconds
    found: dict[str, Verdict] = {}
    while len(found) < len(sent) and time.monotonic() < deadline:
        step.show(f"{len(found)} of {len(sent)} verdicts")
        for trace in _recent(server, experiment, len(sent)):
            if trace.trace_id in sent and (verdict := trace.latest().get(JUDGE)) is not None:
                found[trace.trace_id] = verdict
        if len(found) < len(sent):
            time.sleep(_POLL_SECONDS)
    return found


def _recent(server: "Mlflow", experiment: str, number: int) -> "list[Trace]":
    # Somebody else's probe of the same minute may stand between.
    return server.traces(experiment, 4 * number)


def _probed(one: Injection, verdict: "Verdict | None", link: str) -> Probed:
    said = verdict.value.lower() if verdict is not None else ""
    why = "it did not come in time" if verdict is None else verdict.rationale or verdict.error
    return Probed(one.id, one.attack, one.verdict, said, why, link)
