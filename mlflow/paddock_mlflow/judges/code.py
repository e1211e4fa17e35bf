"""Code scorers: functions of files that the operator put into a folder of the judging process, mounted read-only there.

MLflow's registry can hold a function's text too (`@scorer`), and its server refuses to run that: anybody with an account
could have put it there. Here the text in the database is for reading alone; what runs is the file, where it is the one
that was applied.

`python -m paddock_mlflow.judges.code FOLDER FILE FUNCTION SHA256` loads one and prints why it can't be; for `CodeCheck`.
"""

import hashlib
import importlib.util
import inspect
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from mlflow.entities import Feedback
from mlflow.genai.scorers import Scorer
from pydantic import PrivateAttr
from sqlalchemy import select, update

from paddock_mlflow.database import engine, judges
from paddock_mlflow.judges.definition import Code, Definition
from paddock_mlflow.judges.errors import UnusableJudge

TIMEOUT_SECONDS = 60
"""Of one verdict."""
LOAD_SECONDS = 30
"""Of the import of a file."""
PACKAGE = Path(__file__).resolve().parents[2]
"""The folder that `paddock_mlflow` is in."""

_loaded: dict[tuple[Path, str], ModuleType] = {}


class CodeScorer(Scorer):
    """A function as a scorer. It is given what it asks for by name: inputs, outputs, expectations, trace."""

    _function: Callable[..., Any] = PrivateAttr()

    def __call__(
        self, *, inputs: Any = None, outputs: Any = None, expectations: Any = None, trace: Any = None
    ) -> Any:
        given = {"inputs": inputs, "outputs": outputs, "expectations": expectations, "trace": trace}
        asked = inspect.signature(self._function).parameters
        result = self._function(**{name: value for name, value in given.items() if name in asked})
        if not isinstance(result, bool | int | float | str | Feedback):
            raise UnusableJudge(
                f"{self.name} to return a truth, a number, a text or a Feedback",
                f"a {type(result).__name__}",
                "mend the function",
            )
        return result


def load(name: str, code: Code, folder: Path | None) -> Scorer:
    """The scorer of a judge's code.

    Args:
        name: the judge's.
        code: as it was applied.
        folder: where its file is; None where code must not run.

    Raises:
        UnusableJudge: not here, not that file, or it can't be imported.
    """
    if folder is None:
        raise UnusableJudge(
            f"the judge {name} to run in the judging process, which alone has its file",
            "another process",
            "let the stack ask it: ./paddock evaluate --judge " + name,
        )
    path = folder / code.file
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UnusableJudge(
            f"a readable file {code.file} among the code scorers",
            error.strerror or str(error),
            "put it into the folder JUDGES_CODE, readable for all, and start the stack again",
        ) from None
    if hashlib.sha256(raw).hexdigest() != code.sha256:
        raise UnusableJudge(
            f"{code.file} as it was applied", "another content", "apply it: ./paddock judges apply"
        )
    function = getattr(_module(path, code.sha256), code.function)
    scorer = CodeScorer(name=name, timeout=TIMEOUT_SECONDS)
    scorer._function = function
    return scorer


def _module(path: Path, sha256: str) -> ModuleType:
    if (known := _loaded.get((path, sha256))) is not None:
        return known
    spec = importlib.util.spec_from_file_location(f"paddock_code_{sha256[:16]}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UnusableJudge(
            f"{path.name} to load", _where(error, path), "mend the file, and apply it"
        ) from error
    _loaded[path, sha256] = module
    return module


def _where(error: BaseException, path: Path) -> str:
    """An exception with the last line of the file that it came by."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"


class CodeCheck:
    """Loads each code scorer once after it was applied, in a process of its own, and writes down why one can't be.

    Args:
        database_url: of MLflow's tracking database.
        folder: where the files are.
    """

    def __init__(self, database_url: str, folder: Path) -> None:
        self._engine = engine(database_url)
        self._folder = folder

    def tick(self) -> int:
        """Look at what was applied since the last call; returns how many there were."""
        with self._engine.connect() as connection:
            new = connection.execute(select(judges).where(judges.c.checked != judges.c.fingerprint)).all()
        for row in new:
            problem = self._problem(row.name, Definition.model_validate(row.definition))
            change = (
                update(judges)
                .where(
                    judges.c.experiment_id == row.experiment_id,
                    judges.c.name == row.name,
                    # Applied anew meanwhile: that one is looked at next.
                    judges.c.fingerprint == row.fingerprint,
                )
                .values(checked=row.fingerprint, problem=problem)
            )
            with self._engine.begin() as connection:
                connection.execute(change)
        return len(new)

    def _problem(self, name: str, definition: Definition) -> str:
        code = definition.code
        assert code is not None
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(self._folder), code.file, code.function, code.sha256],
                env={key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
                | {"PYTHONPATH": str(PACKAGE)},
                capture_output=True,
                text=True,
                timeout=LOAD_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{code.file}: it is not loaded after {LOAD_SECONDS} s"
        if done.returncode == 0:
            return ""
        said = (
            done.stdout.strip() or done.stderr.strip()[-500:] or f"its process ended with {done.returncode}"
        )
        return f"{code.file}: {said}"


def _main(folder: str, file: str, function: str, sha256: str) -> int:
    try:
        load(function, Code(file=file, function=function, sha256=sha256, source=""), Path(folder))
    except UnusableJudge as error:
        print(error.found)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
