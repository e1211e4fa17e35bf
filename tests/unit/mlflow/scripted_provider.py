"""A model provider over real HTTP whose every answer the test decides."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

from identities import ADMIN


@dataclass(frozen=True)
class Answer:
    """A status and a body: an object as JSON, bytes as a stream of events."""

    body: dict[str, Any] | bytes
    status: int = 200


@dataclass
class ScriptedProvider:
    """`answer` gets the path and the request's body; it may raise nothing."""

    url: str
    answer: Callable[[str, dict[str, Any]], Answer]
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlparse(self.url)
        assert parts.hostname and parts.port
        return parts.hostname, parts.port


@contextmanager
def scripted_provider() -> Iterator[ScriptedProvider]:
    """Serve on a free port of the loopback address; until `answer` is set, every request gets a 500."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            provider.requests.append((self.path, body))
            answer = provider.answer(self.path, body)
            stream = isinstance(answer.body, bytes)
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("content-type", "text/event-stream" if stream else "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what arrived is in `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = ScriptedProvider(
        f"http://127.0.0.1:{server.server_port}/v1",
        lambda path, body: Answer({"error": {"message": "no script"}}, 500),
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_endpoint(server: Any, name: str, models: list[str], url: str) -> tuple[str, str]:
    """An endpoint whose models fall back in their order; returns its id and its experiment's."""

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = server.http.post(f"/api/3.0/mlflow/gateway/{path}", json=body, auth=ADMIN)
        assert answer.status_code == 200, answer.text
        return answer.json()

    links = []
    for order, entry in enumerate(models):
        provider, _, model = entry.partition("/")
        secret = {
            "secret_name": f"{name}-{order}",
            "secret_value": {"api_key": "any"},
            "provider": provider,
            "auth_config": {"api_base": url},
        }
        secret_id = post("secrets/create", secret)["secret"]["secret_id"]
        definition = {
            "name": f"{name}-{order}",
            "secret_id": secret_id,
            "provider": provider,
            "model_name": model,
        }
        made = post("model-definitions/create", definition)["model_definition"]["model_definition_id"]
        link = {
            "model_definition_id": made,
            "linkage_type": "FALLBACK" if order else "PRIMARY",
            "weight": 1.0,
        }
        links.append(link | ({"fallback_order": order} if order else {}))
    body = {"name": name, "usage_tracking": True, "model_configs": links}
    if len(links) > 1:
        body["fallback_config"] = {"strategy": "SEQUENTIAL", "max_attempts": len(links)}
    endpoint = post("endpoints/create", body)["endpoint"]
    return endpoint["endpoint_id"], endpoint["experiment_id"]
