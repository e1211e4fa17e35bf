"""`./paddock label`: what a person says of a trace, kept as MLflow's feedback under the name of the judge."""

import csv
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paddock_cli import assessments, console
from paddock_cli.errors import BadSettings, CliError, NotFound, UsageFailed
from paddock_cli.mlflow_api import TRACES, Mlflow

COLUMNS = ("trace_id", "judge", "value", "rationale", "user")
_NEEDED = ("trace_id", "judge", "value")
MOST_ROWS = 10_000
MOST_BYTES = 20_000_000
LONGEST_RATIONALE = 10_000
_SHOWN = 20


@dataclass(frozen=True)
class Label:
    """What somebody says of a trace. `place` is where it was given, for messages."""

    trace_id: str
    judge: str
    value: str
    rationale: str
    user: str
    place: str = "--value"


@dataclass(frozen=True)
class Stored:
    """What became of a label: `same` said already what it says."""

    label: Label
    done: Literal["added", "changed", "same"]


def from_file(path: Path, user: str) -> list[Label]:
    """Labels of a CSV file (UTF-8) with a heading: trace_id, judge, value, and perhaps rationale and user.

    Args:
        user: whose labels they are where a row names nobody.

    Raises:
        BadSettings: the file can't be read.
        UsageFailed: mistakes; every one with its line.
    """
    try:
        content = sys.stdin.buffer.read(MOST_BYTES + 1) if str(path) == "-" else _read(path)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = (error.strerror or str(error)) if isinstance(error, OSError) else "other bytes than UTF-8's"
        raise BadSettings(f"a CSV file at {path}", found, "name one that can be read, in UTF-8") from None
    if len(content) > MOST_BYTES:
        raise UsageFailed(f"at most {MOST_BYTES:,} bytes of labels", "more", "divide the file")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return _labels(rows, user)
    except csv.Error as error:
        raise _mistakes([f"after line {rows.line_num}: {error}"]) from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _labels(rows: "csv.DictReader[str]", user: str) -> list[Label]:
    heading = [name.strip() for name in rows.fieldnames or []]
    if not set(_NEEDED) <= set(heading) <= set(COLUMNS):
        raise _mistakes(
            [f"line 1: the heading to be {','.join(COLUMNS)}, found {','.join(heading) or 'none'}"]
        )
    rows.fieldnames = heading
    labels, mistakes = [], []
    for row in rows:
        place = f"line {rows.line_num}"
        if None in row or None in row.values():
            mistakes.append(f"{place}: {len(heading)} fields expected")
            continue
        fields = {name: (row.get(name) or "").strip() for name in COLUMNS}
        mistakes += [f"{place}: {name} is empty" for name in _NEEDED if not fields[name]]
        labels.append(
            Label(
                fields["trace_id"],
                fields["judge"],
                fields["value"],
                fields["rationale"],
                fields["user"] or user,
                place,
            )
        )
        if len(labels) > MOST_ROWS:
            raise UsageFailed(f"at most {MOST_ROWS:,} labels", "more", "divide the file")
    if mistakes:
        raise _mistakes(mistakes)
    if not labels:
        raise UsageFailed("labels in the file", "none", f"write lines under the heading {','.join(COLUMNS)}")
    return labels


def store(server: Mlflow, labels: list[Label]) -> list[Stored]:
    """Keep labels; all of them are looked at before the first is stored.

    A person has one label for each judge and trace: another one takes its place. Storing again what is there changes
    nothing, so a call that broke off is finished by the same call.

    Raises:
        NotFound: no such trace.
        UsageFailed: no such judge, or a value that it can't give. Nothing is stored then.
        ServerFailed: MLflow refused one; the message says how many were stored before.
    """
    traces = {
        trace_id: _info(server, trace_id, labels)
        for trace_id in dict.fromkeys(one.trace_id for one in labels)
    }
    known: dict[str, set[str]] = {}
    wanted, mistakes = [], []
    for label in labels:
        info = traces[label.trace_id]
        experiment = info["trace_location"]["mlflow_experiment"]["experiment_id"]
        if experiment not in known:
            known[experiment] = set(server.judges(experiment))
        said = list(assessments.of_trace(info))
        name = _judge(label.judge, known[experiment] | {one.name for one in said if not one.human})
        if name is None:
            there = ", ".join(sorted(known[experiment])) or "none"
            mistakes.append(f"{label.place}: a judge, found {label.judge!r}; there are {there}")
            continue
        try:
            value = _value(label.value, [one for one in said if one.name == name and not one.human])
        except ValueError as error:
            mistakes.append(f"{label.place}: {error}, found {label.value!r}")
            continue
        mine = [one for one in said if one.human and (one.name, one.by) == (name, label.user)]
        wanted.append((label, name, value, mine))
    if mistakes:
        raise _mistakes(mistakes)
    stored: list[Stored] = []
    for label, name, value, mine in wanted:
        try:
            stored.append(Stored(label, _put(server, label, name, value, mine)))
        except CliError as error:
            found = f"{error.found}; {len(stored)} of {len(labels)} labels are stored"
            raise type(error)(error.expected, found, error.remedy) from None
    return stored


