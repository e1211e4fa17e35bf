"""Keys and a run's budget on the command line: what people write, what the server is asked, and what is shown."""

import json
from decimal import Decimal

import httpx
import pytest

from paddock_cli import keys, render, run_keys, runs, selection, task
from paddock_cli.errors import NotFound, ServerFailed, UnknownEndpoint, UsageFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.stack import Connection, Request

MADE = {
    "id": "pk_0123456789ab",
    "key": "pdk_the-text-of-the-key",
    "user": "ada",
    "name": "",
    "endpoints": ["coder"],
    "experiment_ids": ["1"],
    "run_id": None,
    "budget": {"usd": "5", "unit": "DAYS", "count": 1, "resets_at": None},
    "spent_usd": "1.25",
    "reserved_usd": "0",
    "requests_per_minute": 60,
    "tokens_per_minute": None,
    "expires_at": "2030-01-02T03:04:05+00:00",
    "last_used_at": None,
    "state": "active",
    "new_user": True,
}


class FakeServer:
    """The admin API, on one key; `refusal` answers every call instead."""

    def __init__(self):
        self.asked = []
        self.refusal = None

    def __call__(self, request):
        body = json.loads(request.content) if request.content else None
        if request.url.path.endswith("/endpoints/list"):
            return httpx.Response(200, json={"endpoints": [{"name": "coder"}, {"name": "judge"}]})
        self.asked.append((request.method, request.url.path, body))
        if self.refusal is not None:
            return self.refusal
        if request.method == "GET":
            return httpx.Response(200, json={"keys": [MADE]})
        if request.url.path.endswith("/revoke"):
            if MADE["id"] not in request.url.path:
                return httpx.Response(404, json={"detail": "expected a key, found none; list them"})
            return httpx.Response(200, json=MADE | {"state": "revoked", "spent_usd": "0.0012"})
        return httpx.Response(200, json=MADE)


@pytest.fixture
def fake():
    return FakeServer()


@pytest.fixture
def server(fake):
    return Mlflow(Connection("http://paddock.test", "admin", "secret"), httpx.MockTransport(fake))


@pytest.mark.parametrize(
    ("text", "usd", "unit", "count"),
    [
        ("5/day", "5", "DAYS", 1),
        ("$0.50/hour", "0.50", "HOURS", 1),
        ("20/2 weeks", "20", "WEEKS", 2),
        ("20/2weeks", "20", "WEEKS", 2),
        ("1/Minute", "1", "MINUTES", 1),
        (" 100 / month ", "100", "MONTHS", 1),
        ("3", "3", None, 1),
        ("0.0000000001", "0.0000000001", None, 1),
    ],
)
def test_a_budget_is_read_as_people_write_it(text, usd, unit, count):
    assert keys.parse_budget(text) == keys.Budget(Decimal(usd), unit, count)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "free",
        "-5/day",
        "0/day",
        "5/year",
        "5/",
        "/day",
        "5/0days",
        "nan",
        "inf",
        "1e9",
        "0.00000000001",
        "5 day",
    ],
)
def test_what_is_no_budget_is_refused_with_the_remedy(text):
    with pytest.raises(UsageFailed) as caught:
        keys.parse_budget(text)
    assert text.partition("/")[0] in caught.value.found
    assert "--budget" in caught.value.expected
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2592000), ("12h", 43200), ("90m", 5400), ("2W", 1209600)]
)
def test_a_duration_is_read_as_people_write_it(text, seconds):
    assert keys.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0d", "-1d", "soon", "30", "4000d", "1.5h", "999999999w"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UsageFailed, match="--expires"):
        keys.parse_duration(text)


def test_the_server_is_asked_for_what_was_given_and_no_more(fake, server):
    body = keys.wanted(user="ada", endpoints=["coder"], budget="5/day", expires="1h", tokens_per_minute=1000)

    keys.create(server, body)

    assert fake.asked == [
        (
            "POST",
            keys.PATH,
            {
                "user": "ada",
                "endpoints": ["coder"],
                "name": "",
                "budget": {"usd": "5", "unit": "DAYS", "count": 1},
                "expires_in": 3600.0,
                "tokens_per_minute": 1000,
            },
        )
    ]


@pytest.mark.parametrize("user", ["", "a b", "-x", "ä", "x" * 129, "a/b"])
def test_a_user_name_that_no_url_bears_is_refused(user):
    with pytest.raises(UsageFailed, match="--user"):
        keys.wanted(user=user, endpoints=["coder"])


def test_an_unknown_endpoint_is_named_with_those_that_there_are(fake, server):
    with pytest.raises(UnknownEndpoint, match=r"coder, judge.*'nope'"):
        keys.create(server, keys.wanted(user="ada", endpoints=["coder", "nope"]))
    assert fake.asked == []


def test_the_servers_own_words_are_passed_on(fake, server):
    words = "expected a user who is no administrator, found admin; choose another name"
    fake.refusal = httpx.Response(400, json={"detail": words})

    with pytest.raises(ServerFailed) as caught:
        keys.create(server, keys.wanted(user="admin", endpoints=["coder"]))
    told = caught.value
    assert (told.expected, told.found, told.remedy) == (
        "a user who is no administrator",
        "admin",
        "choose another name",
    )


def test_revoking_what_is_not_there_says_how_to_list(server):
    assert keys.revoke(server, MADE["id"])["state"] == "revoked"
    for wrong in ("pk_nope", "../users", "pdk_the-text-of-the-key", ""):
        with pytest.raises(NotFound) as caught:
            keys.revoke(server, wrong)
        assert "./paddock keys list" in caught.value.remedy


