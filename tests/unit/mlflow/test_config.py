"""The declared configuration without a server: what is refused and how, what a file means, what a plan makes of it."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from paddock_mlflow.config import desired, fingerprints, schema, source, validation
from paddock_mlflow.config.desired import BudgetEntry, Desired
from paddock_mlflow.config.errors import InvalidConfiguration, Problem
from paddock_mlflow.config.plan import plan
from paddock_mlflow.config.state import BudgetState, EndpointState, ModelState, SecretState, State

SHIPPED = Path(__file__).resolve().parents[3] / "mlflow" / "gateway.yaml"
DEMO = {"DEMO_MODEL_URL": "http://demo-model:8000/v1", "DEMO_API_KEY": "demo-key"}
OPENAI = {"OPENAI_API_KEY": "sk-1"}

VALID = """\
version: 1
providers:
  openai: {kind: openai, secret: OPENAI_API_KEY}
  claude: {kind: anthropic, secret: ANTHROPIC_API_KEY, when: secret set}
models:
  small: {provider: openai, model: gpt-5-mini}
  large: {provider: openai, model: gpt-5, price: {input: 1.25, output: 10, cache_read: 0.125}}
  sonnet: {provider: claude, model: claude-sonnet-4-5}
endpoints:
  coder: {model: small, fallbacks: [large]}
  judge: {model: large}
