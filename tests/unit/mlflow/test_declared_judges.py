"""Declared judges on a server: applied, applied again, changed, taken away; and what the registry makes of them."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from endpoints_made import make_endpoint
from identities import ADMIN

from paddock_mlflow.config.errors import Incomplete, InvalidConfiguration, Refused
from paddock_mlflow.config.source import parse
from paddock_mlflow.judges import apply, export, validation
from paddock_mlflow.judges.definition import Definition

ENDPOINT = "declared-judge"
CODE = "def short(outputs):\n    return len(str(outputs)) < 10\n"
BROKEN = "import json\n\nlimit = 1 / 0\n\ndef short(outputs):\n    return True\n"


class Api:
    """The server as its administrator, without a network; counts what it writes, and can cut one of it off."""

    def __init__(self, server: Any) -> None:
        self._http = server.http
        self.writes: list[str] = []
        self.cut_off: int | None = None

    def call(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        if method != "GET" and not path.endswith("/check"):
            self.writes.append(f"{method} {path}")
            if len(self.writes) == self.cut_off:
                raise Refused(method, path, 0, "the connection was cut off")
        answer = self._http.request(method, path, json=json, params=params, auth=ADMIN)
        if answer.status_code >= 400:
            raise Refused(method, path, answer.status_code, answer.text)
        return dict(answer.json()) if answer.content else {}


@pytest.fixture(scope="module")
def endpoint(server: Any) -> str:
    made: str = make_endpoint(server, ENDPOINT, "demo", api_base="http://demo-model:8000/v1")
    user = {"username": "judge", "password": "a-password-that-nobody-uses"}
    server.http.post("/api/2.0/mlflow/users/create", json=user, auth=ADMIN)
    return made


@pytest.fixture
def api(server: Any, endpoint: str) -> Api:
    return Api(server)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "style.py").write_text(CODE)
    return tmp_path / "code"


@pytest.fixture
def checked(code: Path) -> Callable[[str], validation.Checked]:
    """The file of these judges."""

    def check(text: str) -> validation.Checked:
        whole = f"version: 1\nendpoint: {ENDPOINT}\njudges:\n{text}"
        return validation.check(parse(whole, "judges.yaml", validation.FORM), code, {ENDPOINT})

    return check


@pytest.fixture
def applied(
    api: Api, experiment: str, checked: Callable[[str], validation.Checked]
) -> Callable[..., list[str]]:
    """Apply a file; returns the changes in words."""

    def run(text: str, prune: bool = False) -> list[str]:
        file = checked(text)
        state, planned = apply.compare(api, experiment, file.source, file.definitions)
        done = apply.apply(api, state, planned, file.definitions, prune=prune)
        return [change.text() for change in done]

    return run


@pytest.fixture
def registry(server: Any, code: Path) -> Any:
    """As the judging process has it."""
    from paddock_mlflow.judges.registry import Judges

    return Judges(os.environ["DATABASE_URL"], code)


def the(registry: Any, experiment: str, name: str) -> Any:
    (found,) = registry.named(experiment, [name])
    return found


EVERY_KIND = """\
  relevance: {scorer: RelevanceToQuery}
  short: {scorer: ResponseLength, options: {max_length: 10}, sampling: 0.5, filter: "tags.team = 'web'"}
  frustration: {scorer: UserFrustration, run: on demand}
  conduct: {guidelines: [Be kind.], sees: steps}
  tone:
    instructions: Rate {{ outputs }}.
    values: {lowest: 1, highest: 5}
    pass: {at_least: 4}
    sampling: 0.25
  fits: {instructions: "Does {{ outputs }} fit {{ expectations }}?", run: online}
  brief: {python: "style.py:short"}
