"""The way of spans from agents to MLflow: complete, clean of secrets, known by whose they are, and not lost."""

import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from stack_under_test import ROOT, StackUnderTest
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

sys.path[:0] = [str(ROOT / "tests" / "stack"), str(ROOT / "tests" / "unit" / "mlflow")]

from otlp_recordings import ANSWER, TASK, recording  # noqa: E402
from spans import Sender, content, request, spans_of, stored, trace_id_of  # noqa: E402

MakeSender = Callable[[], Sender]


@pytest.fixture(scope="module")
def experiment(stack: StackUnderTest) -> dict[str, str]:
    """One that no judge looks at; name and id."""
    name = f"spans-{uuid.uuid4()}"
    made = stack.api("POST", "/api/2.0/mlflow/experiments/create", json={"name": name})
    return {"name": name, "id": made["experiment_id"]}


@pytest.fixture(scope="module")
def run_key(stack: StackUnderTest, experiment: dict[str, str]) -> dict[str, Any]:
    """The key of a run, as `./paddock run` makes it."""
    wanted = {"user": "agent", "endpoints": ["coder"], "run_id": str(uuid.uuid4()), "expires_in": 3600}
    return stack.api("POST", "/api/3.0/paddock/keys", json=wanted | {"experiments": [experiment["name"]]})


@pytest.fixture(scope="module")
def make_sender(
    stack: StackUnderTest, experiment: dict[str, str], run_key: dict[str, Any]
) -> Iterator[MakeSender]:
    """Containers of the agent's image and network that wait, each with an address of its own."""
    made: list[str] = []

    def make() -> Sender:
        name = f"{stack.project}-sender-{len(made)}"
        made.append(name)
        stack.agent("exec", "sleep", "900", options=("--detach", "--name", name))
        return Sender(stack, name, run_key["key"], experiment["id"])

    yield make
    subprocess.run(["docker", "rm", "--force", *made], capture_output=True, check=True)


@pytest.fixture(scope="module")
def sender(make_sender: MakeSender) -> Sender:
    return make_sender()


eventually = retry(
    retry=retry_if_exception_type(AssertionError),
    stop=stop_after_delay(90),
    wait=wait_fixed(0.5),
    reraise=True,
)


@eventually
def arrived(stack: StackUnderTest, *requests: Any) -> None:
    """Every span of the requests is stored, and none twice."""
    trace_ids = sorted({f"tr-{span.trace_id.hex()}" for span in spans_of(*requests)})
    assert sorted(stored(stack, trace_ids)) == sorted(span.span_id.hex() for span in spans_of(*requests))


def metric(stack: StackUnderTest, name: str) -> float:
    """The sum of a metric of the collector over all its labels; it is told on its own loopback alone."""
    ask = "exec 3<>/dev/tcp/127.0.0.1/8888; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    told = stack.execute("collector", "bash", "-c", ask).stdout
    values = re.findall(rf"^{name}(?:_total|_ratio)?(?:{{.*}})? ([0-9.e+]+)$", told, re.MULTILINE)
    return sum(map(float, values))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_trace_is_complete_by_both_protocols(
    stack: StackUnderTest, sender: Sender, run_key: dict[str, Any], protocol: str
) -> None:
    sent = recording("finish")
    assert set(sender.send(*sent.requests, protocol=protocol)) == {200}
    arrived(stack, *sent.requests)
    info = stack.trace(sent.trace_id)
    assert (info["state"], info["request_preview"], info["response_preview"]) == ("OK", TASK, ANSWER)
    assert info["trace_location"]["mlflow_experiment"]["experiment_id"] == sender.experiment
    assert info["tags"]["paddock.run_id"] == run_key["run_id"]
    assert '"cache_read_input_tokens": 2400' in info["trace_metadata"]["mlflow.trace.tokenUsage"]
    assert "paddock.source" not in content(stack, sent.trace_id)


