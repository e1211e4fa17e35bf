"""What the engine is told, with a stand-in for the docker program: no container is started."""

import json
import os
import stat
from pathlib import Path

import pytest

from paddock_cli.compose import BuildSteps, ComposeStack, _bytes, _json_lines
from paddock_cli.errors import BadSettings, BuildFailed, NoSpace, NotRunning, PortTaken, StartFailed
from paddock_cli.settings import load
from paddock_cli.stack import Request

DOCKER = """
def after(word):
    return arguments[arguments.index(word) + 1:]

def told(name, default=''):
    path = os.path.join(os.environ['ANSWERS'], name)
    return open(path).read() if os.path.exists(path) else default

if arguments[0] == 'compose':
    rest = after('--env-file')[1:]
    options = ('--project-name', 'paddock', '--profile', 'agent', 'egress', '*', '--progress', 'plain', '--file')
    rest = [word for word in rest if word not in options and not word.endswith(('.yml', '.hosts.json'))]
    command = rest[0]
    if command == 'config':
        print('paddock/mlflow:1' if '--images' in rest else json.dumps({'name': 'proj'}))
    elif command == 'port':
        print(told('port', '127.0.0.1:5000'))
    elif command == 'exec':
        print(told('secret', 'the-password'))
    elif command == 'ps':
        print(told('ps'))
    else:
        sys.stdout.write(told(command + '.out'))
        sys.stderr.write(told(command + '.err'))
        sys.exit(int(told(command + '.code', '0')))
elif arguments[:2] == ['image', 'inspect']:
    sys.exit(int(told('image', '0')))
elif arguments[0] == 'pull':
    sys.exit('no registry')
elif arguments[0] == 'ps':
    print(told('running'))
elif arguments[0] == 'info':
    print('{"runc": {}, "other": {}}' if 'Runtimes' in arguments[-1] else '/')
elif arguments[0] == 'inspect':
    print(told('inspect'))
elif arguments[0] == 'wait':
    time.sleep(float(told('wait.seconds', '0')))
    print(told('wait', '0'))
elif arguments[0] == 'logs':
    sys.stdout.write(told('logs'))
    sys.stderr.write(told('logs.err'))
"""


@pytest.fixture
def docker(program, tmp_path, monkeypatch):
    """The stand-in; returns its list of calls."""
    (tmp_path / "answers").mkdir()
    monkeypatch.setenv("ANSWERS", str(tmp_path / "answers"))
    return program("docker", DOCKER)


@pytest.fixture
def answers(tmp_path, docker):
    """Sets what the stand-in says."""
    return lambda name, text: (tmp_path / "answers" / name).write_text(text)