"""


def problems(text: str, variables: Mapping[str, str] = OPENAI) -> list[Problem]:
    """What is wrong with a file; empty where nothing is."""
    try:
        validation.check(source.parse(text, "g.yaml"), variables)
    except InvalidConfiguration as error:
        return list(error.problems)
    return []


def only(text: str, variables: Mapping[str, str] = OPENAI) -> str:
    """The one problem of a file."""
    found = problems(text, variables)
    assert len(found) == 1, [problem.text("g.yaml") for problem in found]
    return found[0].text("g.yaml")


def resolved(text: str, variables: Mapping[str, str] = OPENAI) -> Desired:
    return desired.resolve(validation.check(source.parse(text, "g.yaml"), variables).configuration, variables)


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


def test_the_valid_file_is_valid() -> None:
    assert problems(VALID) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            changed("small: {provider: openai", "small: {provider: opnai"),
            "g.yaml:6:11: models.small.provider: expected a provider of this file, found `opnai`; did you"
            " mean `openai`?",
            id="unknown provider",
        ),
        pytest.param(
            changed("model: large}", "model: huge}"),
            "g.yaml:11:11: endpoints.judge.model: expected a model of this file, found `huge`;"
            " declare it under `models`; there are: large, small, sonnet",
            id="unknown model",
        ),
        pytest.param(
            changed("fallbacks: [large]", "fallbacks: [small]"),
            "g.yaml:10:37: endpoints.coder.fallbacks[0]: expected another model than the first, found"
            " `small` again: a cyclic"
            " fallback; name another, or remove it",
            id="fallback to itself",
        ),
        pytest.param(
            changed("fallbacks: [large]", "fallbacks: [judge]")
            .replace("model: large}", "model: large, fallbacks: [coder]}"),
            "g.yaml:10:25: endpoints.coder.fallbacks: expected fallbacks that end, found a cyclic fallback:"
            " coder → judge → coder; take one of them out, or name models instead of endpoints",
            id="cyclic fallback",
        ),
        pytest.param(
            VALID + "budgets:\n  - {scope: global, amount: -5, window: 1 day, action: reject}\n",
            "g.yaml:13:21: budgets[0].amount: expected a number above 0, found `-5`; a budget that allows"
            " nothing is a"
            " revoked key or a removed grant",
            id="negative budget",
        ),
        pytest.param(
            VALID + "budgets:\n  - {scope: global, amount: 5, window: fortnight, action: reject}\n",
            "g.yaml:13:32: budgets[0].window: expected a window such as `1 day` or `6 hours`, found"
            " `fortnight`; units are"
            " minute, hour, day, week, month",
            id="window",
        ),
        pytest.param(
            VALID + "budgets:\n" + "  - {scope: user, target: ada, amount: 5, window: 1 day, action: reject}\n" * 2,
            "g.yaml:14:5: budgets[1]: expected each budget once, found the scope, target, window and action"
            " of line 13;"
            " merge the two",
            id="duplicate budget",
        ),
        pytest.param(
            VALID + "budgets:\n  - {scope: endpoint, target: codr, amount: 5, window: 1 day, action: alert}\n",
            "g.yaml:13:23: budgets[0].target: expected an endpoint of this file, found `codr`; did you mean `coder`?",
            id="budget of no endpoint",
        ),
        pytest.param(
            changed("  judge: {model: large}", "  judge: {model: large}\n  coder: {model: large}"),
            "g.yaml:12:3: endpoints.coder: expected each name once, found it a second time, after line 10;"
            " rename one of them",
            id="duplicate name",
        ),
        pytest.param(
            changed("judge: {model: large}", "judge: {usage_tracking: true}"),
            "g.yaml:11:3: endpoints.judge: expected `model` or `split`, found neither: an endpoint without"
            " a model; name the"
            " model that answers",
            id="endpoint without model",
        ),
        pytest.param(
            changed("judge: {model: large}", "judge: {model: sonnet}"),
            "g.yaml:11:11: endpoints.judge.model: expected a model whose provider is there, found none: an"
            " endpoint without a"
            " model (providers with a key: openai); set one of ANTHROPIC_API_KEY in .env",
            id="endpoint whose provider has no key",
        ),
        pytest.param(
            changed("secret: OPENAI_API_KEY", "secret: OTHER_API_KEY"),
            "g.yaml:3:26: providers.openai.secret: expected the secret OTHER_API_KEY to be set, found that"
            " it is not; put"
            " OTHER_API_KEY=… into .env, or say `when: secret set`",
            id="unset secret",
        ),
        pytest.param(
            changed("secret: OPENAI_API_KEY", "secret: sk-proj-1234"),
            "g.yaml:3:26: providers.openai.secret: expected the name of a variable such as OPENAI_API_KEY, found"
            " `sk-proj-1234`; put the value into .env, and its name here",
            id="a key in place of its name",
        ),
        pytest.param(
            changed("provider: claude, model: claude-sonnet-4-5}", "provider: claude, price: free}"),
            "g.yaml:8:30: models.sonnet.price: expected a price of a model, found no `model` beside it; say"
            " which model it is"
            " the price of",
            id="price for no model",
        ),
        pytest.param(
            changed("model: claude-sonnet-4-5}", "model: claude-sonnet-4-5, price: {input: -1, output: 2}}"),
            "g.yaml:8:64: models.sonnet.price.input: expected a number of at least 0, found `-1`; mend it;"
            " the shipped"
            " mlflow/gateway.yaml and docs/configuration.md show the form",
            id="negative price",
        ),
        pytest.param(
            changed("model: gpt-5-mini}", "model: gpt-5, price: free}"),
            "g.yaml:7:43: models.large.price: expected one price of openai/gpt-5, found another one than at `small`;"
            " MLflow keeps prices by protocol and model: give both the same",
            id="two prices",
        ),
        pytest.param(
            changed("kind: anthropic", "kind: antropic"),
            None,
            id="unknown kind",
        ),
        pytest.param(
            changed("fallbacks: [large]}", "fallback: [large]}"),
            "g.yaml:10:25: endpoints.coder.fallback: expected a field that is known here, found `fallback`;"
            " did you mean"
            " `fallbacks`?",
            id="unknown field",
        ),
        pytest.param(
            changed("model: small, fallbacks: [large]", "model: small, max_attempts: 2"),
            "g.yaml:10:25: endpoints.coder.max_attempts: expected `fallbacks` that it counts, found none;"
            " name fallbacks, or"
            " remove max_attempts",
            id="attempts without fallbacks",
        ),
        pytest.param(
            changed("openai, secret", "openai, base_url: 'http://10.0.0.5/v1', secret"),
            "g.yaml:3:26: providers.openai.base_url: expected a public https address, found"
            " `http://10.0.0.5/v1`; a server of"
            " your own is named by LLM_BASE_URL in .env, and by ${LLM_BASE_URL} here",
            id="private address",
        ),
        pytest.param(
            changed("  judge: {model: large}\n", ""),
            "g.yaml:9:1: endpoints: expected an endpoint `judge`, found none; declare it: the stack's judges call it",
            id="no judge",
        ),
        pytest.param(
            VALID + "rate_limits:\n  - {scope: endpoint, target: coder}\n",
            "g.yaml:13:5: rate_limits[0]: expected `requests_per_minute` or `tokens_per_minute`, found"
            " neither; say how many,"
            " or remove the limit",
            id="limit of nothing",
        ),
        pytest.param(
            VALID + "guardrails:\n  right: {scorer: Correctness, stage: after, action: validation, endpoints: [coder]}\n",
            "g.yaml:13:11: guardrails.right.scorer: expected a scorer that can guard a call, found"
            " `Correctness`: it compares"
            " with an expected answer, which a call does not have; take one of PIIDetection,"
            " SecretDetection, Safety, Judge",
            id="scorer that can't guard",
        ),
        pytest.param(
            VALID + "guardrails:\n  safe: {scorer: Safety, stage: after, action: sanitization, endpoints: [coder]}\n",
            "g.yaml:13:40: guardrails.safe.action: expected validation for Safety, which judges the whole"
            " and finds no place"
            " to mask, found `sanitization`; take validation, or mask by PIIDetection or SecretDetection",
            id="scorer that can't mask",
        ),
        pytest.param(
            VALID + "guardrails:\n  safe: {scorer: Safety, stage: before, action: validation, endpoints: [judge]}\n",
            "g.yaml:13:3: guardrails.safe.model: expected another endpoint to decide than those it guards,"
            " found `judge`:"
            " each look would ask for another look, without end; name an endpoint for judges that is not"
            " guarded by one",
            id="judge that guards itself",
        ),
        pytest.param(
            VALID + "guardrails:\n  on: {scorer: Judge, stage: before, action: validation, endpoints: [coder],"
            " instructions: 'Is {{ outputs }} fine?'}\n",
            "g.yaml:13:78: guardrails.on.instructions: expected `instructions` that ask for {{ inputs }} at the stage"
            " `before`, found {{ outputs }}; write them like: ",
            id="judge of what is not there yet",
        ),
        pytest.param(
            VALID + "users:\n  ada: {grants: {endpoints: [codr]}}\n",
            "g.yaml:13:30: users.ada.grants.endpoints[0]: expected an endpoint of this file, found `codr`;"
            " did you mean"
            " `coder`?",
            id="grant on no endpoint",
        ),
        pytest.param(
            VALID + "users:\n  ada: {}\nkeys:\n  ci: {user: bob}\n",
            "g.yaml:15:8: keys.ci.user: expected a user of this file, found `bob`; declare it under"
            " `users`; there are: ada",
            id="key of nobody",
        ),
        pytest.param(
            VALID + "webhooks:\n  ops: {url: 'http://hooks.example.com'}\n",
            "g.yaml:13:9: webhooks.ops.url: expected an https address, found `http://hooks.example.com`;"
            " MLflow delivers"
            " webhooks to public https addresses alone",
            id="webhook without TLS",
        ),
        pytest.param(
            VALID + "webhooks:\n  ops: {url: 'https://hooks.example.com', secret: HOOK_SECRET}\n",
            "g.yaml:13:43: webhooks.ops.secret: expected the secret HOOK_SECRET to be set, found that it is not; put"
            " HOOK_SECRET=… into .env",
            id="unset webhook secret",
        ),
        pytest.param(
            VALID.replace("version: 1\n", ""),
            "g.yaml:1:1: version: expected a field `version`, found none; add `version:`",
            id="no version",
        ),
        pytest.param(
            "providers: [", "g.yaml:1:13: expected valid YAML, found while parsing a flow node", id="no YAML"
        ),
        pytest.param("- a\n", "g.yaml:1:1: expected a mapping of sections", id="a list"),
        pytest.param(
            "# only a comment\n",
            "g.yaml:1:1: expected a mapping of sections (providers, models, endpoints), found nothing in it",
            id="nothing",
        ),
        pytest.param(
            changed("judge: {model: large}", "judge: &j {model: large, fallbacks: [*j]}"),
            "g.yaml:11:", id="endless alias",
        ),
    ],
)  # fmt: skip
def test_each_mistake_has_its_place_and_its_remedy(text: str, expected: str | None) -> None:
    told = only(text)
    if expected is None:
        assert re.match(
            r"g\.yaml:4:12: providers\.claude\.kind: expected 'ai21labs', .*'xai', found `antropic`; did you mean"
            r" `anthropic`\?",
            told,
        )
    else:
        assert told.startswith(expected)


def test_every_mistake_is_told_at_once() -> None:
    text = VALID.replace("kind: anthropic", "kind: x").replace("model: large}", "model: huge}")
    text += "budgets:\n  - {scope: global, amount: 0, window: 1 day, action: reject}\n  - 7\n"
    assert [problem.path for problem in problems(text, {})] == [
        "providers.openai.secret",
        "providers.claude.kind",
        "endpoints.judge.model",
        "budgets[0].amount",
        "budgets[1]",
    ]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"none\.yaml: expected a readable .*, found No such file"):
        validation.load(tmp_path / "none.yaml", {})


class TestShippedFile:
    """The stack's default, and the settings of .env that choose its models."""

    @staticmethod
    def endpoints(variables: Mapping[str, str]) -> dict[str, str]:
        checked = validation.load(SHIPPED, variables)
        made = desired.resolve(checked.configuration, variables)
        return {
            name: f"{made.models[endpoint.primaries[0][0]].secret}:{made.models[endpoint.primaries[0][0]].model}"
            for name, endpoint in made.endpoints.items()
        }

    @staticmethod
    def refused(variables: Mapping[str, str]) -> str:
        with pytest.raises(InvalidConfiguration) as error:
            validation.load(SHIPPED, variables)
        return str(error.value)

    def test_the_demo_model_serves_where_there_is_no_key(self) -> None:
        assert self.endpoints(DEMO) == {"coder": "demo-key:demo", "judge": "demo-key:demo"}

    @pytest.mark.parametrize(
        ("given", "coder", "judge"),
        [
            ({"OPENAI_API_KEY": "k"}, "openai-key:gpt-5-mini", "openai-key:gpt-5-mini"),
            ({"GEMINI_API_KEY": "k"}, "gemini-key:gemini-2.5-flash", "gemini-key:gemini-2.5-flash"),
            ({"OPENAI_API_KEY": "k", "CODER_MODEL": "openai/gpt-5"}, "openai-key:gpt-5", "openai-key:gpt-5"),
            ({"OPENAI_API_KEY": "k", "CODER_MODEL": "gpt-5"}, "openai-key:gpt-5", "openai-key:gpt-5"),
            (
                {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "JUDGE_MODEL": "anthropic/claude-x"},
                "openai-key:gpt-5-mini",
                "anthropic-key:claude-x",
            ),
            (
                {"LLM_BASE_URL": "http://box:11434/v1", "LLM_API_KEY": "k", "CODER_MODEL": "custom/meta/llama"},
                "custom-key:meta/llama",
                "custom-key:meta/llama",
            ),
            ({"CODER_MODEL": "scenario/facts"}, "demo-key:scenario/facts", "demo-key:scenario/facts"),
        ],
    )  # fmt: skip
    def test_settings_choose_models(self, given: dict[str, str], coder: str, judge: str) -> None:
        assert self.endpoints(DEMO | given) == {"coder": coder, "judge": judge}

    def test_a_model_of_a_provider_without_a_key(self) -> None:
        told = self.refused(DEMO | OPENAI | {"ANTHROPIC_API_KEY": "k", "CODER_MODEL": "gemini/x"})
        assert "expected CODER_MODEL to begin with a provider that has a key (openai, anthropic)" in told
        assert "found `gemini/x`; mend CODER_MODEL in .env" in told

    def test_half_a_provider(self) -> None:
        url = {"LLM_BASE_URL": "https://llm.lan/v1"}
        assert "found only LLM_BASE_URL; set LLM_API_KEY" in self.refused(DEMO | url)
        assert "found only LLM_API_KEY; set LLM_BASE_URL" in self.refused(DEMO | {"LLM_API_KEY": "k"})

    def test_a_server_without_the_name_of_its_model(self) -> None:
        told = self.refused(DEMO | {"LLM_BASE_URL": "https://llm.lan/v1", "LLM_API_KEY": "k"})
        assert "endpoints.coder.model" in told
        assert "set CODER_MODEL=<provider>/<model> in .env" in told

    @pytest.mark.parametrize(
        ("text", "amounts"),
        [
            ("free", (0, 0, None)),
            ("0.2,0.6", (Decimal("0.2"), Decimal("0.6"), None)),
            ("0.2, 0.6, 0.05", (Decimal("0.2"), Decimal("0.6"), Decimal("0.05"))),
        ],
    )
    def test_the_price_of_a_server(self, text: str, amounts: tuple[object, ...]) -> None:
        box = {"LLM_BASE_URL": "http://box:11434/v1", "LLM_API_KEY": "k", "CODER_MODEL": "custom/llama"}
        configuration = validation.load(SHIPPED, DEMO | box).configuration
        assert desired.resolve(configuration, DEMO | box).prices == {}

        prices = desired.resolve(configuration, DEMO | box | {"LLM_PRICE": text}).prices
        assert {key: (p.input, p.output, p.cache_read) for key, p in prices.items()} == {
            ("openai", "llama"): amounts
        }

    @pytest.mark.parametrize("text", ["cheap", "1", "1,2,3,4", "1,-2", "1,,2"])
    def test_a_price_of_a_server_that_is_none(self, text: str) -> None:
        told = self.refused(DEMO | {"LLM_PRICE": text})
        assert "providers.custom.price" in told
        assert f"found `{text}`; mend LLM_PRICE in .env" in told

    def test_none_at_all(self) -> None:
        assert "set one of LLM_API_KEY, OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY" in self.refused({})

    def test_its_schema_is_the_published_one(self) -> None:
        assert schema.PUBLISHED.read_text() == schema.text(), (
            "run: cd mlflow && python -m paddock_mlflow.config.schema"
        )
        assert SHIPPED.read_text().startswith("# yaml-language-server: $schema=gateway.schema.json\n")
        assert json.loads(schema.text())["properties"].keys() >= {"providers", "budgets", "webhooks"}

    def test_its_commented_examples_are_valid(self) -> None:
        shown = re.sub(
            r"^( *)# (llama:|fallbacks:|max_attempts:|budgets:|rate_limits:|  - )",
            r"\1\2",
            SHIPPED.read_text(),
            flags=re.M,
        )
        assert shown.count("#") < SHIPPED.read_text().count("#") - 5
        variables = DEMO | OPENAI | {"ANTHROPIC_API_KEY": "k"}
        assert problems(shown, variables) == []
        assert len(resolved(shown, variables).budgets) == 2