def test_a_new_key_stands_alone_on_standard_output(capsys):
    keys.show_new(MADE, "http://paddock.test")

    out, err = capsys.readouterr()
    assert out == MADE["key"] + "\n"
    told = " ".join(err.split())
    assert MADE["key"] not in told
    for words in ("$5/day", "60 requests a minute", "until 2030-01-02 03:04Z", "OPENAI_BASE_URL", "once"):
        assert words in told


@pytest.fixture
def call(monkeypatch, capsys, server):
    """The command line on the fake server."""
    import sys

    from paddock_cli import __main__ as entry
    from paddock_cli import mlflow_api

    class Running:
        def connection(self):
            return Connection("http://paddock.test", "admin", "secret")

    monkeypatch.setattr(selection, "running", lambda *_: Running())
    monkeypatch.setattr(mlflow_api, "Mlflow", lambda _: server)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["paddock", *arguments])
        code = entry.main()
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return run


def test_the_three_commands_speak_json_and_tables(call):
    created = call("keys", "create", "--user", "ada", "--endpoint", "coder", "--json")
    assert (created[0], json.loads(created[1])["key"]) == (0, MADE["key"])
    code, out, _ = call("keys", "list")
    assert code == 0
    for shown in (MADE["id"], "ada", "$5/day", "$1.25", "active"):
        assert shown in out
    assert json.loads(call("keys", "list", "--json")[1])["keys"][0]["id"] == MADE["id"]
    code, out, _ = call("keys", "revoke", MADE["id"])
    assert (code, out.split()) == (0, [MADE["id"], "of", "ada", "is", "revoked"])


# The key of a run


def request(tmp_path, **changes):
    return Request(**({"run_id": "r-1", "task": "t", "workspace": tmp_path, "state": tmp_path} | changes))


def test_a_run_has_a_key_of_its_own_as_long_as_it_lasts(fake, server, tmp_path):
    wanted = request(tmp_path, timeout=100, allow=("index.example",))
    with run_keys.made_for(server, wanted, Decimal("0.50")) as key:
        assert (key.text, key.spent) == (MADE["key"], None)
        ((_, _, body),) = fake.asked

    assert body == {
        "user": "agent",
        "endpoints": ["coder"],
        "name": "run r-1",
        "run_id": "r-1",
        "budget": {"usd": "0.50", "unit": None, "count": 1},
        "egress_allow": ["index.example"],
        "expires_in": 700,
    }
    assert fake.asked[1][1].endswith(f"/{MADE['id']}/revoke")
    assert key.as_json() == {"key_id": MADE["id"], "limit_usd": "0.50", "spent_usd": "0.0012"}
    assert MADE["key"] not in repr(key)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_the_key_is_revoked_however_the_run_ends(fake, server, tmp_path, error):
    with pytest.raises(error), run_keys.made_for(server, request(tmp_path), None):
        raise error
    assert fake.asked[-1][1].endswith("/revoke")


def test_a_key_that_cannot_be_revoked_is_told_and_the_run_keeps_its_result(fake, server, tmp_path, capsys):
    with run_keys.made_for(server, request(tmp_path), None) as key:
        fake.refusal = httpx.Response(503, text="away")

    assert key.spent is None
    assert f"./paddock keys revoke {MADE['id']}" in " ".join(capsys.readouterr().err.split())


def test_a_run_without_a_key_does_not_begin(fake, server, tmp_path):
    fake.refusal = httpx.Response(503, text="away")

    with pytest.raises(ServerFailed), run_keys.made_for(server, request(tmp_path), None):
        pytest.fail("the run began")


@pytest.mark.parametrize("text", ["5/day", "0", "-1", "many", ""])
def test_a_run_with_a_budget_that_is_none_is_refused_before_anything(where, tmp_path, text):
    order = task.Order(task="t", workspace=tmp_path, budget=text)

    with pytest.raises(UsageFailed, match="--budget"):
        task.request_of(order, where)


def test_a_budget_bounds_what_one_call_reserves(where, tmp_path):
    project = tmp_path / "project"
    project.mkdir()

    def asked(**changes):
        return task.request_of(task.Order(task="t", workspace=project, **changes), where)

    assert asked().max_output_tokens is None
    assert asked(budget="0.50").max_output_tokens == run_keys.BUDGET_OUTPUT_TOKENS
    assert asked(budget="0.50", max_output_tokens=2000).max_output_tokens == 2000
    arguments = asked(budget="0.50").arguments("/workspace", "/state")
    assert arguments[arguments.index("--max-output-tokens") + 1] == "8192"


def test_a_runs_key_is_in_no_argument_and_no_representation(tmp_path):
    made = request(tmp_path, llm_key="pdk_secret")

    assert "pdk_secret" not in repr(made)
    assert "pdk_secret" not in " ".join(made.arguments("/workspace", "/state"))


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (run_keys.RunKey("pk_1", "t", Decimal("0.50"), Decimal("0.0012")), "$0.0012 spent of $0.50"),
        (run_keys.RunKey("pk_1", "t", Decimal("0.50"), None), "not known of $0.50"),
        (run_keys.RunKey("pk_1", "t", None, Decimal(1)), None),
    ],
)
def test_the_report_says_what_was_spent_of_the_budget(capsys, key, shown):
    result = runs.Result(run_id="r-1", outcome="finished", exit_code=0)

    render.run_table(result, "", None, {}, {}, key)

    out = capsys.readouterr().out
    assert (shown in out) if shown else ("budget" not in out)
