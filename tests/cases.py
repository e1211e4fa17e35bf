"""What holds on both stacks, told by `./paddock` alone: the same cases run embedded and on Compose.

A folder's conftest gives a session fixture `product`, a `Product`; a test class takes the cases by inheriting
`EndToEnd`.
"""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
TASK = "Write 3 facts about the current project into FACTS.txt."
EXPECTATION = "3 facts about the current project were written into FACTS.txt."
JUDGES = {"conduct", "relevance_to_query", "tool_call_efficiency"}
GATEWAY = "/api/3.0/mlflow/gateway"
AGENT_USER = "agent"


@dataclass
class Answer:
    """What a call of the command line ended with."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document of a call with --json."""
        return json.loads(self.out)


@dataclass
class Product:
    """A stack that is up, by its command line.

    Args:
        kind: `embedded` or `compose`.
        env: what makes the command line mean this stack and no other.
        model_url: base address of the demo model as MLflow sees it, ending in /v1.
    """

    kind: str
    env: dict[str, str]
    model_url: str
    _endpoints: dict[str, str] = field(default_factory=dict)

    def paddock(
        self,
        *arguments: str,
        cwd: Path | None = None,
        timeout: float = 300,
        env: dict[str, str] | None = None,
    ) -> Answer:
        """Call `./paddock` and wait for its end."""
        done = subprocess.run(
            [str(ROOT / "paddock"), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            env=self._variables() | (env or {}),
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(
        self, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Call `./paddock` and go on."""
        return subprocess.Popen(
            [str(ROOT / "paddock"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=self._variables() | (env or {}),
        )

    def api(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """A call of MLflow's REST API as its administrator."""
        access = self.paddock("password", "--json").document
        answer = httpx.request(
            method, access["url"] + path, auth=(access["user"], access["password"]), timeout=30, **arguments
        )
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def trace(self, trace_id: str) -> dict[str, Any]:
        """What MLflow tells of a trace."""
        return self.api("GET", f"/api/3.0/mlflow/traces/{trace_id}")["trace"]["trace_info"]

    def scenario(self, name: str) -> str:
        """The endpoint that leads to a scripted answer of tests/scenarios."""
        return self.endpoint(f"scenario-{name}", model=f"scenario/{name}")

    def endpoint(self, name: str, *, model: str = "demo", base: str = "", key: str = "") -> str:
        """An endpoint that agents may use, made where it is missing.

        Args:
            base: address of the provider; the demo model's where empty.
            key: the provider's key; the demo model's own where empty.
        """
        if name in self._endpoints:
            return name
        secret_id = self._demo_secret()
        if base or key:
            body = {
                "secret_name": f"{name}-key",
                "secret_value": {"api_key": key or "none"},
                "provider": "openai",
                "auth_config": {"api_base": base or self.model_url},
            }
            secret_id = self.api("POST", f"{GATEWAY}/secrets/create", json=body)["secret"]["secret_id"]
        if model != "demo":
            # The gateway calls no model without a price.
            price = {"kind": "openai", "model": model, "input": "0.15", "output": "0.6"}
            self.api("PUT", "/api/3.0/paddock/prices", json=price)
        body = {"name": name, "secret_id": secret_id, "provider": "openai", "model_name": model}
        definition = self.api("POST", f"{GATEWAY}/model-definitions/create", json=body)["model_definition"]
        link = {
            "model_definition_id": definition["model_definition_id"],
            "linkage_type": "PRIMARY",
            "weight": 1.0,
        }
        body = {"name": name, "usage_tracking": True, "model_configs": [link]}
        endpoint_id = self.api("POST", f"{GATEWAY}/endpoints/create", json=body)["endpoint"]["endpoint_id"]
        grant = {"username": AGENT_USER, "resource_type": "gateway_endpoint", "resource_id": endpoint_id}
        self.api("POST", "/api/3.0/mlflow/users/permissions/grant", json={**grant, "permission": "USE"})
        self._endpoints[name] = endpoint_id
        return name

    def _demo_secret(self) -> str:
        secrets = self.api("GET", f"{GATEWAY}/secrets/list")["secrets"]
        return next(secret["secret_id"] for secret in secrets if secret["secret_name"] == "demo-key")

    def _variables(self) -> dict[str, str]:
        # Tests run in an environment of their own, whose packages the command line must not see.
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | self.env


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of a condition. Raises AssertionError where there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.25)


def lines_of(path: Path) -> list[str]:
    """The lines of a file, none where it is not there yet."""
    return path.read_text().split() if path.exists() else []


def require_every_step_once(steps: Path, done: int) -> None:
    """That the scenario `long-run`, cut off after `done` lines, went on where it was.

    Nobody knows whether the step that was cut off had its effect, so the model is told and this one does not do it
    again: it stands there or not. All the others are there once, in order.
    """
    numbers = [int(line) for line in lines_of(steps)]
    cut_off = done + 1
    assert numbers[:done] == list(range(1, done + 1))
    assert [n for n in numbers if n != cut_off] == [n for n in range(1, 11) if n != cut_off]
    assert numbers.count(cut_off) <= 1


def _verdicts(product: Product, trace_id: str, judge: str) -> list[dict[str, Any]]:
    """What a judge has said of a trace."""
    found = product.trace(trace_id).get("assessments", [])
    return [one for one in found if one["assessment_name"] == judge and "feedback" in one]


def run_keys(product: Product) -> list[dict[str, Any]]:
    """The keys of single runs."""
    listed = product.paddock("keys", "list", "--runs", "--json").document["keys"]
    return [key for key in listed if key["run_id"]]


@dataclass(frozen=True)
class Finished:
    """A run that has ended well, within its budget: its report, the `run` part of it, and where it worked."""

    run: dict[str, Any]
    workspace: Path
    report: dict[str, Any] = field(default_factory=dict)


class EndToEnd:
    """The cases; each test gets the running stack as `product`."""

    def test_a_run_ends_judged_with_its_figures(self, product: Product, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("# Lighthouses\n")

        answer = product.paddock(
            "run", TASK, "--expect", EXPECTATION, "--tag", "team=web", "--json", cwd=tmp_path
        )

        assert answer.code == 0, answer.err
        document = answer.document
        assert document["run"]["outcome"] == "finished"
        assert len((tmp_path / "FACTS.txt").read_text().splitlines()) == 3
        assert "Lighthouses" in (tmp_path / "FACTS.txt").read_text()
        assert document["trace"]["state"] == "OK"
        assert document["trace"]["tags"]["team"] == "web"
        assert document["trace"]["expectations"] == {"expected_facts": [EXPECTATION]}
        assert {name: verdict["value"] for name, verdict in document["judges"].items()} == dict.fromkeys(
            JUDGES | {"correctness"}, "yes"
        )
        assert all(verdict["rationale"] for verdict in document["judges"].values())
        tokens = document["run"]["tokens"]
        price = (tokens["input"] - tokens["cached_input"]) * 0.15 + tokens["cached_input"] * 0.075
        assert document["trace"]["cost_usd"] * 1e6 == pytest.approx(price + tokens["output"] * 0.6)
        assert document["links"]["trace"].endswith(document["run"]["trace_id"])

    def test_correctness_says_no_where_the_answer_lacks_what_was_expected(
        self, product: Product, tmp_path: Path
    ) -> None:
        answer = product.paddock(
            "run", TASK, "--expect", "The submarine dived below ninety fathoms.", "--json", cwd=tmp_path
        )

        assert answer.code == 0, answer.err
        assert answer.document["judges"]["correctness"]["value"] == "no"
        assert answer.document["judges"]["correctness"]["rationale"]

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, product: Product, tmp_path_factory: pytest.TempPathFactory) -> Finished:
        """One run for the tests that only look at one; its workspace has a blank in its path."""
        folder = tmp_path_factory.mktemp("finished") / "my project"
        folder.mkdir()
        answer = product.paddock(
            *["run", TASK, "--workspace", str(folder), "--budget", "0.50", "--judge-timeout", "0", "--json"]
        )
        assert answer.code == 0, answer.err
        return Finished(answer.document["run"], folder, answer.document)

    def test_a_judge_is_held_against_what_a_person_says(
        self, product: Product, finished: Finished, tmp_path: Path
    ) -> None:
        trace_id, judge = finished.run["trace_id"], "relevance_to_query"
        eventually(lambda: _verdicts(product, trace_id, judge), 90, f"a verdict of {judge}")
        (tmp_path / "labels.csv").write_text(f"trace_id,judge,value,user\n{trace_id},{judge},no,ada\n")

        wrong = product.paddock("label", "--trace", trace_id, "--judge", judge, "--value", "maybe")
        stored = product.paddock("label", "--file", str(tmp_path / "labels.csv"), "--json")
        again = product.paddock("label", "--file", str(tmp_path / "labels.csv"), "--json")
        before = product.trace(trace_id)["assessments"]
        answer = product.paddock("judges", "trust", "RelevanceToQuery", "--repeats", "2", "-n", "1", "--json")

        assert wrong.code == 2
        assert "yes or no" in wrong.err
        assert [one["done"] for one in stored.document["labels"]] == ["added"]
        assert [one["done"] for one in again.document["labels"]] == ["same"]
        assert answer.code == 0, answer.err
        (trust,) = answer.document["judges"]
        assert (trust["judge"], trust["labellers"], trust["labelled_traces"]) == (judge, ["ada"], 1)
        assert trust["agreement"]["confusion"] == {"yes": {"yes": 0, "no": 0}, "no": {"yes": 1, "no": 0}}
        assert trust["agreement"]["kappa"] == 0
        assert trust["versions"][0]["fingerprint"]
        # The demo model is deterministic, and what it says when it is asked again is kept nowhere.
        asked = trust["flips_when_asked_again"]
        assert (asked["rate"], asked["answers"], asked["failed"]) == (0, 2, 0)
        assert product.trace(trace_id)["assessments"] == before
        # A person's word is no verdict.
        (listed,) = (
            one
            for one in product.paddock("traces", "-n", "200", "--json").document["traces"]
            if one["trace_id"] == trace_id
        )
        assert listed["judges"][judge]["value"] == "yes"
        assert [(one["name"], one["value"]) for one in listed["labels"]] == [(judge, "no")]

    def test_the_judges_are_as_declared_and_a_verdict_leads_to_its_prompt(
        self, product: Product, finished: Finished
    ) -> None:
        (verdict,) = eventually(
            lambda: _verdicts(product, finished.run["trace_id"], "conduct"), 90, "a verdict of conduct"
        )
        known = verdict["metadata"]

        planned = product.paddock("judges", "plan", "--json")
        shown = product.paddock(
            "judges", "show", "conduct", "--fingerprint", known["paddock.judge.fingerprint"][:12], "--json"
        )

        assert planned.document["changes"] == []
        (version,) = shown.document["versions"]
        assert version["fingerprint"] == known["paddock.judge.fingerprint"]
        assert version["version"] == int(known["paddock.judge.version"])
        assert "git push --force" in version["content"]["prompt"]
        assert known["paddock.passed"] == "true"

    def test_no_trace_turns_the_shipped_judge(self, product: Product) -> None:
        probed = product.paddock("judges", "probe", "--json", timeout=300)

        assert probed.code == 0, probed.out
        assert len(probed.document["traces"]) >= 14
        assert [one["id"] for one in probed.document["traces"] if not one["right"]] == []

    def test_files_that_the_agent_writes_belong_to_the_workspace_owner(self, finished: Finished) -> None:
        facts = (finished.workspace / "FACTS.txt").stat()
        owner = finished.workspace.stat()

        assert (facts.st_uid, facts.st_gid) == (owner.st_uid, owner.st_gid)
        assert facts.st_mode & 0o444 == 0o444

    def test_a_run_within_its_budget_tells_what_it_spent(self, product: Product, finished: Finished) -> None:
        budget = finished.report["budget"]

        assert Decimal(budget["limit_usd"]) == Decimal("0.50")
        assert float(budget["spent_usd"]) == pytest.approx(finished.report["trace"]["cost_usd"])
        assert 0 < float(budget["spent_usd"]) < 0.50
        key = next(key for key in run_keys(product) if key["id"] == budget["key_id"])
        assert key["state"] == "revoked"
        assert (key["user"], key["endpoints"]) == (AGENT_USER, ["coder"])
        # Its spans are the run's by this key.
        assert key["experiment_ids"] == [finished.report["trace"]["experiment_id"]]

    def test_a_run_that_needs_more_than_its_budget_ends_at_once(
        self, product: Product, tmp_path: Path
    ) -> None:
        endpoint = product.scenario("loop")

        # A call costs half a cent and may cost a little more: the third or fourth does not fit.
        answer = product.paddock(
            *[
                "run",
                TASK,
                "--endpoint",
                endpoint,
                "--budget",
                "0.012",
                "--max-output-tokens",
                "256",
                "--json",
            ],
            cwd=tmp_path,
        )

        assert answer.code == 4, answer.err
        document = answer.document
        assert document["run"]["outcome"] == "budget"
        assert document["run"]["steps"] >= 1
        assert document["trace"]["state"] == "ERROR"
        spent = Decimal(document["budget"]["spent_usd"])
        assert 0 < spent <= Decimal("0.012")
        assert f"${spent:f} spent" in document["run"]["message"]
        assert "$0.012" in document["run"]["message"]
        assert "attempt" not in answer.err

    def test_a_run_whose_key_is_revoked_ends_with_its_next_call(
        self, product: Product, tmp_path: Path
    ) -> None:
        endpoint = product.scenario("long-run")
        call = product.start("run", TASK, "--endpoint", endpoint, "--json", cwd=tmp_path)
        eventually(lambda: lines_of(tmp_path / "steps.log"), 90, "a step")

        # Other tests' keys are on the same stack.
        (key,) = [
            key for key in run_keys(product) if (key["state"], key["endpoints"]) == ("active", [endpoint])
        ]
        revoked = product.paddock("keys", "revoke", key["id"], "--json")
        out, err = call.communicate(timeout=60)

        assert revoked.document["state"] == "revoked"
        assert call.returncode == 7, err
        document = json.loads(out)
        assert document["run"]["outcome"] == "authentication"
        assert "revoked" in document["run"]["message"]
        assert document["trace"]["state"] == "ERROR"

    def test_a_key_opens_its_endpoint_until_it_is_revoked(self, product: Product) -> None:
        made = product.paddock(
            *["keys", "create", "--user", "ada", "--endpoint", "coder", "--budget", "5/day"],
            *["--expires", "30d", "--requests-per-minute", "600", "--json"],
        ).document
        hello = {"model": "coder", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
        url = product.paddock("password", "--json").document["url"]

        def call(path: str, **headers: str) -> httpx.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return httpx.post(f"{url}/gateway/{path}", headers=named, json=hello, timeout=30)

        openai = ("mlflow/v1/chat/completions", {"authorization": f"Bearer {made['key']}"})
        azure = ("openai/v1/chat/completions", {"api_key": made["key"]})
        for path, headers in (openai, azure):
            answer = call(path, **headers)
            assert answer.status_code == 200, answer.text
            assert 0 < float(answer.headers["x-paddock-budget-remaining-usd"]) < 5

        listed = product.paddock("keys", "list", "--json").document["keys"]
        key = next(key for key in listed if key["id"] == made["id"])
        assert 0 < float(key["spent_usd"]) < 5
        assert key["last_used_at"]
        assert made["key"] not in str(listed)
        assert product.paddock("keys", "revoke", made["id"]).code == 0
        refused = call(openai[0], **openai[1])
        assert refused.status_code == 401
        assert "revoked" in refused.json()["error"]["message"]
        table = product.paddock("keys", "list").out
        assert made["id"] in table
        assert "revoked" in table

    def test_an_unknown_endpoint_is_refused_before_the_run(self, product: Product, tmp_path: Path) -> None:
        answer = product.paddock("run", TASK, "--endpoint", "nope", cwd=tmp_path)

        assert answer.code == 9
        assert "coder" in answer.err
        assert "Traceback" not in answer.err

    def test_a_wrong_key_ends_as_authentication_with_a_trace(self, product: Product, tmp_path: Path) -> None:
        endpoint = product.endpoint("wrong-key", key="sk-wrong")

        answer = product.paddock("run", TASK, "--endpoint", endpoint, "--json", cwd=tmp_path)

        assert answer.code == 7, answer.err
        assert answer.document["run"]["outcome"] == "authentication"
        assert answer.document["trace"]["state"] == "ERROR"

    def test_a_provider_that_breaks_off_ends_as_unavailable_with_a_trace(
        self, product: Product, tmp_path: Path
    ) -> None:
        endpoint = product.scenario("reset")

        answer = product.paddock("run", TASK, "--endpoint", endpoint, "--json", cwd=tmp_path)

        assert answer.code == 8, answer.err
        assert answer.document["run"]["outcome"] == "provider_unavailable"
        assert answer.document["trace"]["state"] == "ERROR"

    def test_a_provider_that_fails_twice_is_asked_again(self, product: Product, tmp_path: Path) -> None:
        endpoint = product.scenario("fail-twice-then-finish")

        answer = product.paddock(
            "run", TASK, "--endpoint", endpoint, "--judge-timeout", "0", "--json", cwd=tmp_path
        )

        assert answer.code == 0, answer.err
        assert answer.document["trace"]["state"] == "OK"

    def test_the_iteration_limit_ends_the_run_as_an_error(self, product: Product, tmp_path: Path) -> None:
        endpoint = product.scenario("loop")

        answer = product.paddock(
            "run", TASK, "--endpoint", endpoint, "--max-iterations", "3", "--json", cwd=tmp_path
        )

        assert answer.code == 3, answer.err
        assert answer.document["run"]["steps"] == 3
        assert answer.document["trace"]["state"] == "ERROR"

    def test_the_time_limit_ends_the_run_as_an_error(self, product: Product, tmp_path: Path) -> None:
        endpoint = product.scenario("long-run")

        answer = product.paddock(
            "run", TASK, "--endpoint", endpoint, "--timeout", "15", "--json", cwd=tmp_path
        )

        assert answer.code == 124, answer.err
        assert answer.document["trace"]["state"] == "ERROR"

    def test_an_interrupted_run_ends_its_trace_and_can_be_resumed(
        self, product: Product, tmp_path: Path
    ) -> None:
        endpoint = product.scenario("long-run")
        steps = tmp_path / "steps.log"
        call = product.start("run", TASK, "--endpoint", endpoint, "--json", cwd=tmp_path)
        eventually(lambda: len(lines_of(steps)) >= 2, 90, "two steps")

        call.send_signal(signal.SIGINT)
        out, err = call.communicate(timeout=90)

        assert call.returncode == 130, err
        document = json.loads(out)
        assert document["run"]["outcome"] == "interrupted"
        assert document["trace"]["state"] == "ERROR"
        done = len(lines_of(steps))
        run_id = document["run"]["run_id"]

        resumed = product.paddock("run", "--resume", run_id, "--judge-timeout", "0", "--json", timeout=240)

        assert resumed.code == 0, resumed.err
        assert resumed.document["run"]["run_id"] == run_id
        assert resumed.document["trace"]["state"] == "OK"
        require_every_step_once(steps, done)

    def test_stop_and_down_end_running_agents_first(self, product: Product, tmp_path: Path) -> None:
        endpoint = product.scenario("long-run")
        steps = tmp_path / "steps.log"
        call = product.start("run", TASK, "--endpoint", endpoint, "--json", cwd=tmp_path)
        eventually(lambda: lines_of(steps), 90, "a step")

        ended = self.end_agents(product)
        out, err = call.communicate(timeout=90)

        assert ended >= 1
        assert call.returncode == 143, err
        trace_id = json.loads(out)["run"]["trace_id"]
        assert product.trace(trace_id)["state"] == "ERROR"

    def end_agents(self, product: Product) -> int:
        """What `stop` and `down` do first; the stack itself goes on, for the tests that follow."""
        from paddock_cli import selection
        from paddock_cli.settings import Paths, load

        where = Paths(
            root=ROOT,
            state=Path(product.env["PADDOCK_STATE_DIR"]),
            cache=Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddock",
        )
        before = {name: os.environ.get(name) for name in product.env}
        os.environ.update(product.env)
        try:
            return selection.make(product.kind, where, load(where)).end_agents()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def test_a_run_that_is_not_here_cannot_be_resumed(self, product: Product) -> None:
        answer = product.paddock("run", "--resume", str(uuid.uuid4()))

        assert answer.code == 32
        assert "Traceback" not in answer.err

    def test_traces_lists_the_run(self, product: Product, finished: Finished) -> None:
        trace_id = finished.run["trace_id"]

        listed = product.paddock("traces", "--limit", "100", "--json").document["traces"]

        found = next(trace for trace in listed if trace["trace_id"] == trace_id)
        assert found["run_id"] == finished.run["run_id"]
        assert found["request"] == TASK
        assert trace_id in product.paddock("traces", "--limit", "100").out

    def test_the_ledger_and_the_runs_trace_tell_the_same_cost(
        self, product: Product, finished: Finished
    ) -> None:
        listed = product.paddock("traces", "--limit", "100", "--json").document["traces"]
        trace = next(trace for trace in listed if trace["trace_id"] == finished.run["trace_id"])

        answer = product.paddock("costs", "--by", "run", "--since", "1d", "--json")

        assert answer.code == 0, answer.err
        (group,) = [row for row in answer.document["groups"] if row["group"] == finished.run["run_id"]]
        assert float(group["cost_usd"]) > 0
        assert float(group["cost_usd"]) == pytest.approx(trace["cost_usd"], abs=1e-5)
        assert group["input_tokens"] == trace["tokens"]["input_tokens"]
        assert finished.run["run_id"] in product.paddock("costs", "--by", "run", "--csv", "-").out

    def test_every_call_has_its_usage_trace_soon(self, product: Product, finished: Finished) -> None:
        """The job process writes them; a call that is not settled has none yet."""

        def written() -> bool:
            answer = product.api("GET", "/api/3.0/paddock/costs")
            return answer["usage_traces"] == {"waiting": 0, "set_aside": 0}

        eventually(written, 30, "every record in the outbox to become a trace")
        experiment = product.api("GET", f"{GATEWAY}/endpoints/get?name=coder")["endpoint"]["experiment_id"]
        body = {
            "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}],
            "filter": f"metadata.`paddock.run_id` = '{finished.run['run_id']}'",
        }
        found = product.api("POST", "/api/3.0/mlflow/traces/search", json=body)["traces"]
        costs = [json.loads(trace["trace_metadata"]["mlflow.trace.cost"])["total_cost"] for trace in found]
        answer = product.paddock("costs", "--by", "run", "--json").document
        (group,) = [row for row in answer["groups"] if row["group"] == finished.run["run_id"]]
        assert len(found) == group["calls"]
        assert sum(costs) == pytest.approx(float(group["cost_usd"]), abs=1e-5)

    def test_evaluate_asks_a_judge_about_a_run(self, product: Product, finished: Finished) -> None:
        answer = product.paddock(
            *["evaluate", finished.run["run_id"], "--judge", "Correctness", "--expect", EXPECTATION, "--json"]
        )

        assert answer.code == 0, answer.err
        (evaluated,) = answer.document["evaluated"]
        assert evaluated["trace_id"] == finished.run["trace_id"]
        assert evaluated["judges"]["correctness"]["value"] == "yes"

    def test_a_judge_is_asked_again_when_it_is_said(self, product: Product, finished: Finished) -> None:
        ask = ["evaluate", "--trace", finished.run["trace_id"], "--judges", "RelevanceToQuery", "--json"]

        def verdicts() -> list[dict[str, Any]]:
            found = product.trace(finished.run["trace_id"])["assessments"]
            # People may have said something of their own by that name.
            return [
                one
                for one in found
                if one["assessment_name"] == "relevance_to_query"
                and one["source"]["source_type"] == "LLM_JUDGE"
            ]

        assert (
            product.paddock(*ask).document["evaluated"][0]["judges"]["relevance_to_query"]["value"] == "yes"
        )
        (first,) = verdicts()
        assert product.paddock(*ask).code == 0
        assert verdicts() == [first]
        assert product.paddock(*ask, "--again").code == 0
        (valid,) = [one for one in verdicts() if one["valid"]]
        assert valid["overrides"] == first["assessment_id"]

    def test_judges_tell_how_they_do(self, product: Product, finished: Finished) -> None:
        answer = product.paddock("judges", "status", "--json")

        assert answer.code == 0, answer.err
        judges = {judge["name"]: judge for judge in answer.document["judges"]}
        assert judges.keys() >= JUDGES
        assert judges["relevance_to_query"]["states"]["done"] >= 1
        assert judges["relevance_to_query"]["endpoint"] == "judge"
        assert "verdicts come" in product.paddock("judges", "status").out

    def test_an_unknown_judge_is_refused(self, product: Product) -> None:
        answer = product.paddock("evaluate", "--judge", "taste")

        assert answer.code == 32
        assert "correctness" in answer.err

    def test_status_password_and_env_agree(self, product: Product) -> None:
        status = product.paddock("status", "--json")
        assert status.code == 0
        assert status.document["running"] is True
        url = status.document["url"]
        assert product.paddock("password", "--json").document["url"] == url

        exports = product.paddock("env").out
        variables = product.paddock("env", "--json").document
        assert variables["LLM_BASE_URL"] == f"{url}/gateway/mlflow/v1"
        assert all(f"export {name}=" in exports for name in variables)
        answer = httpx.post(
            f"{variables['LLM_BASE_URL']}/chat/completions",
            headers={"Authorization": f"Bearer {variables['LLM_API_KEY']}"},
            json={"model": "coder", "messages": [{"role": "user", "content": "Hello"}]},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text

    def test_a_second_up_changes_nothing(self, product: Product) -> None:
        before = product.paddock("password", "--json").document

        answer = product.paddock(
            "up", *(["--embedded"] if product.kind == "embedded" else ["--no-build"]), "--json"
        )

        assert answer.code == 0, answer.err
        assert product.paddock("password", "--json").document == before
