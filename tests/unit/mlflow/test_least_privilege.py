"""What a key opens, route by route against everything that the server serves."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from endpoints_made import make_endpoint
from identities import ADMIN, AGENT_KEY
from otlp_recordings import recording

OPENS = {
    "POST /gateway/{endpoint_name}/mlflow/invocations",
    "POST /gateway/mlflow/v1/chat/completions",
    "POST /gateway/openai/v1/chat/completions",
    "POST /gateway/openai/v1/embeddings",
    "POST /gateway/openai/v1/responses",
    "POST /gateway/openai/v1/responses/compact",
    "POST /gateway/typesafe/v1/systemone",
    "POST /gateway/anthropic/v1/messages",
    "POST /gateway/gemini/v1beta/models/{endpoint_name}:generateContent",
    "POST /gateway/gemini/v1beta/models/{endpoint_name}:streamGenerateContent",
    "POST /gateway/proxy/{endpoint_name}/{path:path}",
    "GET /gateway/mlflow/v1/models",
    "POST /v1/traces",
}
"""What a key is for. A route that is added to the server and is not here must refuse keys, or the tests below fail."""

PUBLIC = {
    f"{method} {path}"
    for method in ("GET", "HEAD", "OPTIONS")
    for path in (
        "/health",
        "/api/3.0/mlflow/server-info",
        "/ajax-api/3.0/mlflow/server-info",
        "/static-files/<path:path>",
    )
}
"""What everybody may see, also without a key: it tells nothing of what is stored."""

REFUSED = {401, 403, 404}
ENDPOINT, OTHER = "least", "more"


@dataclass(frozen=True)
class Route:
    """A method and a path's pattern, as the framework writes it."""

    method: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.method} {self.pattern}"

    def path(self, endpoint: str) -> str:
        """A path of the pattern: the endpoint's name in its place, `0` for every other part."""
        named = re.sub(r"\{endpoint_name\}", endpoint, self.pattern)
        return re.sub(r"\{[^}]*\}|<[^>]*>", "0", named)


