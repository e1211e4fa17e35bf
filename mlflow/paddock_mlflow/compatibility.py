"""The MLflow releases that this plugin was checked with, and a refusal of any other.

The gap modules lean on private names of MLflow. A release that renames one would fail in the middle of a request, or
worse, silently enforce nothing; so the commands refuse to start before that. `tests/unit/mlflow/test_contract.py`
asserts each name for the pinned release.
"""

from importlib.metadata import version

from paddock_mlflow.errors import IncompatibleMlflow

CHECKED_RELEASES = frozenset({"3.17.2"})


def require_checked_release(installed: str | None = None) -> None:
    """Raises:
    IncompatibleMlflow: the installed MLflow is another release.
    """
    found = installed or version("mlflow")
    if found not in CHECKED_RELEASES:
        expected = ", ".join(sorted(CHECKED_RELEASES))
        raise IncompatibleMlflow(
            f"expected MLflow {expected}, found {found}; install the release that requirements.txt pins, or run the"
            " tests with the new one and add it to CHECKED_RELEASES"
        )
