"""The judges that a server has, as a file: one that is valid, and from which a plan has nothing to change."""

from collections.abc import Iterator
from typing import Any

import yaml

from paddock_mlflow.judges.catalogue import BUILT_IN, YES_NO
from paddock_mlflow.judges.definition import Definition, Threshold
from paddock_mlflow.judges.model import DEFAULT_ENDPOINT
from paddock_mlflow.judges.plan import JudgeState, State

_HEADER = """\
# yaml-language-server: $schema=judges.schema.json
#
# What judges there were when this was written: ./paddock judges export
"""


def export(state: State) -> str:
    """The file's text."""
    judges = {
        name: _entry(one) for name, one in sorted(state.judges.items()) if one.definition.kind != "foreign"
    }
    whole = {"version": 1, "endpoint": DEFAULT_ENDPOINT, "judges": judges}
    return _HEADER + yaml.dump(
        whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120
    )


def unexportable(state: State) -> Iterator[str]:
    """What a file can't say."""
    for name, one in sorted(state.judges.items()):
        if one.definition.kind == "foreign":
            yield f"judge {name}: an ensemble, code in MLflow's registry, or settings that a file does not have"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, since instructions are read by people."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _entry(state: JudgeState) -> dict[str, Any]:
    one = state.definition
    entry = _kind(one)
    if one.endpoint not in ("", DEFAULT_ENDPOINT):
        entry["endpoint"] = one.endpoint
    if state.rate is None:
        entry["run"] = "on demand"
    else:
        entry["sampling"] = state.rate
        if state.filter:
            entry["filter"] = state.filter
    if (passing := _passing(one)) is not None:
        entry["pass"] = passing
    return entry


def _kind(one: Definition) -> dict[str, Any]:
    match one.kind:
        case "built-in":
            return {"scorer": one.scorer, **({"options": one.options} if one.options else {})}
        case "guidelines":
            return {
                "guidelines": list(one.guidelines),
                **({"sees": one.sees} if one.sees != "answer" else {}),
            }
        case "python":
            assert one.code is not None
            python = f"{one.code.file}:{one.code.function}"
            return {"python": python, **({"expects": True} if one.expects else {})}
        case _:
            values = _values(one)
            return {"instructions": one.instructions, **({"values": values} if values is not None else {})}


def _values(one: Definition) -> Any:
    if one.scale is not None:
        whole = {} if one.scale.whole else {"whole": False}
        return {"lowest": _number(one.scale.lowest), "highest": _number(one.scale.highest), **whole}
    if one.values == "words":
        return None if one.words == YES_NO else list(one.words)
    return one.values


def _passing(one: Definition) -> Any:
    threshold = one.threshold
    known = BUILT_IN.get(one.scorer)
    if threshold.is_default or (known and threshold == Threshold(answers=known.passing)):
        return None
    if threshold.answers:
        return list(threshold.answers)
    if threshold.truth is not None:
        return threshold.truth
    bounds = {"at_least": threshold.at_least, "at_most": threshold.at_most}
    return {name: _number(value) for name, value in bounds.items() if value is not None}


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value