"""


def test_every_kind_is_applied_once_and_then_agrees(
    api: Api, applied: Any, experiment: str, registry: Any
) -> None:
    first = applied(EVERY_KIND)
    api.writes.clear()

    assert applied(EVERY_KIND) == []

    assert [text.split(" ")[0:3] for text in first if " judge " in text and "grant" not in text] == [
        ["create", "judge", name]
        for name in ("relevance", "short", "frustration", "conduct", "tone", "fits", "brief")
    ]
    assert api.writes == []
    found = {judge.name: judge for judge in registry.of_experiment(experiment)}
    assert {name: (one.level, one.sample_rate, one.filter, one.endpoint) for name, one in found.items()} == {
        "relevance": ("trace", 1.0, None, ENDPOINT),
        # MLflow refuses a rate for these three, which have it from us.
        "short": ("trace", 0.5, "tags.team = 'web'", None),
        "fits": ("trace", 1.0, None, ENDPOINT),
        "brief": ("trace", 1.0, None, None),
        "frustration": ("session", 0.0, None, ENDPOINT),
        "conduct": ("trace", 1.0, None, ENDPOINT),
        "tone": ("trace", 0.25, None, ENDPOINT),
    }
    active = {judge.name for judge in registry.active() if judge.experiment_id == experiment}
    assert active == found.keys() - {"frustration"}
    assert found["fits"].needs_expectations
    assert (found["tone"].passes(4), found["tone"].passes(3)) == (True, False)


def test_what_was_cut_off_is_finished_by_the_next(api: Api, applied: Any, experiment: str) -> None:
    api.cut_off = len(api.writes) + 3

    with pytest.raises(Incomplete) as stopped:
        applied(EVERY_KIND)
    api.cut_off = None
    rest = applied(EVERY_KIND)

    assert stopped.value.failed.startswith("create ")
    assert rest[0] == stopped.value.failed
    assert applied(EVERY_KIND) == []


def test_another_prompt_is_another_version_and_the_old_one_can_still_be_read(
    api: Api, applied: Any, experiment: str, registry: Any
) -> None:
    applied("  conduct: {guidelines: [Be kind.]}\n")
    before = the(registry, experiment, "conduct")

    (change,) = applied("  conduct: {guidelines: [Be brief.]}\n")

    after = the(registry, experiment, "conduct")
    assert change == "update judge conduct: guidelines Be kind. → Be brief."
    assert (before.version, after.version) == (1, 2)
    query = {"experiment_id": experiment, "name": "conduct"}
    versions = api.call("GET", f"{apply.JUDGES}/versions", params=query)["versions"]
    prompts = {one["fingerprint"]: one["content"]["prompt"] for one in versions}
    assert "1. Be kind." in prompts[before.fingerprint]
    assert "1. Be brief." in prompts[after.fingerprint]
    short = {"fingerprint": before.fingerprint[:12]}
    (found,) = api.call("GET", f"{apply.JUDGES}/versions", params=query | short)["versions"]
    assert found["version"] == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{guidelines: [Be kind.]}", "{guidelines: [Be kind.], sees: steps}"),
        ("{scorer: RegexMatch, options: {pattern: a}}", "{scorer: RegexMatch, options: {pattern: b}}"),
        ('{instructions: "{{ outputs }}?"}', '{instructions: "{{ outputs }}?", values: boolean}'),
        ("{scorer: Fluency}", "{scorer: Safety}"),
    ],
)
def test_what_decides_a_verdict_changes_the_fingerprint(
    applied: Any, experiment: str, registry: Any, old: str, new: str
) -> None:
    applied(f"  it: {old}\n")
    before = the(registry, experiment, "it")
    applied(f"  it: {new}\n")
    after = the(registry, experiment, "it")

    assert before.fingerprint != after.fingerprint
    assert (before.version, after.version) == (1, 2)


def test_what_does_not_decide_it_makes_no_version(applied: Any, experiment: str, registry: Any) -> None:
    applied("  it: {guidelines: [Be kind.]}\n")
    before = the(registry, experiment, "it")

    (change,) = applied("  it: {guidelines: [Be kind.], pass: [no], sampling: 0.1}\n")

    after = the(registry, experiment, "it")
    assert "pass none → no" in change
    assert (after.version, after.fingerprint) == (before.version, before.fingerprint)
    assert (before.passes("yes"), after.passes("yes")) == (True, False)
    assert after.sample_rate == 0.1


def test_a_judge_that_somebody_stopped_stays_stopped(
    server: Any, applied: Any, experiment: str, registry: Any
) -> None:
    applied("  it: {scorer: Fluency}\n")
    server.store.upsert_online_scoring_config(experiment, "it", 0.0)

    assert applied("  it: {scorer: Fluency}\n") == []
    assert the(registry, experiment, "it").sample_rate == 0.0
    assert applied("  it: {scorer: Fluency, sampling: 1.0}\n") == ["update judge it: sampling 0 → 1"]


def test_what_was_made_in_the_ui_is_kept_exported_and_pruned(
    server: Any, api: Api, applied: Any, experiment: str, registry: Any
) -> None:
    from mlflow.genai.scorers import Fluency, Safety, make_scorer_ensemble

    for scorer in (
        Fluency(name="by_hand", model=f"gateway:/{ENDPOINT}"),
        make_scorer_ensemble(
            name="both",
            scorers=[Safety(model=f"gateway:/{ENDPOINT}"), Fluency(model=f"gateway:/{ENDPOINT}")],
            ensemble_fn="agg_all",
        ),
    ):
        server.store.register_scorer(experiment, scorer.name, json.dumps(scorer.model_dump()))

    assert applied("  it: {scorer: Safety}\n")[-1] == "create judge it"

    state = apply.read(api, experiment, set())
    assert state.judges.keys() == {"it", "by_hand", "both"}
    assert "by_hand:\n    scorer: Fluency" in export.export(state)
    assert [one.partition(":")[0] for one in export.unexportable(state)] == ["judge both"]
    assert applied("  it: {scorer: Safety}\n", prune=True) == ["delete judge both", "delete judge by_hand"]
    assert {judge.name for judge in registry.of_experiment(experiment)} == {"it"}


def test_a_declared_judge_that_was_edited_in_the_ui_is_seen_to_differ(
    server: Any, applied: Any, experiment: str, registry: Any
) -> None:
    from mlflow.genai.scorers import Guidelines

    applied("  it: {guidelines: [Be kind.]}\n")
    edited = Guidelines(name="it", guidelines=["Say yes."], model=f"gateway:/{ENDPOINT}")
    server.store.register_scorer(experiment, "it", json.dumps(edited.model_dump()))

    (change,) = applied("  it: {guidelines: [Be kind.]}\n")

    assert change == "update judge it: guidelines Say yes. → Be kind."
    assert the(registry, experiment, "it").version == 3


def test_a_judge_that_is_there_already_is_taken_over_as_it_is(
    server: Any, applied: Any, experiment: str, registry: Any
) -> None:
    """As those of a stack that was set up before judges were declared."""
    from mlflow.genai.scorers import RelevanceToQuery

    scorer = RelevanceToQuery(name="relevance", model=f"gateway:/{ENDPOINT}")
    server.store.register_scorer(experiment, "relevance", json.dumps(scorer.model_dump()))
    server.store.upsert_online_scoring_config(experiment, "relevance", 0.5)

    assert applied("  relevance: {scorer: RelevanceToQuery}\n") == []
    found = the(registry, experiment, "relevance")
    assert (found.version, found.sample_rate) == (1, 0.5)


def test_what_only_mlflow_can_say_is_told_at_its_line(api: Api, experiment: str, checked: Any) -> None:
    file = checked("  it: {scorer: Safety}\n  bad: {scorer: Fluency, filter: \"nonsense.key = 'x'\"}\n")

    with pytest.raises(InvalidConfiguration) as refused:
        apply.compare(api, experiment, file.source, file.definitions)

    (problem,) = refused.value.problems
    assert (problem.line, problem.path) == (5, "judges.bad.filter")
    assert "nonsense" in problem.found


def test_an_endpoint_that_is_not_there_makes_nothing(api: Api, experiment: str, checked: Any) -> None:
    file = checked("  it: {scorer: Safety}\n")
    gone = {"it": file.definitions["it"].model_copy(update={"endpoint": "no-such"})}

    with pytest.raises(Refused) as refused:
        body = {"experiment_id": experiment, "definition": gone["it"].model_dump(mode="json")}
        api.call("PUT", apply.JUDGES, json=body)

    assert refused.value.status == 400
    assert apply.read(api, experiment, set()).judges == {}


def test_judges_are_for_administrators(server: Any, endpoint: str, experiment: str) -> None:
    path = f"{apply.JUDGES}?experiment_id={experiment}"
    as_agent = ("agent", "a-password-that-nobody-uses")

    assert server.http.get(path).status_code == 401
    assert server.http.get(path, auth=as_agent).status_code == 403


# Who judges what


def test_no_judge_looks_at_what_judges_ask(server: Any, applied: Any, experiment: str, registry: Any) -> None:
    """Each look would be a call of the endpoint, whose trace would be looked at."""
    from mlflow.genai.scorers import Fluency

    applied("  it: {scorer: Safety}\n")
    calls = next(one for one in server.store.list_gateway_endpoints() if one.name == ENDPOINT).experiment_id
    assert calls
    scorer = Fluency(name="recursive", model=f"gateway:/{ENDPOINT}")
    server.store.register_scorer(calls, "recursive", json.dumps(scorer.model_dump()))
    server.store.upsert_online_scoring_config(calls, "recursive", 1.0)

    active = {(judge.experiment_id, judge.name) for judge in registry.active()}

    assert (experiment, "it") in active
    assert (calls, "recursive") not in active
    # Asked for by name it is one: that look is one call.
    assert the(registry, calls, "recursive").endpoint == ENDPOINT


# Code


def test_code_runs_in_the_judging_process(applied: Any, experiment: str, registry: Any) -> None:
    applied('  brief: {python: "style.py:short"}\n')

    scorer = the(registry, experiment, "brief").scorer()

    assert scorer.run(outputs="brief") is True
    assert scorer.run(outputs="rather a long answer") is False


def test_code_runs_nowhere_else(applied: Any, experiment: str, server: Any) -> None:
    from paddock_mlflow.judges.errors import UnusableJudge
    from paddock_mlflow.judges.registry import Judges

    applied('  brief: {python: "style.py:short"}\n')
    elsewhere = Judges(os.environ["DATABASE_URL"])

    with pytest.raises(UnusableJudge, match="the judging process, which alone has its file"):
        the(elsewhere, experiment, "brief").scorer()
    assert server.store.list_scorers(experiment) == []


def test_a_file_that_changed_since_it_was_applied_does_not_run(
    applied: Any, experiment: str, registry: Any, code: Path
) -> None:
    from paddock_mlflow.judges.errors import UnusableJudge

    applied('  brief: {python: "style.py:short"}\n')
    before = the(registry, experiment, "brief")
    (code / "style.py").write_text(CODE.replace("10", "100"))

    with pytest.raises(UnusableJudge, match="paddock judges apply"):
        before.scorer()

    (change,) = applied('  brief: {python: "style.py:short"}\n')
    after = the(registry, experiment, "brief")
    assert change.startswith("update judge brief: code sha256 ")
    assert after.version == before.version + 1
    assert after.scorer().run(outputs="x" * 50) is True


def test_code_that_throws_on_import_is_told_with_its_line(
    api: Api, applied: Any, experiment: str, code: Path, checked: Any, registry: Any
) -> None:
    from paddock_mlflow.judges.code import CodeCheck
    from paddock_mlflow.judges.errors import UnusableJudge

    (code / "style.py").write_text(BROKEN)
    text = '  it: {scorer: Safety}\n  brief: {python: "style.py:short"}\n'
    applied(text)
    file = checked(text)

    late = apply.code_problems(api, experiment, file.source, file.definitions, 0.0)
    CodeCheck(os.environ["DATABASE_URL"], code).tick()
    (problem,) = apply.code_problems(api, experiment, file.source, file.definitions, 5.0)

    assert "the judging process to load it" in late[0].expected
    assert (problem.line, problem.path) == (5, "judges.brief.python")
    assert "ZeroDivisionError: division by zero (line 3)" in problem.found
    with pytest.raises(UnusableJudge, match="ZeroDivisionError"):
        the(registry, experiment, "brief").scorer()
    # Once mended it is tried again.
    (code / "style.py").write_text(CODE)
    applied(text)
    CodeCheck(os.environ["DATABASE_URL"], code).tick()
    assert apply.code_problems(api, experiment, file.source, file.definitions, 5.0) == []


def test_code_that_returns_nothing_of_use_is_no_verdict(
    applied: Any, experiment: str, registry: Any, code: Path
) -> None:
    from paddock_mlflow.judges.errors import UnusableJudge

    (code / "style.py").write_text("def short(outputs):\n    return {}\n")
    applied('  brief: {python: "style.py:short"}\n')

    with pytest.raises(
        UnusableJudge, match="to return a truth, a number, a text or a Feedback, found a dict"
    ):
        the(registry, experiment, "brief").scorer()(outputs="x")


def test_a_judge_that_becomes_code_leaves_no_scorer_behind(
    server: Any, applied: Any, experiment: str, registry: Any
) -> None:
    applied("  it: {scorer: Safety}\n")
    applied('  it: {python: "style.py:short"}\n')

    assert server.store.list_scorers(experiment) == []
    assert the(registry, experiment, "it").serialized is None
    applied("  it: {scorer: Safety}\n")
    assert the(registry, experiment, "it").endpoint == ENDPOINT


def test_mlflow_refuses_to_run_code_from_its_registry(server: Any) -> None:
    """Why code comes from a file."""
    from mlflow.genai.scorers import scorer
    from mlflow.genai.scorers.scorer_utils import custom_scorer_execution_blocked

    @scorer
    def short(outputs: str) -> bool:
        return len(outputs) < 10

    assert custom_scorer_execution_blocked(short.model_dump())


# What judges are asked with


def test_a_declared_judge_is_called_in_its_fenced_form(applied: Any, experiment: str, registry: Any) -> None:
    from paddock_mlflow.judges.fenced import FencedGuidelines, FencedInstructions

    applied(EVERY_KIND)

    conduct = the(registry, experiment, "conduct").scorer()
    tone = the(registry, experiment, "tone").scorer()

    assert (type(conduct), conduct.sees, conduct.model) == (FencedGuidelines, "steps", f"gateway:/{ENDPOINT}")
    assert (type(tone), tone.name) == (FencedInstructions, "tone")
    assert "from 1 to 5" in tone.instructions


def test_a_definition_survives_its_way_through_mlflow(
    applied: Any, experiment: str, api: Api, checked: Any
) -> None:
    applied(EVERY_KIND)
    file = checked(EVERY_KIND)

    state = apply.read(api, experiment, set())

    for name, wanted in file.definitions.items():
        found: Definition = state.judges[name].definition
        assert found.deciding() == wanted.deciding(), name