def test_secrets_are_stored_masked(stack: StackUnderTest, sender: Sender) -> None:
    """In a prompt, an attribute, nested JSON, an exception, the resource, a link, a status; none lies in the spool."""
    keys = {
        "openai": "sk-" + "proj-" + "a1B2c3D4" * 5,
        "github": "ghp_" + "Ab3dE6" * 6,
        "paddock": "pdk_" + "x9Y_" * 10 + "abc",
        "aws": "AKIA" + "ABCD2345" * 2,
        "slack": "xoxb-" + "1234567890-abcdefghij",
        "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0." + "s" * 24,
        "password": "any-form-at-all",
    }
    one = request(2)
    resource = one.resource_spans[0].resource
    resource.attributes.add(key="process.command_line").value.string_value = f"run --key {keys['aws']}"
    span = spans_of(one)[1]
    span.name = f"call {keys['slack']}"
    prompt = f'[{{"role": "user", "content": "use {keys["openai"]}\\nand {keys["github"]}"}}]'
    span.attributes.add(key="gen_ai.input.messages").value.string_value = prompt
    span.attributes.add(key="db.password").value.string_value = keys["password"]
    inner = span.attributes.add(key="nested").value.kvlist_value.values.add(key="list")
    inner.value.array_value.values.add().string_value = f'{{"token": "{keys["paddock"]}"}}'
    event = span.events.add(name="exception", time_unix_nano=1)
    event.attributes.add(key="exception.message").value.string_value = f"bad key {keys['openai']}"
    link = span.links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    link.attributes.add(key="reason").value.string_value = keys["jwt"]
    span.status.code, span.status.message = 2, f"refused: {keys['jwt']}"

    stack.compose("stop", "mlflow")
    try:
        assert sender.send(one) == [200]
        spool = stack.execute("collector", "bash", "-c", "cat /var/lib/otelcol/*", check=False)
        assert "gen_ai.input.messages" in spool.stdout, "it waits on the disk"
        assert [name for name, key in keys.items() if key in spool.stdout] == []
    finally:
        stack.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "mlflow", timeout=120)
    arrived(stack, one)
    kept = content(stack, trace_id_of(one))
    assert [name for name, key in keys.items() if key in kept] == []
    for mask in ("OPENAI_KEY", "GITHUB_TOKEN", "PADDOCK_KEY", "SLACK_TOKEN", "JWT", "SECRET"):
        assert f"[{mask}]" in kept, mask


def test_another_experiment_and_a_made_up_key_are_refused_and_told(
    stack: StackUnderTest, sender: Sender, run_key: dict[str, Any]
) -> None:
    before = metric(stack, "otelcol_exporter_send_failed_spans")
    forged, unknown, own = request(), request(), request()
    assert sender.send(forged, experiment=stack.experiment_id) == [200]
    assert sender.send(unknown, key="pdk_" + "made-up" * 6) == [200]

    @eventually
    def told() -> None:
        assert metric(stack, "otelcol_exporter_send_failed_spans") == before + 2
        for service in ("mlflow", "collector"):
            logs = stack.logs(service, tail=200)
            assert f"the key {run_key['id']} may write to" in logs
            assert "found an unknown key" in logs

    told()
    assert sender.send(own) == [200]
    arrived(stack, own)
    assert not stored(stack, [trace_id_of(forged), trace_id_of(unknown)])


def test_a_neighbours_trace_can_not_be_written_to(
    stack: StackUnderTest, make_sender: MakeSender, sender: Sender
) -> None:
    victim = request(3)
    assert sender.send(victim) == [200]
    arrived(stack, victim)
    before = metric(stack, "otelcol_exporter_send_failed_spans")
    overwritten = request(trace_id=spans_of(victim)[0].trace_id, name="forged")
    spans_of(overwritten)[0].span_id = spans_of(victim)[0].span_id
    hostile = make_sender()
    # Without a key, and with what the collector writes put there by hand.
    attribute = overwritten.resource_spans[0].resource.attributes.add(key="paddock.source.key_sha256")
    attribute.value.string_value = "00" * 32
    assert hostile.send(overwritten, key=None, experiment=stack.experiment_id) == [200]

    @eventually
    def refused() -> None:
        assert metric(stack, "otelcol_exporter_send_failed_spans") == before + 1

    refused()
    assert "forged" not in content(stack, trace_id_of(victim))


