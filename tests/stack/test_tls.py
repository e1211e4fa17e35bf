"""The stack by TLS, as other machines have it: what is redirected, added, checked, slowed down."""

import hashlib
import json
import os
import re
import socket
import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pages import GREETINGS, SECONDS
from playwright.sync_api import expect, sync_playwright
from stack_under_test import ADMIN, StackUnderTest

ROOT_CERTIFICATE = "/data/caddy/pki/authorities/local/root.crt"
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"
CHAT = "/gateway/mlflow/v1/chat/completions"
HELLO = {"model": "coder", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}


@dataclass
class Site:
    """The stack under its name; no name server knows it, so addresses are told by hand."""

    name: str
    https_port: int
    http_port: int
    context: ssl.SSLContext

    @property
    def origin(self) -> str:
        return f"https://{self.name}:{self.https_port}"

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        headers = {"Host": f"{self.name}:{self.https_port}"} | arguments.pop("headers", {})
        with httpx.Client(verify=self.context, timeout=120) as client:
            return client.request(
                method,
                f"https://127.0.0.1:{self.https_port}{path}",
                headers=headers,
                extensions={"sni_hostname": self.name},
                **arguments,
            )


@pytest.fixture(scope="module")
def site(stack: StackUnderTest) -> Site:
    """Its certificate is checked against the stack's own authority."""
    authority = stack.execute("tls", "cat", ROOT_CERTIFICATE).stdout
    ports = [int(stack.compose("port", "tls", port).stdout.rpartition(":")[2]) for port in ("443", "80")]
    return Site(stack.env["SITE_ADDRESS"], *ports, ssl.create_default_context(cadata=authority))


def test_the_page_comes_with_headers_that_protect_it(site: Site, stack: StackUnderTest) -> None:
    answer = site.request("GET", "/", auth=(ADMIN, stack.password))
    assert answer.status_code == 200
    assert "<html" in answer.text
    told = answer.headers
    assert told["strict-transport-security"] == "max-age=31536000"
    assert told["x-content-type-options"] == "nosniff"
    assert told["x-frame-options"] == "SAMEORIGIN"
    assert told["referrer-policy"] == "same-origin"
    assert "frame-ancestors 'self'" in told["content-security-policy"]
    assert not {"server", "via"} & told.keys()


def test_a_stranger_gets_no_page_and_no_data(site: Site) -> None:
    assert site.request("POST", SEARCH, json={}).status_code == 401
    assert site.request("GET", "/api/3.0/paddock/keys").status_code == 401


def test_plain_http_only_leads_to_tls(site: Site) -> None:
    for host in (site.name, "evil.test"):
        answer = httpx.get(f"http://127.0.0.1:{site.http_port}/x?y=1", headers={"Host": host})
        assert (answer.status_code, answer.headers["location"]) == (308, f"{site.origin}/x?y=1")