def test_the_documented_example_is_valid() -> None:
    text = (SHIPPED.parents[1] / "docs" / "configuration.md").read_text()
    example = re.search(r"^```yaml\n(.*?)^```$", text, flags=re.M | re.S)
    assert example is not None
    names = ("AZURE_API_KEY", "BEDROCK_KEY_ID", "BEDROCK_SECRET", "LLM_API_KEY", "HOOK_SECRET")
    variables = OPENAI | dict.fromkeys(names, "x") | {"LLM_BASE_URL": "http://box:11434/v1"}
    assert problems(example[1], variables) == []
    made = resolved(example[1], variables)
    assert made.endpoints["coder"].fallbacks == ("llama", "large")
    assert set(validation.Configuration.model_fields) == set(source.parse(example[1], "docs").data)


class TestMeaning:
    """What a file asks for."""

    def test_a_provider_without_a_key_is_not_there(self) -> None:
        made = resolved(changed("fallbacks: [large]", "fallbacks: [sonnet, large]"))
        assert made.absent == ("claude",)
        assert set(made.models) == {"small", "large"}
        assert made.endpoints["coder"].fallbacks == ("large",)

    def test_an_endpoint_as_fallback_stands_for_its_models(self) -> None:
        text = changed("fallbacks: [large]", "fallbacks: [judge, sonnet]")
        text = text.replace("judge: {model: large}", "judge: {model: large, fallbacks: [sonnet, small]}")
        made = resolved(text, OPENAI | {"ANTHROPIC_API_KEY": "k"})
        # Its own model is left out: it has failed already.
        assert made.endpoints["coder"].fallbacks == ("large", "sonnet")

    def test_prices_are_exact_and_by_the_providers_name_of_the_model(self) -> None:
        price = resolved(VALID).prices["openai", "gpt-5"]
        assert (price.input, price.cache_read, price.cache_write) == (Decimal("1.25"), Decimal("0.125"), None)

    def test_every_kind_of_tokens_may_have_a_price(self) -> None:
        text = changed("cache_read: 0.125}", "cache_write: 1.5, cache_write_1h: 2.5, reasoning: 12}")
        price = resolved(text).prices["openai", "gpt-5"]
        assert (price.cache_write, price.cache_write_1h, price.reasoning) == (
            Decimal("1.5"),
            Decimal("2.5"),
            12,
        )
        (change,) = plan(resolved(text), State(salt="ab" * 16, default_passphrase=False)).changes[:1]
        shown = {one.field: one.new for one in change.differences}
        assert shown == {
            "input": "$1.25", "output": "$10", "cache_write": "$1.5", "cache_write_1h": "$2.5", "reasoning": "$12",
        }  # fmt: skip

    def test_free_is_a_price(self) -> None:
        made = resolved(changed("model: gpt-5-mini}", "model: gpt-5-mini, price: free}"))
        assert (made.prices["openai", "gpt-5-mini"].input, len(made.prices)) == (0, 2)