@pytest.fixture(scope="module")
def routes(server: Any) -> list[Route]:
    """Every route: FastAPI's own, and those of the Flask application that is mounted below them."""
    from fastapi.routing import iter_route_contexts
    from mlflow.server import app as flask_app

    found = [
        Route(method, context.path)
        for context in iter_route_contexts(server.http.app.routes)
        for method in context.methods or ()
    ]
    found += [Route(method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods]
    return sorted(set(found), key=str)


@pytest.fixture(scope="module")
def endpoints(server: Any) -> None:
    """One that the key may call and one that its user may call but the key may not."""
    for name in (ENDPOINT, OTHER):
        # An address that the operator allowed, and where nothing is.
        make_endpoint(server, name, "demo", api_base="http://demo-model:8000/v1")


@pytest.fixture(scope="module")
def experiments(server: Any) -> tuple[str, str]:
    """Names of two experiments, the first of them the key's."""
    mine, other = (f"least-privilege-{os.urandom(4).hex()}" for _ in range(2))
    for name in (mine, other):
        server.client.create_experiment(name)
    return mine, other


@pytest.fixture(scope="module")
def key(server: Any, endpoints: None, experiments: tuple[str, str]) -> str:
    """A key whose user has more rights than it."""
    mine, other = experiments
    wide = {"user": "lea", "endpoints": [ENDPOINT, OTHER], "experiments": [mine, other]}
    assert server.http.post("/api/3.0/paddock/keys", json=wide, auth=ADMIN).status_code == 200
    narrow = {"user": "lea", "endpoints": [ENDPOINT], "experiments": [mine]}
    made = server.http.post("/api/3.0/paddock/keys", json=narrow, auth=ADMIN)
    assert made.status_code == 200, made.text
    return str(made.json()["key"])


@pytest.fixture(scope="module")
def stack_key(server: Any, endpoints: None, experiments: tuple[str, str]) -> Iterator[str]:
    """The stack's own key, on the same endpoint and experiment."""
    body = {"endpoints": [ENDPOINT], "experiments": [experiments[0]]}
    assert server.http.put("/api/3.0/paddock/keys/stack", json=body, auth=ADMIN).status_code == 200
    yield AGENT_KEY
    body = {"endpoints": ["coder"], "experiments": []}
    assert server.http.put("/api/3.0/paddock/keys/stack", json=body, auth=ADMIN).status_code == 200


@pytest.fixture(params=["key", "stack_key"])
def bearer(request: pytest.FixtureRequest) -> dict[str, str]:
    """Either key, as a header."""
    return {"Authorization": f"Bearer {request.getfixturevalue(request.param)}"}


def call(server: Any, route: Route, headers: dict[str, str], endpoint: str = ENDPOINT) -> Any:
    said = "Hello"
    body: dict[str, Any] = {"model": endpoint, "username": "lea", "experiment_id": "0", "max_tokens": 5}
    match route.pattern.rpartition("/")[2]:
        case "invocations":
            body = {"messages": [{"role": "user", "content": said}], "max_tokens": 5}
        case "embeddings" | "responses" | "compact":
            body["input"] = said
        case "{endpoint_name}:generateContent" | "{endpoint_name}:streamGenerateContent":
            body["contents"] = [{"role": "user", "parts": [{"text": said}]}]
        case _:
            body["messages"] = [{"role": "user", "content": said}]
    arguments = {} if route.method in ("GET", "HEAD", "OPTIONS") else {"json": body}
    return server.http.request(
        route.method, route.path(endpoint), headers=headers, follow_redirects=False, **arguments
    )


def test_the_lists_name_routes_that_there_are(routes: list[Route]) -> None:
    assert {str(route) for route in routes} >= OPENS | PUBLIC
    assert len(routes) > 500


def test_a_key_opens_nothing_but_what_it_is_for(
    server: Any, routes: list[Route], bearer: dict[str, str]
) -> None:
    closed = [route for route in routes if str(route) not in OPENS | PUBLIC]

    answers = {str(route): call(server, route, bearer).status_code for route in closed}

    assert {route: status for route, status in answers.items() if status not in REFUSED} == {}


def test_what_is_public_says_the_same_to_everybody(
    server: Any, routes: list[Route], bearer: dict[str, str]
) -> None:
    for route in routes:
        if str(route) in PUBLIC:
            assert call(server, route, bearer).status_code == call(server, route, {}).status_code, route


def test_the_endpoints_of_a_key_are_open_and_others_do_not_exist(
    server: Any, routes: list[Route], bearer: dict[str, str]
) -> None:
    for route in routes:
        if str(route) in OPENS and str(route).startswith("POST /gateway/"):
            # No provider answers; what counts is that the call comes so far.
            answer = call(server, route, bearer)
            assert answer.status_code not in (401, 404), route
            assert "permission" not in answer.text, route
            for name in (OTHER, "no-such-endpoint"):
                assert call(server, route, bearer, name).status_code == 404, (route, name)


def test_models_lists_the_endpoints_of_the_key_alone(server: Any, bearer: dict[str, str]) -> None:
    answer = server.http.get("/gateway/mlflow/v1/models", headers=bearer)

    assert answer.status_code == 200, answer.text
    assert [model["id"] for model in answer.json()["data"]] == [ENDPOINT]


def test_traces_go_to_the_experiments_of_the_key_alone(
    server: Any, bearer: dict[str, str], experiments: tuple[str, str]
) -> None:
    body = recording("message").requests[0].SerializeToString()
    mine, other = (server.client.get_experiment_by_name(name).experiment_id for name in experiments)

    def send(experiment: str) -> int:
        headers = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": experiment}
        return server.http.post("/v1/traces", content=body, headers=headers | bearer).status_code

    assert send(mine) == 200
    assert send(other) == 403
    assert send("0") == 403
    assert server.client.search_traces(experiment_ids=[other]) == []


@pytest.mark.parametrize("path", ["/v1/traces/", "/v1/traces/x", "/gateway/", "/gateway/x/y", "//gateway/x"])
def test_paths_beside_the_routes_are_closed(server: Any, bearer: dict[str, str], path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = server.http.request(method, path, headers=bearer, follow_redirects=False)
        assert answer.status_code in REFUSED | {405, 307}, (method, answer.status_code)
