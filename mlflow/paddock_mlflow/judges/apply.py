"""Read what a server has of judges, and write a plan, change by change. Over REST; needs no MLflow.

Each change is one request that is whole in itself and makes nothing a second time, so an apply that was cut off is
finished by the next.
"""

import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

from paddock_mlflow.config.apply import require_possible
from paddock_mlflow.config.errors import Incomplete, InvalidConfiguration, Problem, Refused
from paddock_mlflow.config.plan import Change, Plan
from paddock_mlflow.config.source import Source
from paddock_mlflow.config.state import GATEWAY, PADDOCK, PERMISSIONS, Api
from paddock_mlflow.judges import validation
from paddock_mlflow.judges.definition import Definition
from paddock_mlflow.judges.plan import JudgeState, State, plan

JUDGES = f"{PADDOCK}/judges"
JUDGE_USER = "judge"
_POLL_SECONDS = 0.5


def compare(
    api: Api, experiment_id: str, source: Source, wanted: Mapping[str, Definition]
) -> tuple[State, Plan]:
    """What the server has, and what would change.

    Raises:
        InvalidConfiguration: MLflow would refuse something of the file.
        Refused: the server refused to be read, or did not answer.
    """
    definitions = [one.model_dump(mode="json") for one in wanted.values()]
    said = api.call("POST", f"{JUDGES}/check", json={"definitions": definitions})
    if problems := validation.remote(source, said["problems"]):
        raise InvalidConfiguration(source.file, problems)
    state = read(api, experiment_id, {one.endpoint for one in wanted.values() if one.endpoint})
    return state, plan(wanted, state)


def read(api: Api, experiment_id: str, asked: set[str]) -> State:
    """The judges of an experiment, and what stands around them.

    Args:
        asked: endpoints whose grants are looked at.

    Raises:
        Refused: the server refused a request or did not answer.
    """
    state = State(experiment_id)
    for one in api.call("GET", JUDGES, params={"experiment_id": experiment_id})["judges"]:
        definition = Definition.model_validate(one["definition"])
        state.judges[definition.name] = JudgeState(**{**one, "definition": definition})
    for endpoint in api.call("GET", f"{GATEWAY}/endpoints/list").get("endpoints", []):
        state.endpoints[endpoint["name"]] = endpoint["endpoint_id"]
    state.granted = frozenset(
        name for name in asked & state.endpoints.keys() if _may_use(api, state.endpoints[name])
    )
    names = {identifier: name for name, identifier in state.endpoints.items()}
    policies = api.call("GET", f"{GATEWAY}/budgets/list", params={"max_results": 100}).get(
        "budget_policies", []
    )
    state.limited = frozenset(
        names[policy["target_value"]]
        for policy in policies
        if policy.get("budget_action") == "REJECT" and policy.get("target_value") in names
    )
    return state


def apply(
    api: Api,
    state: State,
    planned: Plan,
    wanted: Mapping[str, Definition],
    *,
    prune: bool = False,
    told: Callable[[Change], None] = lambda change: None,
) -> list[Change]:
    """Make the changes of a plan, and its deletions where `prune`; returns them.

    Raises:
        Conflict: nothing was written.
        Incomplete: a change was refused; says what was done, and what not.
    """
    require_possible(planned)
    todo = [*planned.changes, *(planned.unmanaged if prune else ())]
    done: list[Change] = []
    for change in todo:
        try:
            _write(api, state, change, wanted)
        except Refused as error:
            left = [one.text() for one in todo[len(done) + 1 :]]
            raise Incomplete([one.text() for one in done], change.text(), left, error) from error
        done.append(change)
        told(change)
    return done


def code_problems(
    api: Api, experiment_id: str, source: Source, wanted: Mapping[str, Definition], seconds: float
) -> list[Problem]:
    """What the judging process said of the code scorers, at their lines; waits so long for it.

    Raises:
        Refused: the server refused to be read, or did not answer.
    """
    coded = {name for name, one in wanted.items() if one.kind == "python"}
    deadline = time.monotonic() + seconds
    while coded:
        state = read(api, experiment_id, set())
        if all(state.judges[name].checked for name in coded if name in state.judges):
            return [
                source.problem(
                    ("judges", name, "python"),
                    "code that loads",
                    problem,
                    "mend the file",
                )
                for name in sorted(coded)
                if name in state.judges and (problem := state.judges[name].problem)
            ]
        if time.monotonic() > deadline:
            return [
                source.problem(
                    ("judges", name, "python"),
                    f"the judging process to load it within {seconds:.0f} s",
                    "no answer",
                    "look at its log: ./paddock logs mlflow-jobs",
                )
                for name in sorted(coded)
                if name in state.judges and not state.judges[name].checked
            ]
        time.sleep(_POLL_SECONDS)
    return []


def _write(api: Api, state: State, change: Change, wanted: Mapping[str, Definition]) -> None:
    if change.kind == "grant":
        body = {
            "username": JUDGE_USER,
            "resource_type": "gateway_endpoint",
            "resource_id": change.id,
            "permission": "USE",
        }
        api.call("POST", f"{PERMISSIONS}/grant", json=body)
    elif change.verb == "delete":
        query = {"experiment_id": state.experiment_id}
        api.call("DELETE", f"{JUDGES}/{quote(change.name, safe='')}", params=query)
    else:
        definition = wanted[change.name].model_dump(mode="json")
        api.call("PUT", JUDGES, json={"experiment_id": state.experiment_id, "definition": definition})


def _may_use(api: Api, endpoint_id: str) -> bool:
    query = {"username": JUDGE_USER, "resource_type": "gateway_endpoint", "resource_id": endpoint_id}
    try:
        found = api.call("GET", f"{PERMISSIONS}/get", params=query)
    except Refused as error:
        if error.status == 404:
            return False
        raise
    return found.get("permission") in ("USE", "EDIT", "MANAGE")
