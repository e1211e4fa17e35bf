"""Where suite runs are kept, and how they are found again: in this checkout's state, and in MLflow.

```
<state>/suites/<id>/results.json    what the run left: see results.py
<state>/suites/<id>/journal.jsonl   what it has begun: see journal.py
```
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from pydantic import ValidationError

from paddock_cli import mlflow_runs
from paddock_cli.errors import CliError, NotFound, ServerFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.settings import Paths, write_private
from paddock_cli.suites.results import SuiteRun

RESULTS = "results.json"
LATEST = "latest"
RUN_TAG = "paddock.suite_run"
"""Tag of a suite run's MLflow run: its id."""
LABEL_TAG = "paddock.suite_label"
SUITE_TAG = "paddock.suite"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,99}")
"""What a label may be: the names of most branches are."""
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}-\d{8}-\d{6}-[0-9a-f]{4}")


def new_id(suite: str) -> str:
    """An id that tells suite and time (UTC), like `coding-20261125-211500-3f9a`."""
    return f"{suite}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(2)}"


def folder(where: Paths, suite_run: str) -> Path:
    """Where a suite run keeps what it needs and leaves."""
    return where.state / "suites" / suite_run


def write(where: Paths, run: SuiteRun) -> None:
    """Keep what is known of a suite run by now, whole or not at all."""
    write_private(folder(where, run.id) / RESULTS, run.model_dump_json(indent=2) + "\n")


def local(where: Paths) -> list[SuiteRun]:
    """The suite runs of this checkout, newest first; what can't be read is left out."""
    return sorted(_readable(where), key=lambda run: run.created, reverse=True)


def find(
    where: Paths, server: Mlflow | None, reference: str, *, suite: str = "", other_than: str = ""
) -> SuiteRun:
    """A suite run by its id, its label (the newest of it), a path to its results, or `latest`.

    Args:
        server: MLflow, which has what other machines ran; None to look in this checkout alone.
        suite: name of the suite whose runs a label or `latest` means; of any where empty.
        other_than: id of a suite run that a label or `latest` does not mean: a run is no baseline of its own.

    Raises:
        NotFound: there is none.
        ServerFailed: MLflow does not answer, or what is found is no document of a suite run.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".json" or (path / RESULTS).is_file():
        return _read(path / RESULTS if path.is_dir() else path)
    known = local(where)
    if reference == LATEST:
        if meant := [run for run in known if suite in ("", run.suite) and run.id != other_than]:
            return meant[0]
        raise _missing("a suite run in this checkout")
    if ID.fullmatch(reference) and (of_id := [run for run in known if run.id == reference]):
        return of_id[0]
    if not LABEL.fullmatch(reference):
        raise _missing(f"a suite run {reference!r}")
    candidates = [
        run for run in known if run.label == reference and suite in ("", run.suite) and run.id != other_than
    ]
    if server is not None:
        candidates += _of_mlflow(server, reference, suite, other_than)
    if not candidates:
        raise _missing(f"a suite run with the id or label {reference!r}")
    return max(candidates, key=lambda run: run.created)


def _missing(expected: str) -> NotFound:
    return NotFound(
        expected, "none", "list them: ./paddock suite status; or make one: ./paddock suite run NAME"
    )


def _readable(where: Paths) -> Iterator[SuiteRun]:
    for path in (where.state / "suites").glob(f"*/{RESULTS}"):
        try:
            yield _read(path)
        except CliError:
            continue


def _read(path: Path) -> SuiteRun:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"a suite run's results at {path}", str(error.strerror), "mend the path, or name an id or a label"
        ) from None
    return _parsed(text, str(path))


def _parsed(text: bytes, place: str) -> SuiteRun:
    try:
        return SuiteRun.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ServerFailed(
            f"{place} to hold the results of a suite run",
            f"{where}: {first['msg']}" if where else first["msg"],
            "name another, or run the suite again",
        ) from None


def _of_mlflow(server: Mlflow, reference: str, suite: str, other_than: str) -> Iterator[SuiteRun]:
    experiment_id = server.experiment_id()
    of_suite = f" and tags.`{SUITE_TAG}` = '{suite}'" if LABEL.fullmatch(suite) else ""
    for tag, more in ((RUN_TAG, ""), (LABEL_TAG, of_suite)):
        # One more than is wanted, which may be the one that is not.
        for run in mlflow_runs.search(server, experiment_id, f"tags.`{tag}` = '{reference}'{more}", 2):
            if tag == LABEL_TAG and run.tags.get(RUN_TAG) == other_than:
                continue
            try:
                content = mlflow_runs.read(server, run, RESULTS)
            except NotFound:
                # Cut off before its first attempt ended.
                continue
            yield _parsed(content, f"{RESULTS} of the MLflow run {run.run_id}")
            return
