"""The launcher, as a program, on a small checkout of its own: no package is downloaded."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FAKE_UV = """
import shutil
if os.environ.get('FAIL_UV'):
    sys.stderr.write('no such index')
    sys.exit(3)
time.sleep(0.3)
"""


@pytest.fixture
def checkout(tmp_path: Path, root: Path) -> Path:
    """A folder with a blank in its name, with the launcher and a command line that tells how it was called."""
    folder = tmp_path / "my checkout"
    package = folder / "scripts" / "paddock_cli"
    package.mkdir(parents=True)
    shutil.copy(root / "paddock", folder / "paddock")
    (folder / "scripts" / "requirements.txt").write_text("# nothing\n")
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, sys\nprint([os.getcwd(), sys.prefix, *sys.argv[1:]])\nsys.exit(int(os.environ.get('CODE', 0)))\n"
    )
    return folder


def launch(
    launcher: Path, *arguments: str, cwd: Path | None = None, **env: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(launcher), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **env},
        check=False,
        timeout=60,
    )


def test_works_from_any_folder_and_hands_arguments_and_exit_code_on(checkout, program, tmp_path):
    program("uv", FAKE_UV)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()

    answer = launch(checkout / "paddock", "run", "a b", "--", "-x", cwd=elsewhere, CODE="7")

    assert answer.returncode == 7
    cwd, _, *arguments = eval(answer.stdout)
    assert cwd == str(elsewhere)
    assert arguments == ["run", "a b", "--", "-x"]


def test_modules_in_the_workspace_are_not_imported_by_the_command_line(checkout, program, tmp_path):
    where = tmp_path / "where uv was called"
    program("uv", FAKE_UV + f"open({str(where)!r}, 'w').write(os.getcwd())")
    marker = tmp_path / "imported"
    hostile = tmp_path / "project"
    hostile.mkdir()
    names = (
        "paddock_cli",
        "sitecustomize",
        "usercustomize",
        "venv",
        "pip",
        "typer",
        "encodings",
        "shutil",
        "os",
    )
    for name in names:
        (hostile / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name!r})\n")
        (hostile / f"_{name}").mkdir()
    package = hostile / "paddock_cli_" / "__main__.py"
    package.parent.mkdir()
    package.write_text(f"open({str(marker)!r}, 'a').write('main')\n")
    package.parent.rename(hostile / "rich")

    answer = launch(checkout / "paddock", cwd=hostile)

    assert answer.returncode == 0, answer.stderr
    assert eval(answer.stdout)[0] == str(hostile)
    # uv obeys a uv.toml and a pyproject.toml there.
    assert where.read_text() != str(hostile)
    assert not marker.exists()


def test_works_by_a_symbolic_link(checkout, program, tmp_path):
    program("uv", FAKE_UV)
    link = tmp_path / "paddock-link"
    link.symlink_to(checkout / "paddock")

    assert launch(link).returncode == 0


def test_makes_its_environment_once(checkout, program, calls):
    log = program("uv", FAKE_UV)

    first = launch(checkout / "paddock")
    second = launch(checkout / "paddock")

    assert "first start" in first.stderr
    assert second.stderr == ""
    installs = [call["arguments"] for call in calls(log)]
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]


def test_a_changed_lock_makes_a_new_environment(checkout, program, calls):
    log = program("uv", FAKE_UV)
    launch(checkout / "paddock")
    (checkout / "scripts" / "requirements.txt").write_text("# something else\n")

    launch(checkout / "paddock")

    assert len(calls(log)) == 2


def test_two_at_once_install_once(checkout, program, calls):
    log = program("uv", FAKE_UV)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: launch(checkout / "paddock"), range(4)))

    assert [answer.returncode for answer in answers] == [0, 0, 0, 0]
    assert len(calls(log)) == 1


def test_a_failed_installation_leaves_nothing_and_says_what_failed(checkout, program, tmp_path):
    program("uv", FAKE_UV)

    answer = launch(checkout / "paddock", FAIL_UV="1")

    assert answer.returncode == 20
    assert "no such index" in answer.stderr
    assert "Traceback" not in answer.stderr
    venvs = tmp_path / "cache" / "paddock" / "venvs"
    assert [path.name for path in venvs.iterdir() if not path.name.endswith(".lock")] == []
    assert launch(checkout / "paddock").returncode == 0


def test_what_pip_is_set_to_reaches_uv_and_what_misleads_does_not(checkout, program, calls):
    log = program("uv", FAKE_UV)

    launch(checkout / "paddock", PIP_INDEX_URL="https://packages.example.com/simple", PIP_TARGET="/nowhere")

    env = calls(log)[0]["env"]
    assert env["UV_DEFAULT_INDEX"] == "https://packages.example.com/simple"
    assert "PIP_TARGET" not in env


def test_a_cache_that_cannot_be_written_is_named(checkout, program, tmp_path):
    program("uv", FAKE_UV)
    (tmp_path / "file").touch()

    answer = launch(checkout / "paddock", XDG_CACHE_HOME=str(tmp_path / "file"))

    assert answer.returncode == 20
    assert "XDG_CACHE_HOME" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_missing_lock_is_named(checkout):
    (checkout / "scripts" / "requirements.txt").unlink()

    answer = launch(checkout / "paddock")

    assert answer.returncode == 20
    assert "requirements.txt" in answer.stderr


def test_an_old_python_is_told_so(checkout):
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 2, 'final', 0);"
        f"runpy.run_path({str(checkout / 'paddock')!r}, run_name='__main__')"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert answer.returncode == 1
    assert "expected Python 3.11 or newer, found 3.9" in answer.stderr