class TestPlan:
    """The comparison, without a server."""

    SALT = "ab" * 16

    def state(self, text: str = VALID) -> State:
        """What a server has after the file was applied."""
        made = resolved(text)
        state = State(salt=self.SALT, default_passphrase=False)
        for secret in made.secrets.values():
            print_of = fingerprints.of(self.SALT, secret.credentials or {})
            state.secrets[secret.name] = SecretState(
                f"id-{secret.name}", secret.name, secret.kind, ("api_key",), secret.auth, print_of
            )
        for model in made.models.values():
            state.models[model.name] = ModelState(
                f"id-{model.name}", model.name, model.secret, model.kind, model.model
            )
        for one in made.endpoints.values():
            state.endpoints[one.name] = EndpointState(
                f"id-{one.name}",
                one.name,
                one.primaries,
                one.fallbacks or (),
                one.max_attempts,
                one.usage_tracking,
            )
        state.prices = dict(made.prices)
        state.budgets = [BudgetState(f"id-{number}", entry) for number, entry in enumerate(made.budgets)]
        return state

    def test_nothing_where_both_agree(self) -> None:
        assert plan(resolved(VALID), self.state()).clean

    def test_a_changed_secret_is_told_and_not_shown(self) -> None:
        made = plan(resolved(VALID, {"OPENAI_API_KEY": "sk-2-very-secret"}), self.state())
        assert [change.text() for change in made.changes] == [
            "update provider openai: secret OPENAI_API_KEY another value → the value of .env"
        ]
        assert "sk-2" not in repr(made) + json.dumps(made.as_json())

    def test_another_amount_changes_a_budget_and_a_twin_of_it_is_reported(self) -> None:
        text = VALID + "budgets:\n  - {scope: global, amount: 5, window: 6 hours, action: reject}\n"
        state = self.state(text)
        twin = replace(state.budgets[0].entry, amount=Decimal(7))
        state.budgets.append(BudgetState("id-twin", twin))
        same = plan(resolved(text), state)
        assert (same.changes, [one.text() for one in same.unmanaged]) == (
            (),
            ["delete budget of all calls, 6 hours, reject"],
        )
        assert same.unmanaged[0].id == "id-twin"
        other = plan(resolved(text.replace("amount: 5", "amount: 9.50")), state)
        assert [one.text() for one in other.changes] == [
            "update budget of all calls, 6 hours, reject: amount $5 → $9.5"
        ]

    def test_a_budget_of_another_window_is_another_budget(self) -> None:
        entry = BudgetEntry("global", "", "DAYS", 1, "reject", Decimal(5))
        assert entry.key != replace(entry, count=2).key
        assert entry.key == replace(entry, amount=Decimal(6)).key

    def test_fallbacks_that_the_file_does_not_claim_stay_and_are_reported(self) -> None:
        silent = VALID.replace(", fallbacks: [large]", "")
        state = self.state()
        made = plan(resolved(silent), state)
        assert made.changes == ()
        assert [one.text() for one in made.unmanaged] == ["delete fallbacks coder"]
        claimed = plan(resolved(VALID.replace("fallbacks: [large]", "fallbacks: []")), state)
        assert [one.text() for one in claimed.changes] == ["update endpoint coder: fallbacks large → none"]

    def test_the_default_passphrase_is_a_conflict(self) -> None:
        state = self.state()
        state.default_passphrase = True
        assert "MLflow's well-known default" in plan(resolved(VALID), state).conflicts[0]

    def test_another_kind_of_provider_is_a_conflict(self) -> None:
        text = VALID.replace("openai: {kind: openai", "openai: {kind: openrouter")
        assert "MLflow can't change that" in plan(resolved(text), self.state()).conflicts[0]