def as_json(stored: Iterable[Stored]) -> dict[str, Any]:
    """The document of --json."""
    return {
        "labels": [
            {"trace_id": one.label.trace_id, "judge": one.label.judge, "value": one.label.value}
            | {"user": one.label.user, "done": one.done}
            for one in stored
        ]
    }


def show(stored: list[Stored]) -> None:
    """A line for a few, a count for many."""
    for one in stored[:_SHOWN]:
        console.out.print(
            f"{one.label.trace_id}  {one.label.judge} {one.label.value}  by {one.label.user}  {one.done}",
            soft_wrap=True,
        )
    counts = {done: sum(one.done == done for one in stored) for done in ("added", "changed", "same")}
    console.say(", ".join(f"{number} {done}" for done, number in counts.items() if number))


def _info(server: Mlflow, trace_id: str, labels: list[Label]) -> dict[str, Any]:
    place = next(one.place for one in labels if one.trace_id == trace_id)
    if not trace_id.startswith("tr-") or not trace_id[3:].isalnum():
        raise NotFound(f"the id of a trace ({place})", repr(trace_id), "list what there is: ./paddock traces")
    try:
        found: dict[str, Any] = server.call("GET", f"{TRACES}/{trace_id}")["trace"]["trace_info"]
    except NotFound:
        raise NotFound(
            f"the trace {trace_id} ({place})", "none", "list what there is: ./paddock traces"
        ) from None
    return found


def _judge(given: str, known: set[str]) -> str | None:
    """The name as it stands in MLflow; RelevanceToQuery and relevance_to_query are one judge."""
    if given in known:
        return given
    spelled = {spelling(name): name for name in known}
    return spelled.get(spelling(given))


def spelling(name: str) -> str:
    """What is the same for every way to write a judge's name, as the server has it."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _value(given: str, verdicts: list[assessments.Assessment]) -> Any:
    """The value as the judge would give it, so that the UI shows both alike. Raises ValueError."""
    word = assessments.category(given)
    values = [one.value for one in verdicts if not one.error and one.value is not None]
    if word in ("yes", "no"):
        # A judge with a number and a threshold is labelled by whether it passes.
        return word == "yes" if values and isinstance(values[-1], bool) else word
    if values and all(isinstance(one, bool) or assessments.category(one) in ("yes", "no") for one in values):
        raise ValueError("yes or no, as this judge says")
    if values and all(isinstance(one, int | float) for one in values):
        try:
            return float(given)
        except ValueError:
            raise ValueError("yes, no or a number, as this judge says") from None
    return given


def _put(
    server: Mlflow, label: Label, name: str, value: Any, mine: list[assessments.Assessment]
) -> Literal["added", "changed", "same"]:
    path = f"{TRACES}/{label.trace_id}/assessments"
    rationale = label.rationale[:LONGEST_RATIONALE]
    assessment: dict[str, Any] = {
        "assessment_name": name,
        "trace_id": label.trace_id,
        "source": {"source_type": assessments.HUMAN, "source_id": label.user},
        "feedback": {"value": value},
        "rationale": rationale,
    }
    if not mine:
        server.call("POST", path, json={"assessment": assessment})
        return "added"
    newest = max(mine, key=lambda one: one.created)
    if newest.category == assessments.category(value) and rationale in ("", newest.rationale):
        return "same"
    body = {"assessment": assessment, "update_mask": "feedback,rationale"}
    server.call("PATCH", f"{path}/{newest.id}", json=body)
    return "changed"


def _mistakes(found: list[str]) -> UsageFailed:
    more = f"\n… {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
    return UsageFailed(
        "labels that can be stored",
        f"{count}:\n" + "\n".join(found[:_SHOWN]) + more + "\n",
        "mend them; nothing was stored",
    )