def test_a_flood_is_held_back_and_a_neighbour_does_not_notice(
    stack: StackUnderTest, make_sender: MakeSender
) -> None:
    hostile, neighbour = make_sender(), make_sender()
    # For an experiment that nobody has, so that MLflow has no work with what passes.
    flood = [request(2_000) for _ in range(12)]
    answers = hostile.send(*flood, experiment="no-such", at_once=6)
    assert answers.count(200) in range(1, 8)
    assert set(answers) == {200, 503}
    # Nor does it matter how large a request is, or how many come at once.
    large = request(1)
    spans_of(large)[0].attributes.add(key="text").value.string_value = "x" * (30 << 20)
    assert set(hostile.send(*[large] * 8, experiment="no-such", at_once=8)) <= {200, 503}
    too_large = request(1)
    spans_of(too_large)[0].attributes.add(key="text").value.string_value = "x" * (33 << 20)
    (answer,) = hostile.send(too_large)
    # Who refuses a body need not read it to its end; a client that still writes may then see the connection's end
    # before the answer (RFC 9112, section 9.6).
    assert answer in (400, 413) or "reset" in str(answer) or "Broken pipe" in str(answer)

    own = request(5)
    assert neighbour.send(own) == [200]
    arrived(stack, own)
    assert metric(stack, "paddock_refused_spans") > 0
    state = stack.inspect("collector")
    assert (state["State"]["OOMKilled"], state["RestartCount"]) == (False, 0)


def test_nothing_acknowledged_is_lost_or_doubled(stack: StackUnderTest, sender: Sender) -> None:
    """While MLflow is killed, the collector is killed in between, and while the database is away."""
    first = [request(5) for _ in range(20)]
    _kill(stack, "mlflow")
    assert set(sender.send(*first, at_once=4)) == {200}
    _kill(stack, "collector")
    _start(stack, "collector")
    second = [request(5) for _ in range(5)]
    assert set(sender.send(*second)) == {200}
    _start(stack, "mlflow")
    arrived(stack, *first, *second)

    third = [request(5) for _ in range(5)]
    stack.compose("stop", "postgres")
    assert set(sender.send(*third)) == {200}
    _start(stack, "postgres")
    arrived(stack, *third)


def test_a_full_queue_says_so(stack: StackUnderTest, sender: Sender) -> None:
    """A second collector with a small queue, and nobody behind it."""
    name = f"{stack.project}-full"
    options = ("--detach", "--no-deps", "--name", name, "--volume", "/var/lib/otelcol")
    variables = ("--env", "COLLECTOR_QUEUE_BYTES=20000", "--env", "MLFLOW_URL=http://127.0.0.1:9")
    stack.compose("run", "--rm", *options, *variables, "collector")
    try:
        _wait_healthy(name)
        answers = sender.send(*[request(30) for _ in range(20)], collector=name)
        assert answers[0] == 200
        assert answers[-1] in (429, 503)
        assert set(answers) <= {200, 429, 503}
        by_grpc = sender.send(request(30), collector=name, protocol="grpc")
        assert by_grpc[0] in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=True)


def test_a_script_in_a_container_sends_its_key_along(stack: StackUnderTest, run_key: dict[str, Any]) -> None:
    told = stack.agent("exec", "env", options=("--env", f"LLM_API_KEY={run_key['key']}")).stdout
    (headers,) = (line for line in told.splitlines() if line.startswith("OTEL_EXPORTER_OTLP_HEADERS="))
    assert headers.partition("=")[2] == (
        f"x-mlflow-experiment-id={stack.experiment_id},authorization=Bearer%20{run_key['key']}"
    )


def test_health_and_metrics_are_not_for_agents(stack: StackUnderTest, sender: Sender) -> None:
    for port, answer in ((4318, "404"), (13133, "000"), (8888, "000"), (55679, "000")):
        told = subprocess.run(
            [
                *("docker", "exec", sender.container, "curl", "--silent", "--max-time", "5"),
                *("--output", "/dev/null", "--write-out", "%{http_code}", f"http://collector:{port}/"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stdout == answer, port


def test_the_collector_tells_its_version_and_what_it_is_made_of(stack: StackUnderTest) -> None:
    told = stack.execute("collector", "otelcol", "components").stdout
    assert "version: 0.165.0" in told
    for name in ("source", "redact", "memory_limiter", "otlp", "otlp_http", "file_storage"):
        assert f"name: {name}\n" in told, name


def test_patterns_that_can_not_be_stop_the_start(stack: StackUnderTest) -> None:
    done = stack.compose(
        *("run", "--rm", "--no-TTY", "--no-deps", "--env", "REDACT_PATTERNS=([a-z", "collector"), check=False
    )
    assert done.returncode != 0
    assert "expected a regular expression in REDACT_PATTERNS, found" in done.stdout + done.stderr


def _kill(stack: StackUnderTest, service: str) -> None:
    stack.compose("kill", "--signal", "KILL", service)


def _start(stack: StackUnderTest, service: str) -> None:
    stack.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", service, timeout=180)


@eventually
def _wait_healthy(name: str) -> None:
    done = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Health.Status}}", name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "healthy"
