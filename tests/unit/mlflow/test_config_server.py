"""The declared configuration against a real server: applied, applied again, cut off, pruned, exported, rotated."""

import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import pytest
import requests
from config_server import SET, ConfigServer, CountingApi

from paddock_mlflow.config import apply, desired, export, source, state, validation
from paddock_mlflow.config.errors import Conflict, Incomplete, InvalidConfiguration
from paddock_mlflow.config.plan import Plan
from paddock_mlflow.ledger.types import Usage

GATEWAY = "/api/3.0/mlflow/gateway"
FULL = """\
version: 1
providers:
  openai: {kind: openai, secret: OPENAI_API_KEY}
  claude: {kind: anthropic, secret: ANTHROPIC_API_KEY, options: {version: "1"}}
  demo: {kind: openai, base_url: "${DEMO_MODEL_URL}", secret: DEMO_API_KEY}
models:
  demo: {provider: demo, model: demo}
  mini: {provider: openai, model: gpt-5-mini}
  sonnet: {provider: claude, model: claude-sonnet-4-5}
  odd: {provider: demo, model: odd-model, price: {input: 1.5, output: 3, cache_read: 0.15, reasoning: 4.5}}
  gift: {provider: demo, model: gift-model, price: free}
endpoints:
  coder: {model: demo, fallbacks: [mini, judge], max_attempts: 2}
  judge: {split: {demo: 70, odd: 30}}
  quiet: {model: sonnet, usage_tracking: false}
budgets:
  - {scope: global, amount: 50.5, window: 1 day, action: reject}
  - {scope: endpoint, target: judge, amount: 5, window: 6 hours, action: alert}
  - {scope: user, target: ada, amount: 0.000001, window: 1 month, action: reject}
rate_limits:
  - {scope: user, target: ada, requests_per_minute: 120}
  - {scope: endpoint, target: coder, tokens_per_minute: 2000000}
guardrails:
  no-keys: {scorer: SecretDetection, stage: before, action: sanitization, endpoints: [coder, quiet]}
  no-cards: {scorer: PIIDetection, stage: before, action: validation, endpoints: [coder]}
  safe: {scorer: Safety, stage: after, action: validation, endpoints: [coder]}
  on-topic: {scorer: Judge, stage: before, action: validation, endpoints: [quiet], instructions: "{{ inputs }}?"}
users:
  ada: {grants: {endpoints: [coder, quiet], experiments: {agents: READ}}}
webhooks:
  ops: {url: "https://1.1.1.1/hook", secret: HOOK_SECRET}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConfigServer]:
    """A server that the set-up of the stack ran on, with the shipped file and no key."""
    server = ConfigServer(tmp_path_factory.mktemp("config"))
    migrated = server.command("migrate")
    assert migrated.returncode == 0, migrated.stderr
    server.start()
    try:
        done = server.command("setup")
        assert done.returncode == 0, done.stderr
        yield server
    finally:
        server.stop()


@pytest.fixture
def api(stack: ConfigServer) -> CountingApi:
    return stack.api()


@pytest.fixture
def bare(stack: ConfigServer, api: CountingApi) -> None:
    """The server as the shipped file has it, and nothing else."""
    shipped = (Path(__file__).resolve().parents[3] / "mlflow" / "gateway.yaml").read_text() + "users: {}\n"
    variables = {name: value for name, value in stack.variables.items() if name not in SET}
    bring(stack.api(), shipped, variables, prune=True)
    api.writes.clear()


def wanted(text: str, variables: Mapping[str, str]) -> desired.Desired:
    return desired.resolve(validation.check(source.parse(text, "g.yaml"), variables).configuration, variables)


def bring(api: CountingApi, text: str, variables: Mapping[str, str], *, prune: bool = False) -> Plan:
    """Plan and apply a file."""
    before, planned = apply.compare(api, wanted(text, variables))
    apply.apply(api, before, planned, prune=prune)
    return planned


def planned(api: CountingApi, text: str, variables: Mapping[str, str]) -> Plan:
    return apply.compare(api, wanted(text, variables))[1]


@pytest.mark.usefixtures("bare")
class TestApply:
    def test_everything_is_made_and_a_second_time_nothing(
        self, stack: ConfigServer, api: CountingApi
    ) -> None:
        first = bring(api, FULL, stack.variables)
        assert len(first.changes) == len(api.writes) > 20
        api.writes.clear()
        second = bring(api, FULL, stack.variables)
        assert second.clean, second
        assert api.writes == []
        routed = api.call("GET", f"{GATEWAY}/endpoints/get", params={"name": "coder"})["endpoint"]
        assert [
            (one["model_definition"]["name"], one["linkage_type"], one.get("fallback_order"))
            for one in routed["model_mappings"]
        ] == [("demo", "PRIMARY", None), ("mini", "FALLBACK", 0), ("odd", "FALLBACK", 1)]
        assert routed["fallback_config"] == {"strategy": "SEQUENTIAL", "max_attempts": 2}

    def test_what_is_exported_plans_to_nothing(self, stack: ConfigServer, api: CountingApi) -> None:
        bring(api, FULL, stack.variables)
        known = validation.check(source.parse(FULL, "g.yaml"), stack.variables).configuration
        text = export.export(state.read(api), known, stack.variables)
        assert not any(secret in text for secret in stack.variables.values() if "http" not in secret)
        api.writes.clear()
        assert bring(api, text, stack.variables).clean, text
        assert api.writes == []
        # Somebody else's export, without the variables of this file, keeps the keys that the gateway has.
        foreign = export.export(state.read(api), None, {})
        assert "secret: kept in gateway" in foreign
        shown = foreign.replace(stack.variables["DEMO_MODEL_URL"], "${DEMO_MODEL_URL}")
        assert planned(api, shown, stack.variables).clean, shown

    def test_an_apply_that_is_cut_off_anywhere_is_finished_by_the_next(
        self, stack: ConfigServer, api: CountingApi
    ) -> None:
        total = len(planned(api, FULL, stack.variables).changes)
        made = 0
        for cut in (1, 4, 3, 5):
            before, todo = apply.compare(api, wanted(FULL, stack.variables))
            assert len(todo.changes) == total - made
            api.writes.clear()
            api.refuse_write = cut
            with pytest.raises(Incomplete) as error:
                apply.apply(api, before, todo)
            assert len(error.value.done) == cut - 1
            assert error.value.failed == todo.changes[cut - 1].text()
            assert len(error.value.left) == len(todo.changes) - cut
            assert "apply again: what is done stays done" in str(error.value)
            made += cut - 1
        api.refuse_write = None
        bring(api, FULL, stack.variables)
        assert planned(api, FULL, stack.variables).clean

    def test_a_change_of_the_file_changes_that_alone(self, stack: ConfigServer, api: CountingApi) -> None:
        bring(api, FULL, stack.variables)
        api.writes.clear()
        text = FULL.replace("amount: 50.5", "amount: 75").replace(
            "{demo: 70, odd: 30}", "{demo: 60, odd: 40}"
        )
        text = text.replace("input: 1.5", "input: 1.25").replace("action: sanitization", "action: validation")
        variables = {**stack.variables, "OPENAI_API_KEY": "sk-another-of-the-tests"}
        made = bring(api, text, variables)
        assert [change.text() for change in made.changes] == [
            "update price openai/odd-model: input $1.5 → $1.25",
            "update provider openai: secret OPENAI_API_KEY another value → the value of .env",
            "update endpoint judge: model demo 70%, odd 30% → demo 60%, odd 40%",
            "update guardrail no-keys: action sanitization → validation",
            "update budget of all calls, 1 day, reject: amount $50.5 → $75",
        ]
        assert len(api.writes) == 5
        assert "sk-another" not in repr(made) + json.dumps(made.as_json())
        assert planned(api, text, variables).clean

    def test_nothing_is_written_where_the_file_cannot_be_applied(
        self, stack: ConfigServer, api: CountingApi
    ) -> None:
        text = FULL.replace("experiments: {agents: READ}", "experiments: {nowhere: READ}")
        with pytest.raises(
            Conflict, match="expected the experiment nowhere, which user ada is granted, to exist"
        ):
            bring(api, text, stack.variables)
        with pytest.raises(InvalidConfiguration):
            wanted(FULL.replace("amount: 5,", "amount: -5,"), stack.variables)
        assert api.writes == []


@pytest.mark.usefixtures("bare")
class TestDrift:
    """What somebody did in the UI."""

    @pytest.fixture
    def by_hand(self, stack: ConfigServer, api: CountingApi, bare: None) -> None:
        bring(api, FULL, stack.variables)
        body = {"secret_name": "My key", "secret_value": {"api_key": "typed-in"}, "provider": "openai"}
        secret = api.call("POST", f"{GATEWAY}/secrets/create", json=body)["secret"]["secret_id"]
        body = {"name": "My model (5)", "secret_id": secret, "provider": "openai", "model_name": "gpt-5"}
        model = api.call("POST", f"{GATEWAY}/model-definitions/create", json=body)["model_definition"]
        link = {"model_definition_id": model["model_definition_id"], "linkage_type": "PRIMARY", "weight": 1.0}
        api.call(
            "POST",
            f"{GATEWAY}/endpoints/create",
            json={"name": "mine", "usage_tracking": True, "model_configs": [link]},
        )
        policy = {
            "budget_unit": "USD",
            "budget_amount": 99,
            "duration": {"unit": "DAYS", "value": 1},
            "target_scope": "GLOBAL",
            "budget_action": "REJECT",
        }
        api.call("POST", f"{GATEWAY}/budgets/create", json=policy)
        api.writes.clear()

    @pytest.mark.usefixtures("by_hand")
    def test_it_is_reported_kept_exported_and_pruned(self, stack: ConfigServer, api: CountingApi) -> None:
        beyond = [
            "delete budget of all calls, 1 day, reject",
            "delete endpoint mine",
            "delete model My model (5)",
            "delete provider My key",
        ]
        made = bring(api, FULL, stack.variables)
        assert (made.changes, [one.text() for one in made.unmanaged]) == ((), beyond)
        assert api.writes == [], "nothing is deleted without --prune"
        known = validation.check(source.parse(FULL, "g.yaml"), stack.variables).configuration
        text = export.export(state.read(api), known, stack.variables)
        # Of the twin budgets the smaller one, which is the one that acts.
        left = planned(api, text, stack.variables)
        assert (left.changes, [one.text() for one in left.unmanaged]) == ((), beyond[:1]), text
        bring(api, FULL, stack.variables, prune=True)
        assert len(api.writes) == len(beyond)
        assert planned(api, FULL, stack.variables).clean

    def test_a_key_that_somebody_typed_over_is_seen(self, stack: ConfigServer, api: CountingApi) -> None:
        bring(api, FULL, stack.variables)
        secret = state.read(api, people=False, keys=False).secrets["openai-key"]
        body = {"secret_id": secret.id, "secret_value": {"api_key": "typed-in"}}
        api.call("POST", f"{GATEWAY}/secrets/update", json=body)
        assert [one.name for one in planned(api, FULL, stack.variables).changes] == ["openai"]

    def test_a_changed_fallback_is_put_back_where_the_file_claims_it(
        self, stack: ConfigServer, api: CountingApi
    ) -> None:
        bring(api, FULL, stack.variables)
        silent = FULL.replace(", fallbacks: [mini, judge], max_attempts: 2", "")
        kept = bring(api, silent, stack.variables)
        assert list(kept.changes) == []
        assert [one.text() for one in kept.unmanaged] == ["delete fallbacks coder"]
        # A new first model leaves the fallbacks that the file is silent about.
        bring(api, silent.replace("coder: {model: demo", "coder: {model: gift"), stack.variables)
        now = state.read(api, people=False, keys=False).endpoints["coder"]
        assert (now.primaries, now.fallbacks, now.max_attempts) == ((("gift", 1.0),), ("mini", "odd"), 2)
        bring(api, silent, stack.variables, prune=True)
        assert state.read(api, people=False, keys=False).endpoints["coder"].fallbacks == ()


def test_keys_have_the_limits_that_the_file_says(stack: ConfigServer, api: CountingApi, bare: None) -> None:
    text = FULL + "keys:\n  ci: {user: ada, endpoints: [coder, quiet], requests_per_minute: 30}\n"
    first = bring(api, text, stack.variables)
    (note,) = first.notes
    assert note.endswith("./paddock keys create --user ada --name ci --endpoint coder --endpoint quiet")
    made = api.call(
        "POST",
        "/api/3.0/paddock/keys",
        json={"user": "ada", "name": "ci", "endpoints": ["coder"], "experiments": []},
    )
    assert [change.text() for change in bring(api, text, stack.variables).changes] == [
        "update key ci: endpoints coder → coder, quiet",
        "create rate limit key ci",
    ]
    assert planned(api, text, stack.variables).clean
    (limit,) = [one for one in state.read(api, people=False).rates if one.scope == "key"]
    assert (limit.target, limit.requests_per_minute) == (made["id"], 30)
    api.call("POST", f"/api/3.0/paddock/keys/{made['id']}/revoke")


def test_a_declared_price_counts_without_a_restart(stack: ConfigServer, api: CountingApi, bare: None) -> None:
    from paddock_mlflow.pricing import Prices

    (folder,) = (stack.folder / "tmp").glob("paddock-prices-*")
    prices = Prices(folder)
    bring(api, FULL, stack.variables)
    text = FULL.replace("input: 1.5", "input: 7.25")
    bring(api, text, stack.variables)
    million = 1_000_000
    used = Usage(input=million, output=million, cache_read=100_000, reasoning=200_000)
    until = time.monotonic() + 30
    # 0.9 × $7.25 + 0.1 × $0.15 + 0.8 × $3 + 0.2 × $4.5.
    while (found := prices.cost("openai", "odd-model", used)) is None or found.total != Decimal("9.84"):
        assert time.monotonic() < until, f"the price is {found}"
        time.sleep(0.2)
    assert prices.bound("openai", "gift-model", million, million) == 0


@pytest.mark.parametrize(
    "path", ["limits", "prices", "secrets/fingerprints?salt=" + "ab" * 16, "guardrails", "keys"]
)
@pytest.mark.parametrize(
    ("user", "status"), [(None, 401), (("admin", "wrong"), 401), (("ada", "ada-s-password-1"), 403)]
)
def test_only_an_administrator_is_told(
    stack: ConfigServer, path: str, user: tuple[str, str] | None, status: int
) -> None:
    admin = stack.api()
    if user == ("ada", "ada-s-password-1"):
        if "ada" not in state.read(admin).users:
            admin.call("POST", state.USERS + "/create", json={"username": "ada", "password": user[1]})
        admin.call("PATCH", state.USERS + "/update-password", json={"username": "ada", "password": user[1]})
    answer = requests.get(f"{stack.url}/api/3.0/paddock/{path}", auth=user, timeout=10)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "limits", {"scope": "user", "target": "ada"}, 422),
        ("PUT", "limits", {"scope": "planet", "target": "ada", "requests_per_minute": 1}, 422),
        ("PUT", "limits", {"scope": "user", "target": "ada", "requests_per_minute": 0}, 422),
        ("DELETE", "limits/rl_none", None, 404),
        ("PUT", "prices", {"kind": "openai", "model": "m", "input": -1, "output": 1}, 422),
        ("DELETE", "prices?kind=openai&model=none", None, 404),
        ("DELETE", "guardrails/gr-none", None, 404),
        (
            "PUT",
            "guardrails",
            {
                "name": "x",
                "scorer": "Safety",
                "stage": "after",
                "action": "validation",
                "endpoints": ["none"],
            },
            400,
        ),
        ("GET", "secrets/fingerprints?salt=short", None, 422),
    ],
)
def test_what_the_admin_api_refuses(
    stack: ConfigServer, method: str, path: str, body: object, status: int
) -> None:
    auth = ("admin", (stack.secrets / "admin_password").read_text())
    answer = requests.request(method, f"{stack.url}/api/3.0/paddock/{path}", json=body, auth=auth, timeout=10)
    assert answer.status_code == status, answer.text


def test_the_set_up_again_writes_nothing(stack: ConfigServer, bare: None) -> None:
    def rows() -> dict[str, object]:
        with sqlite3.connect(stack.folder / "mlflow.db") as database:
            tables = (
                "secrets",
                "model_definitions",
                "endpoints",
                "endpoint_model_mappings",
                "scorers",
                "experiments",
            )
            return {
                table: database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables
            }

    before = rows()
    done = stack.command("setup")
    assert done.returncode == 0, done.stderr
    assert "endpoint coder served by the demo model" in done.stderr
    assert rows() == before


def test_the_set_up_refuses_a_file_with_mistakes_and_changes_nothing(
    stack: ConfigServer, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "version: 1\nproviders: {x: {kind: openai, secret: NOT_SET_API_KEY}}\n"
    )
    done = stack.command("setup", GATEWAY_CONFIG=str(tmp_path / "mine.yaml"))
    assert done.returncode == 1
    assert (
        f"{tmp_path}/mine.yaml:2:31: providers.x.secret: expected the secret NOT_SET_API_KEY" in done.stderr
    )
    assert "Traceback" not in done.stderr


class TestCommandLine:
    """`./paddock config` in this process, with the server in a stack's place."""

    @pytest.fixture
    def call(
        self,
        stack: ConfigServer,
        bare: None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Callable[..., tuple[int, str, str]]:
        from paddock_cli import __main__ as entry
        from paddock_cli import selection
        from paddock_cli.stack import Connection

        class Stack:
            def connection(self) -> Connection:
                return Connection(stack.url, "admin", (stack.secrets / "admin_password").read_text())

            def demo_variables(self) -> dict[str, str]:
                return {name: value for name, value in stack.variables.items() if name not in SET}

        monkeypatch.setattr(selection, "running", lambda where, settings: Stack())
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in SET.items()))
        monkeypatch.setenv("PADDOCK_ENV_FILE", str(tmp_path / ".env"))
        monkeypatch.setenv("PADDOCK_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setenv("GATEWAY_CONFIG", str(tmp_path / "mine.yaml"))
        (tmp_path / "mine.yaml").write_text(FULL)

        def run(*arguments: str) -> tuple[int, str, str]:
            monkeypatch.setattr("sys.argv", ["paddock", "config", *arguments])
            code = int(entry.main())
            told = capsys.readouterr()
            return code, told.out, " ".join(told.err.split())

        return run

    def test_from_plan_to_export(self, call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
        assert call("validate")[:2] == (0, f"{tmp_path}/mine.yaml is valid\n")
        code, out, _ = call("plan", "--detailed-exitcode")
        assert code == 2
        assert "~ endpoint judge\n    model: demo → demo 70%, odd 30%\n" in out
        assert "+ budget of all calls, 1 day, reject\n    amount: $50.5\n" in out
        code, out, _ = call("apply", "--json")
        assert (code, json.loads(out)["unmanaged"]) == (0, [])
        assert call("plan", "--detailed-exitcode")[0] == 0
        assert json.loads(call("plan", "--json")[1])["clean"] is True
        assert call("apply")[:2] == (0, "The stack is as the file says.\n")
        assert call("export", str(tmp_path / "exported.yaml"))[0] == 0
        assert call("plan", str(tmp_path / "exported.yaml"), "--detailed-exitcode")[0] == 0

    def test_a_prune_names_what_it_deletes_and_asks(
        self, call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call("apply")
        (tmp_path / "mine.yaml").write_text(FULL.replace("  no-cards:", "  other-cards:"))
        assert "+ guardrail other-cards" in call("apply")[1]
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        code, out, told = call("apply", "--prune")
        assert code == 34
        assert "- guardrail no-cards\n" in out
        assert "Delete 1 thing that the file does not name?" in told
        assert call("apply", "--prune", "--yes")[0] == 0
        assert call("plan", "--detailed-exitcode")[0] == 0

    def test_mistakes_are_told_with_an_exit_code_of_their_own(
        self, call: Callable[..., tuple[int, str, str]], tmp_path: Path, api: CountingApi
    ) -> None:
        (tmp_path / "mine.yaml").write_text(
            FULL.replace("amount: 5,", "amount: -5,").replace("demo: 70", "dmo: 70")
        )
        for command in ("validate", "plan", "apply"):
            code, _, told = call(command)
            assert code == 35
            assert "found 2 mistakes:" in told
        code, out, _ = call("validate", "--json")
        assert [problem["path"] for problem in json.loads(out)["problems"]] == [
            "endpoints.judge.split.dmo",
            "budgets[1].amount",
        ]
        (tmp_path / "mine.yaml").write_text(FULL.replace("kind: anthropic", "kind: groq"))
        assert call("apply")[0] == 0
        (tmp_path / "mine.yaml").write_text(FULL)
        code, _, told = call("apply")
        assert (code, "nothing was changed" in told) == (36, True)
        assert "expected provider claude to be of kind groq, as the gateway has it, found anthropic" in told

    def test_a_secret_changes_by_one_command(
        self, call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call("apply")
        code, _, told = call("rotate-secret", "OPENAI_API_KEY")
        assert (code, "found the one that the gateway has already" in told) == (2, True)
        assert call("rotate-secret", "OTHER_API_KEY")[0] == 2
        monkeypatch.setenv("OPENAI_API_KEY", "sk-new-of-the-tests")
        code, out, told = call("rotate-secret", "OPENAI_API_KEY")
        assert (code, out) == (0, "provider openai has the new OPENAI_API_KEY\n")
        assert "still has the old OPENAI_API_KEY: write the new one" in told
        assert call("plan", "--detailed-exitcode")[0] == 0
        monkeypatch.delenv("OPENAI_API_KEY")
        assert call("plan", "--detailed-exitcode")[0] == 2


class TestPassphrase:
    """A new passphrase over the secrets. The server is stopped for it, as the command line does; so this comes last."""

    @pytest.fixture
    def versions(self, stack: ConfigServer) -> Callable[[], set[int]]:
        def look() -> set[int]:
            with sqlite3.connect(stack.folder / "mlflow.db") as database:
                return {row[0] for row in database.execute("SELECT kek_version FROM secrets")}

        return look

    def test_the_well_known_passphrase_is_refused(self, stack: ConfigServer, bare: None) -> None:
        api = stack.api()
        told = api.call("GET", "/ajax-api/3.0/mlflow/gateway/secrets/config")
        assert told["using_default_passphrase"] is False

        class Default(CountingApi):
            def call(self, *arguments: object, **named: object) -> dict[str, object]:
                answer = api.call(*arguments, **named)  # type: ignore[arg-type]
                return answer | (
                    {"using_default_passphrase": True} if "using_default_passphrase" in answer else {}
                )

        with pytest.raises(Conflict, match="MLflow's well-known default"):
            bring(Default(stack.url, ""), FULL, stack.variables)
        assert api.writes == []

    def test_secrets_are_readable_after_it_and_unreadable_with_the_old_one(
        self, stack: ConfigServer, bare: None, versions: Callable[[], set[int]]
    ) -> None:
        bring(stack.api(), FULL, stack.variables)
        assert versions() == {1}
        assert "expected a newer passphrase than version 1, found none" in stack.command("rotate-key").stderr
        stack.stop()
        new = stack.secrets / "kek_passphrase_2"
        new.write_text("a-new-passphrase-of-the-tests")
        done = stack.command("rotate-key")
        assert (done.returncode, versions()) == (0, {2}), done.stderr
        assert "3 secret(s) are encrypted with passphrase 2 now" in done.stdout
        # Cut off here, a start takes the new one by itself: the database says which is in force.
        stack.start()
        assert planned(stack.api(), FULL, stack.variables).clean, "the server reads every secret"
        stack.stop()
        new.rename(stack.secrets / "away")
        refused = stack.command("serve")
        assert (
            "expected the passphrase of version 2, which the stored secrets are encrypted with"
            in refused.stderr
        )