def test_http_2_is_spoken_and_old_tls_is_not(site: Site) -> None:
    def greet(**settings: Any) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.set_ciphers("ALL:@SECLEVEL=0")
        for name, value in settings.items():
            setattr(context, name, value)
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", site.https_port), 10), server_hostname=site.name
        )

    with greet() as link:
        assert (link.selected_alpn_protocol(), link.version()) == ("h2", "TLSv1.3")
    with pytest.raises(OSError), pytest.warns(DeprecationWarning):
        greet(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


def test_mlflows_checks_of_host_and_origin_stay_on(site: Site, stack: StackUnderTest) -> None:
    admin = (ADMIN, stack.password)
    wanted: dict[str, Any] = {"json": {"max_results": 1}, "auth": admin}

    def statuses(**headers: str) -> tuple[int, int]:
        plain = {name: value for name, value in headers.items() if name != "Host" or value == "evil.test"}
        return (
            site.request("POST", SEARCH, headers=headers, **wanted).status_code,
            httpx.post(f"{stack.url}{SEARCH}", headers=plain, timeout=30, **wanted).status_code,
        )

    assert statuses() == (200, 200)
    assert statuses(Host="evil.test") == (403, 403)
    for origin in ("https://evil.test", f"http://{site.name}", f"https://{site.name}.evil.test", "null"):
        assert statuses(Origin=origin) == (403, 403), origin
    # The page itself, under the name that the stack was told, and no other proxy's word for it.
    assert statuses(Origin=site.origin) == (200, 200)
    forged = {"Host": "evil.test", "X-Forwarded-Host": site.name}
    assert site.request("POST", SEARCH, headers=forged, **wanted).status_code == 403


def test_keys_of_programs_work_and_keys_of_runs_do_not(site: Site, stack: StackUnderTest) -> None:
    keys = "/api/3.0/paddock/keys"
    wanted = {"user": "ada", "endpoints": ["coder"], "experiments": []}
    program = stack.api("POST", keys, json=wanted)
    run = stack.api("POST", keys, json=wanted | {"run_id": "run-of-the-test"})
    secret = stack.execute("tls", "cat", "/run/secrets/tls_secret").stdout

    for headers, status in (
        ({"Authorization": f"Bearer {program['key']}"}, 200),
        ({"Authorization": f"Bearer {run['key']}"}, 403),
        ({"Authorization": f"Bearer {run['key']}", "X-Paddock-Gate": secret}, 403),
    ):
        assert site.request("POST", CHAT, json=HELLO, headers=headers).status_code == status

    streamed = site.request(
        "POST", CHAT, json=HELLO | {"stream": True}, headers={"Authorization": f"Bearer {program['key']}"}
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.rstrip().endswith("data: [DONE]")
    for key in (program, run):
        stack.api("POST", f"{keys}/{key['id']}/revoke")


def test_large_files_go_up_and_come_back(site: Site, stack: StackUnderTest) -> None:
    content = os.urandom(48_000_000)
    admin = (ADMIN, stack.password)
    experiment = stack.api("POST", "/api/2.0/mlflow/experiments/create", json={"name": f"tls-{uuid.uuid4()}"})
    run = stack.api(
        "POST",
        "/api/2.0/mlflow/runs/create",
        json={"experiment_id": experiment["experiment_id"], "start_time": 1},
    )["run"]["info"]
    artifacts = run["artifact_uri"].partition(":/")[2].strip("/")
    path = f"/api/2.0/mlflow-artifacts/artifacts/{artifacts}/large.bin"

    assert site.request("PUT", path, content=content, auth=admin).status_code == 200
    back = site.request("GET", path, auth=admin)
    assert hashlib.sha256(back.content).digest() == hashlib.sha256(content).digest()


def test_wrong_passwords_are_slowed_down_and_nobody_else_is(site: Site, stack: StackUnderTest) -> None:
    statuses, claimed = [], 0
    while 429 not in statuses and len(statuses) < 40:
        claimed += 1
        headers = {"X-Forwarded-For": f"192.0.2.{claimed}", "X-Real-IP": f"192.0.2.{claimed}"}
        answer = site.request("POST", SEARCH, json={}, headers=headers, auth=("mallory", f"guess-{claimed}"))
        statuses.append(answer.status_code)
    assert statuses[0] == 401
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert json.loads(answer.text)["error_code"] == "REQUEST_LIMIT_EXCEEDED"

    # Who sits at the machine, and whoever has a key, go on.
    assert stack.api("POST", SEARCH, json={"max_results": 1})
    headers = {"Authorization": f"Bearer {stack.agent_key}"}
    assert site.request("POST", CHAT, json=HELLO, headers=headers).status_code == 200


@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_mlflow_itself_refuses_plain_http_beyond_loopback(stack: StackUnderTest, command: str) -> None:
    """Also after a bare `docker compose up`, and before it changes a table."""
    service = {"migrate": "mlflow-migrate", "serve": "mlflow"}[command]
    refused = stack.compose(
        *("run", "--rm", "--no-TTY", "--no-deps", service),
        check=False,
        variables={"BIND_ADDRESS": "0.0.0.0"},
    )
    assert refused.returncode == 1
    assert "expected BIND_ADDRESS to be a loopback address, found 0.0.0.0" in refused.stdout + refused.stderr
    assert "ALLOW_PLAIN_HTTP=yes" in refused.stdout + refused.stderr


@pytest.fixture
def page(site: Site, stack: StackUnderTest, chromium_path: str) -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path,
            args=[
                *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
                f"--host-resolver-rules=MAP {site.name} 127.0.0.1",
            ],
        )
        context = browser.new_context(
            # The authority is this stack's own, and known to nobody; its certificate is checked above.
            ignore_https_errors=True,
            http_credentials={"username": ADMIN, "password": stack.password},
        )
        texts = (f"localStorage.setItem('{name}', '{value}');" for name, value in GREETINGS.items())
        context.add_init_script("".join(texts))
        made = context.new_page()
        made.set_default_timeout(30 * SECONDS)
        yield made
        browser.close()


@pytest.mark.requires_browser
def test_the_ui_works_by_tls_and_bears_its_headers(site: Site, page: Any) -> None:
    said: list[str] = []
    refused: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("response", lambda answer: refused.append(answer.url) if answer.status in (403, 429) else None)

    # A list that the page asks for by POST, from its own origin.
    page.goto(f"{site.origin}/#/experiments")
    expect(page.get_by_text("agents", exact=True).first).to_be_visible(timeout=30 * SECONDS)

    assert [text for text in said if re.search(r"Content.Security.Policy|Cross-Origin", text, re.I)] == []
    assert refused == []