@pytest.fixture
def make(where, docker, monkeypatch):
    """The stack with settings from these variables, as if they stood in the shell."""

    def build(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return ComposeStack(where, load(where, {"MLFLOW_PORT": "0"} | variables))

    return build


def compose_calls(calls, docker, word):
    return [call for call in calls(docker) if call["arguments"][0] == "compose" and word in call["arguments"]]


def test_keys_go_into_a_private_file_and_nowhere_else(make, calls, docker, where):
    make(OPENAI_API_KEY="sk-canary", S3_SECRET_KEY="s3-canary").up()

    for call in calls(docker):
        assert "canary" not in json.dumps(call)
    written = where.state / "compose.env"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert "OPENAI_API_KEY='sk-canary'" in written.read_text()
    assert "S3_SECRET_KEY='s3-canary'" in written.read_text()
    assert compose_calls(calls, docker, "up")[0]["env"]["PADDOCK_ENV_FILE"] == str(written)


def test_the_users_file_is_part_of_what_compose_reads(make, where):
    (where.root / ".env").write_text('AGENT_MEMORY=8g\nANTHROPIC_API_KEY="sk-2"\n')

    make().up()

    text = (where.state / "compose.env").read_text()
    assert "AGENT_MEMORY='8g'" in text
    assert "ANTHROPIC_API_KEY='sk-2'" in text


def test_a_small_mtu_of_the_uplink_is_passed_on(make, where, monkeypatch):
    monkeypatch.setattr("paddock_cli.preflight.uplink_mtu", lambda: 1400)
    make().up()
    assert "NETWORK_MTU='1400'" in (where.state / "compose.env").read_text()


def test_a_set_mtu_wins_and_a_usual_one_is_left_alone(make, where, monkeypatch):
    monkeypatch.setattr("paddock_cli.preflight.uplink_mtu", lambda: 9000)
    make().up()
    assert "NETWORK_MTU" not in (where.state / "compose.env").read_text()
    make(NETWORK_MTU="1280").up()
    assert "NETWORK_MTU='1280'" in (where.state / "compose.env").read_text()


def test_a_value_that_a_dotenv_file_cannot_hold_is_refused(make, where):
    (where.root / ".env").write_text('CODER_MODEL="it\'s"\n')

    with pytest.raises(BadSettings, match="CODER_MODEL"):
        make().up()


def test_up_waits_for_health_and_does_not_build_again(make, calls, docker):
    make().up()

    (up,) = compose_calls(calls, docker, "up")
    assert {"--wait", "--no-build", "--detach"} <= set(up["arguments"])
    assert compose_calls(calls, docker, "build")


def test_a_taken_port_is_found_before_anything_is_built(make, calls, docker):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stack = make(MLFLOW_PORT=str(taken.getsockname()[1]))
        with pytest.raises(PortTaken, match=str(taken.getsockname()[1])):
            stack.up()
    assert not compose_calls(calls, docker, "build")


def test_a_port_taken_in_the_meantime_is_told_as_such(make, answers):
    answers("up.err", "Bind for 127.0.0.1:5000 failed: port is already allocated\n")
    answers("up.code", "1")

    with pytest.raises(PortTaken):
        make().up()


def test_a_service_that_does_not_start_is_told_with_its_log(make, answers):
    rows = [
        {
            "ID": "1",
            "Name": "proj-mlflow-1",
            "Service": "mlflow",
            "State": "exited",
            "ExitCode": 3,
            "Health": "",
        },
        {
            "ID": "2",
            "Name": "proj-setup-1",
            "Service": "mlflow-setup",
            "State": "exited",
            "ExitCode": 0,
            "Health": "",
        },
    ]
    answers("ps", "\n".join(map(json.dumps, rows)))
    answers("up.err", "dependency failed to start: container proj-mlflow-1 exited (3)\n")
    answers("up.code", "1")
    answers("logs.out", "expected a database, found none\n")

    with pytest.raises(StartFailed, match=r"(?s)exited \(3\).*mlflow.*expected a database") as caught:
        make().up()
    assert caught.value.remedy == "./paddock logs mlflow tells more"


def test_a_failed_build_is_told_with_its_end_and_its_log(make, answers, where):
    answers("build.out", "#5 [mlflow build 2/4] RUN uv sync\n#5 1.2 no such index\n")
    answers("build.code", "17")

    with pytest.raises(BuildFailed, match="no such index") as caught:
        make().up()
    assert str(where.logs / "build.log") in caught.value.remedy


def test_a_build_that_fills_the_disk_is_told_as_such(make, answers):
    answers("build.out", "#9 write /var/lib/docker/tmp/x: no space left on device\n")
    answers("build.code", "1")

    with pytest.raises(NoSpace, match="none left"):
        make().up()


def test_without_a_registry_and_without_the_script_the_base_image_is_named(make, answers, where):
    answers("image", "1")
    (where.root / "scripts").mkdir()
    script = where.root / "scripts" / "make-base-image"
    script.write_text("#!/bin/sh\necho expected to run as root >&2\nexit 1\n")
    script.chmod(0o755)

    with pytest.raises(BuildFailed, match=r"debian:trixie-slim.*expected to run as root"):
        make().up()


def test_a_base_image_by_a_tag_alone_is_refused_before_it_is_fetched(make, answers, calls, docker):
    answers("image", "1")

    with pytest.raises(
        BadSettings, match=r"BASE_IMAGE .* by its digest .* the tag example/base:1,.*imagetools"
    ):
        make(BASE_IMAGE="example/base:1").up()
    assert not [call for call in calls(docker) if call["arguments"][0] == "pull"]


def test_a_base_image_by_a_tag_that_the_engine_has_is_the_users_decision(make, calls, docker):
    make(BASE_IMAGE="example/base:1").up()

    assert compose_calls(calls, docker, "build")


def test_a_base_image_by_digest_is_fetched_and_never_made(make, answers, calls, docker, where):
    answers("image", "1")
    digest = f"example/base@sha256:{'a' * 64}"

    with pytest.raises(BuildFailed, match=r"expected a registry to give .*no registry"):
        make(BASE_IMAGE=digest).up()
    assert ["pull", "--quiet", digest] in [call["arguments"] for call in calls(docker)]


@pytest.mark.parametrize("command", ["up", "run"])
def test_a_runtime_that_the_engine_lacks_is_refused_before_anything_happens(
    make, calls, docker, tmp_path, command
):
    stack = make(AGENT_RUNTIME="runsc")

    with pytest.raises(
        BadSettings, match=r"AGENT_RUNTIME .*'runsc'; the engine has other, runc; .*runsc install"
    ):
        stack.up() if command == "up" else stack.start_agent(request(tmp_path))
    acted = {word for call in calls(docker) for word in call["arguments"]}
    assert not acted & {"up", "build", "run", "rm", "pull"}


def test_another_runtime_gets_the_addresses_of_what_an_agent_may_reach(
    make, calls, docker, answers, tmp_path, where
):
    container = {
        "Config": {"Labels": {"com.docker.compose.service": "gate"}},
        "NetworkSettings": {"Networks": {"proj_agent": {"IPAddress": "172.20.0.3"}}},
    }
    answers("running", "c1")
    answers("inspect", json.dumps([container]))
    make(AGENT_RUNTIME="other").start_agent(request(tmp_path)).wait()

    (run,) = compose_calls(calls, docker, "run")
    files = [run["arguments"][i + 1] for i, word in enumerate(run["arguments"]) if word == "--file"]
    assert files[0] == "docker-compose.yml"
    assert json.loads(Path(files[1]).read_text()) == {
        "services": {"agent": {"extra_hosts": {"gate": "172.20.0.3"}}}
    }
    assert not Path(files[1]).is_relative_to(tmp_path / "state" / "runs" / "0123-456"), (
        "the agent could write it"
    )


def test_runc_needs_no_addresses(make, calls, docker, tmp_path):
    make(AGENT_RUNTIME="runc").start_agent(request(tmp_path)).wait()

    assert "--file" not in compose_calls(calls, docker, "run")[0]["arguments"]


def test_no_running_mlflow_is_not_running(make, answers):
    answers("port", ":0")

    with pytest.raises(NotRunning, match="MLflow"):
        make().connection()


def request(tmp_path, **changes):
    workspace = tmp_path / "work space"
    workspace.mkdir(exist_ok=True)
    state = tmp_path / "state" / "runs" / "0123-456"
    state.mkdir(parents=True, exist_ok=True)
    return Request(
        **({"run_id": "0123-456", "task": "do it", "workspace": workspace, "state": state} | changes)
    )


def test_an_agent_runs_in_its_own_container_as_the_caller(make, calls, docker, tmp_path):
    wanted = request(tmp_path)
    agent = make().start_agent(wanted)
    agent.wait()

    arguments = compose_calls(calls, docker, "run")[0]["arguments"]
    assert {"--rm", "--no-deps", "--no-TTY"} <= set(arguments)
    assert f"{wanted.workspace}:/workspace" in arguments
    assert f"{wanted.state}:/state" in arguments
    assert arguments[arguments.index("--label") + 1] == "paddock.run_id=0123-456"
    owner = wanted.workspace.stat()
    assert arguments[arguments.index("--user") + 1] == f"{owner.st_uid}:{owner.st_gid}"
    assert arguments[-1] == "do it"
    assert "agent" in arguments[arguments.index("run") :]


def test_keys_and_secrets_reach_the_runner_by_standard_input_alone(
    make, calls, docker, tmp_path, monkeypatch
):
    """Arguments are seen by every user of the machine, an environment by `docker inspect`, and files stay."""
    monkeypatch.setenv("DEPLOY_TOKEN", "a-secret-of-the-caller")
    engine, taken = tmp_path / "bin" / "docker", tmp_path / "taken"
    reading = f"if '--handover' in arguments: open({str(taken)!r}, 'w').write(sys.stdin.read())\n"
    engine.write_text(engine.read_text().replace("def after", reading + "\ndef after", 1))
    wanted = request(
        tmp_path,
        llm_key="pdk_of-the-run",
        secrets={"DEPLOY_TOKEN": "a-secret-of-the-caller"},
        mcp={"mcpServers": {"one": {"command": "x", "env": {"KEY": "a-secret-of-the-server"}}}},
    )

    make().start_agent(wanted).wait()

    call = compose_calls(calls, docker, "run")[0]
    kept = "".join(path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file())
    for secret in ("pdk_of-the-run", "a-secret-of-the-caller", "a-secret-of-the-server"):
        assert secret not in " ".join(call["arguments"]) + json.dumps(call["env"]) + kept
    assert json.loads(taken.read_text()) == {
        "llm_api_key": "pdk_of-the-run",
        "secrets": {"DEPLOY_TOKEN": "a-secret-of-the-caller"},
        "mcp": {"mcpServers": {"one": {"command": "x", "env": {"KEY": "a-secret-of-the-server"}}}},
    }
    assert "--handover" in call["arguments"]


def test_an_agent_is_told_of_the_egress_proxy_where_its_run_has_one(make, calls, docker, tmp_path):
    make().start_agent(request(tmp_path, egress=True)).wait()
    make().start_agent(request(tmp_path)).wait()

    told, untold = compose_calls(calls, docker, "run")
    assert told["env"]["PADDOCK_EGRESS"] == "egress:3128"
    assert "PADDOCK_EGRESS" not in untold["env"]


def test_the_egress_proxy_is_found_by_its_labels(make, calls, docker, tmp_path, answers):
    assert make().egress() is False
    answers("running", "0123abcd\n")
    assert make().egress() is True
    asked = [call["arguments"] for call in calls(docker) if call["arguments"][0] == "ps"][-1]
    assert "label=com.docker.compose.service=egress" in asked
    assert "status=running" in asked


def test_another_egress_configuration_makes_another_container(make, calls, docker, where):
    file = where.root / "services" / "egress" / "egress.yaml"
    file.parent.mkdir(parents=True)
    seen = []
    for text in ("version: 1\n", "version: 1\n", "version: 1\ndefaults: {allow: [index.example]}\n"):
        file.write_text(text)
        make().up()
        seen.append(compose_calls(calls, docker, "up")[-1]["env"]["EGRESS_DIGEST"])
    assert seen[0] == seen[1] != seen[2]
    compose_file = Path(__file__).resolve().parents[3] / "docker-compose.yml"
    assert "${EGRESS_DIGEST:-}" in compose_file.read_text()


def test_images_of_profiles_that_are_on_are_built(make, calls, docker):
    make(COMPOSE_PROFILES="egress").build()

    build = compose_calls(calls, docker, "build")[0]["arguments"]
    assert [build[i + 1] for i, word in enumerate(build) if word == "--profile"] == ["egress", "agent"]


def test_the_browser_tool_takes_the_larger_image(make, calls, docker, tmp_path):
    make().start_agent(request(tmp_path, tools="terminal,browser")).wait()

    assert "agent-browser" in compose_calls(calls, docker, "run")[0]["arguments"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_root_runs_the_agent_as_the_workspace_owner_and_gives_it_its_state(make, calls, docker, tmp_path):
    wanted = request(tmp_path)
    os.chown(wanted.workspace, 1234, 1235)

    make().start_agent(wanted).wait()

    arguments = compose_calls(calls, docker, "run")[0]["arguments"]
    assert arguments[arguments.index("--user") + 1] == "1234:1235"
    assert (wanted.state.stat().st_uid, wanted.state.stat().st_gid) == (1234, 1235)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_links_that_an_agent_left_in_its_state_are_not_followed(make, calls, docker, tmp_path):
    wanted = request(tmp_path)
    os.chown(wanted.workspace, 1234, 1235)
    mine = tmp_path / "mine"
    (mine / "below").mkdir(parents=True)
    (wanted.state / "link").symlink_to(mine)
    (wanted.state / "mcp.json").symlink_to(mine / "below")
    (wanted.state / "folder").mkdir()

    make().start_agent(wanted).wait()

    assert (wanted.state / "folder").stat().st_uid == 1234
    assert (wanted.state / "link").lstat().st_uid == 1234
    assert {path.stat().st_uid for path in (mine, mine / "below")} == {0}


def test_down_ends_agents_before_it_takes_the_stack_away(make, calls, docker, answers):
    answers("running", "abc\ndef\n")

    make().down(volumes=True)

    words = [" ".join(call["arguments"]) for call in calls(docker)]
    stopped = next(i for i, text in enumerate(words) if text.startswith("stop ") and text.endswith("abc def"))
    down = next(i for i, text in enumerate(words) if " down " in text)
    assert stopped < down
    assert "--volumes" in words[down]


def engine_calls(calls, docker, word):
    return [call["arguments"] for call in calls(docker) if call["arguments"][0] == word]


def test_a_command_runs_apart_in_a_container_of_the_service_check(make, calls, docker, answers, tmp_path):
    answers("wait", "3\n")
    answers("logs", "out\n")
    answers("logs.err", "err\n")

    ended = make().run_apart("echo hi", tmp_path, 20)

    assert (ended.code, ended.timed_out, ended.failed) == (3, False, "")
    assert sorted(ended.output.split()) == ["err", "out"]
    run = compose_calls(calls, docker, "run")[0]["arguments"]
    assert f"{tmp_path}:/workspace" in run
    assert run[run.index("check") :] == [
        *["check", "plain", "timeout", "--signal=KILL", "50", "bash", "-c", "echo hi"]
    ]
    name = run[run.index("--name") + 1]
    assert engine_calls(calls, docker, "kill") == []
    assert engine_calls(calls, docker, "rm")[-1] == ["rm", "--force", "--volumes", name]


def test_a_command_that_does_not_end_is_killed_in_its_container(make, calls, docker, answers, tmp_path):
    answers("wait.seconds", "30")
    answers("logs", "so far\n")

    ended = make().run_apart("sleep 1000", tmp_path, 0.5)

    assert (ended.timed_out, ended.output) == (True, "so far")
    name = compose_calls(calls, docker, "run")[0]["arguments"]
    name = name[name.index("--name") + 1]
    assert engine_calls(calls, docker, "kill") == [["kill", name]]
    assert engine_calls(calls, docker, "rm")[-1][-1] == name


def test_a_container_that_does_not_start_is_no_exit_code(make, answers, tmp_path):
    answers("run.code", "1")
    answers("run.err", "no such image\n")

    assert make().run_apart("true", tmp_path, 5).failed == "no container: no such image"


def test_an_agent_that_is_kept_leaves_its_container(make, calls, docker, tmp_path):
    make().start_agent(request(tmp_path, kept=True)).wait()

    assert "--rm" not in compose_calls(calls, docker, "run")[0]["arguments"]
    assert (tmp_path / "state" / "runs" / "0123-456.client.pid").exists()


@pytest.mark.parametrize("state", ["running", "exited"])
def test_an_agent_is_picked_up_by_its_runs_label(make, calls, docker, answers, state):
    answers("running", f"proj-run-0123\t{state}\n")
    answers("logs", '{"type": "result"}\n')
    answers("wait", "4")

    agent = make().picked_up("0123-456")

    assert list(agent.lines()) == ['{"type": "result"}\n']
    assert agent.wait() == 4
    assert "label=paddock.run_id=0123-456" in engine_calls(calls, docker, "ps")[0]
    assert engine_calls(calls, docker, "logs") == [["logs", "--follow", "proj-run-0123"]]


@pytest.mark.parametrize("found", ["", "proj-run-0123\tcreated\n"])
def test_a_container_that_never_ran_is_none_and_goes_away(make, calls, docker, answers, found):
    answers("running", found)

    assert make().picked_up("0123-456") is None
    assert engine_calls(calls, docker, "rm") == ([["rm", "--force", "proj-run-0123"]] if found else [])


def test_what_a_killed_command_line_left_of_checks_is_swept(make, calls, docker, answers):
    answers("running", "old 1000000000\nnew 99999999999\nnone \n")

    make().require_agent(browser=False)

    assert engine_calls(calls, docker, "rm") == [["rm", "--force", "--volumes", "old"]]


def test_only_commands_that_really_run_are_told():
    steps = BuildSteps()
    lines = [
        "#7 [mlflow build 2/4] RUN --mount=type=cache,target=/x uv pip install",
        "#7 CACHED",
        "#8 [gate 3/5] COPY Caddyfile /etc",
        "#8 DONE 0.1s",
        "#9 [agent tools 1/2] RUN if [ -s /ca ]; then set -- --ca; fi;   if [ -z '' ]; then unset X; fi; apt-get update",
        "#9 0.412 Reading package lists",
        "#9 [agent-browser tools 1/2] RUN if [ -s /ca ]; then set -- --ca; fi; apt-get update",
        "#9 1.412 Building dependency tree",
        "#9 DONE 3.0s",
    ]

    assert [text for line in lines if (text := steps.read(line))] == ["agent tools 1/2 RUN apt-get update"]


def test_both_forms_of_compose_lists_are_read():
    assert _json_lines('[{"a": 1}]') == _json_lines('{"a": 1}\n') == [{"a": 1}]
    assert _json_lines("") == []


@pytest.mark.parametrize(
    ("text", "value"), [("1.5MiB", 1572864), ("12kB", 12000), ("3B", 3), ("--", 0), ("2GiB ", 2147483648)]
)
def test_sizes(text, value):
    assert _bytes(text) == value


def test_a_public_address_without_tls_is_refused_before_anything_is_done(make, calls, docker):
    with pytest.raises(BadSettings, match="BIND_ADDRESS"):
        make(BIND_ADDRESS="0.0.0.0").up()
    assert calls(docker) == []


def test_a_site_address_starts_the_tls_proxy_with_the_stack(make, calls, docker):
    make(SITE_ADDRESS="paddock.example.org", HTTPS_BIND_ADDRESS="0.0.0.0").up()
    (up,) = compose_calls(calls, docker, "up")
    arguments = up["arguments"]
    assert arguments[arguments.index("--profile") + 1] == "tls"
    assert arguments.index("--profile") < arguments.index("up")
