"""The difference between the judges that a file asks for and those that a server has: data, made without a request."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from paddock_mlflow.config.plan import Change, Difference, Plan
from paddock_mlflow.judges.definition import Definition


@dataclass(frozen=True)
class JudgeState:
    """A judge as a server has it. `rate` is None where it was never started."""

    definition: Definition
    version: int
    fingerprint: str
    rate: float | None
    filter: str
    declared: bool
    checked: bool
    """Whether its code was loaded since it was applied, or it has none."""
    problem: str


@dataclass
class State:
    """What a server has, as far as judges go."""

    experiment_id: str
    judges: dict[str, JudgeState] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict)
    """Id of each endpoint by name."""
    granted: frozenset[str] = frozenset()
    """The endpoints of the file that the judges' user may call."""
    limited: frozenset[str] = frozenset()
    """Endpoints that a budget of theirs closes when it is spent."""


def plan(wanted: Mapping[str, Definition], state: State) -> Plan:
    """What to write, in an order that works and that a second apply can take up anywhere."""
    conflicts = list(_conflicts(wanted, state))
    changes = [*_grants(wanted, state), *_changes(wanted, state)]
    unmanaged = [
        Change("delete", "judge", name, _differences(_shown(one), {}))
        for name, one in state.judges.items()
        if name not in wanted
    ]
    return Plan(tuple(changes), tuple(unmanaged), tuple(conflicts), tuple(_notes(wanted, state)))


def _conflicts(wanted: Mapping[str, Definition], state: State) -> Iterator[str]:
    for endpoint in sorted(_asked(wanted) - state.endpoints.keys()):
        known = ", ".join(sorted(state.endpoints)) or "none"
        yield (
            f"expected the gateway to have the endpoint {endpoint}, found only {known}; declare it in the gateway's"
            " configuration, and ./paddock config apply"
        )


def _grants(wanted: Mapping[str, Definition], state: State) -> Iterator[Change]:
    for endpoint in sorted(_asked(wanted) & state.endpoints.keys() - state.granted):
        yield Change(
            "create",
            "grant",
            f"judge on endpoint {endpoint}",
            (Difference("permission", "", "USE"),),
            id=state.endpoints[endpoint],
        )


def _changes(wanted: Mapping[str, Definition], state: State) -> Iterator[Change]:
    for name, definition in wanted.items():
        known = state.judges.get(name)
        if known is None:
            yield Change("create", "judge", name, _differences({}, definition.fields()))
            continue
        # What the file leaves to the UI is not compared.
        old, new = _without_schedule(known.definition.fields()), _without_schedule(definition.fields())
        differences = _differences(old, new) + tuple(_schedule(definition, known))
        if differences:
            yield Change("update", "judge", name, differences)


def _schedule(definition: Definition, known: JudgeState) -> Iterator[Difference]:
    if not definition.online:
        if known.rate:
            yield Difference("run", f"online, sampling {known.rate:g}", "on demand")
        return
    if known.rate is None:
        yield Difference("run", "on demand", "online")
    if definition.sampling is not None and known.rate is not None and known.rate != definition.sampling:
        yield Difference("sampling", f"{known.rate:g}", f"{definition.sampling:g}")
    if (definition.filter or definition.sampling is not None) and known.filter != definition.filter:
        yield Difference("filter", known.filter, definition.filter)


def _notes(wanted: Mapping[str, Definition], state: State) -> Iterator[str]:
    for name, one in state.judges.items():
        if name in wanted and one.problem:
            yield f"judge {name} can't judge: {one.problem}"
    for endpoint in sorted(_asked(wanted) & state.endpoints.keys() - state.limited):
        yield (
            f"no budget ends what judges spend on the endpoint {endpoint}: one of scope endpoint, action reject, under"
            " `budgets` of the gateway's configuration would"
        )


def _asked(wanted: Mapping[str, Definition]) -> set[str]:
    return {one.endpoint for one in wanted.values() if one.endpoint}


def _shown(state: JudgeState) -> dict[str, str]:
    fields = _without_schedule(state.definition.fields())
    rate = {} if state.rate is None else {"sampling": f"{state.rate:g}"}
    return {
        "kind": state.definition.kind,
        **fields,
        **rate,
        **({"filter": state.filter} if state.filter else {}),
    }


def _without_schedule(fields: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in fields.items() if name not in ("run", "sampling", "filter")}


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, old.get(name, ""), new.get(name, ""))
        for name in dict.fromkeys([*new, *old])
        if old.get(name, "") != new.get(name, "")
    )
