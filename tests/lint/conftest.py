"""Each test of a kind of file runs once for each such file of the repository."""

import pytest
from linting import files, is_lock, is_script, name_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = {
        "dockerfile": lambda path: path.name == "Dockerfile" or path.name.endswith(".Dockerfile"),
        "script": is_script,
        "compose_file": lambda path: (
            path.name.startswith(("docker-compose", "compose")) and path.suffix == ".yml"
        ),
        "lock": is_lock,
        "go_module": lambda path: path.name == "go.mod",
    }
    for name, is_of_kind in kinds.items():
        if name in metafunc.fixturenames:
            found = [path for path in files() if is_of_kind(path)]
            assert found, f"no file of the kind {name}"
            metafunc.parametrize(name, found, ids=map(name_of, found))
