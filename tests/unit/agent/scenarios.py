"""What the scripted provider answers in these tests, by scenario name (see services/demo-model)."""

from typing import Any

Scenario = dict[str, Any]


def _call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"name": tool, "arguments": arguments}]}


def _terminal(command: str, **step: Any) -> dict[str, Any]:
    return {**_call("terminal", command=command), **step}


def _fail(status: int, *, times: int | str = "always", **fields: Any) -> dict[str, Any]:
    return {"fail": {"times": times, "status": status, **fields}, "reply": "never said"}


DONE = _call("finish", message="all done")
SECRET = 'pa"ss/wörd+of&the=tool'
"""A declared secret, which a model that has learnt it says in so many words."""
_FORMS = "; ".join(
    (
        r"""printf '%s\n' "$DEPLOY_TOKEN" """,
        """printf 'user:%s' "$DEPLOY_TOKEN" | base64 -w0; echo""",
        r"""printf %s "$DEPLOY_TOKEN" | od -An -v -tx1 | tr -d ' \n'; echo""",
        """python3 -c 'import json, os; print(json.dumps(os.environ["DEPLOY_TOKEN"]))'""",
        """python3 -c 'import os, urllib.parse; print(urllib.parse.quote(os.environ["DEPLOY_TOKEN"], safe=""))'""",
        """printf %s "$DEPLOY_TOKEN" | sha256sum >proof.txt""",
    )
)
# What MLflow's gateway answers when a REJECT policy's limit is reached; not an OpenAI error body.
MLFLOW_BUDGET = {
    "detail": "Budget limit exceeded. Limit: $0.00 USD per 1 hour. "
    "Budget resets at 2026-01-01T00:00:00Z. Request rejected."
}


def scenarios(page_url: str, kiosk_port: int) -> dict[str, Scenario]:
    """All scenarios; `page_url` is the local page that the browser is sent to, `kiosk_port` where an agent serves one."""
    steps: dict[str, list[dict[str, Any]]] = {
        "short": [_terminal("echo made >made.txt; umask"), DONE],
        "count": [*(_terminal(f"echo {n} >>steps.txt") for n in range(1, 6)), DONE],
        "slow-third": [
            _terminal("echo 1 >>steps.txt"),
            _terminal("echo 2 >>steps.txt"),
            _terminal("echo 3 >>steps.txt", delay_seconds=30),
            DONE,
        ],
        "cut-off-command": [_terminal("echo begun >>begun.txt; sleep 60; echo ended >>ended.txt"), DONE],
        "endless": [{**_terminal("echo step {n}"), "repeat": "forever"}],
        "same-again": [{**_terminal("echo the same"), "repeat": "forever"}],
        "question": [
            _terminal("echo looking"),
            {"reply": "Shall I delete the folder `old`, or keep it?"},
            DONE,
        ],
        "says-done": [{"reply": "There was nothing to do."}],
        "budget": [_terminal("echo one"), _fail(429, body=MLFLOW_BUDGET)],
        "no-quota": [_fail(429, code="insufficient_quota", message="You exceeded your current quota.")],
        "wrong-key": [_fail(401, message="Incorrect API key provided.")],
        "forbidden": [_fail(403, body={"detail": "Permission denied"})],
        "unknown": [_fail(404, body={"detail": "GatewayEndpoint not found (name='nope')"})],
        "down": [_fail(503, message="overloaded")],
        "hiccup": [{**_fail(503, times=2, message="overloaded"), **_terminal("echo up again")}, DONE],
        "bad-request": [_fail(400, message="tools[0] is not valid")],
        "reset": [{"reset": True}],
        "cut-body": [{"malformed": "body", "reply": "half of it"}],
        "tools-look": [
            _call("glob", pattern="**/*.py"),
            _call("grep", pattern="needle", include="*.py"),
            DONE,
        ],
        "mcp-stdio": [_call("add", a=2, b=40), DONE],
        "mcp-http": [_call("add", a=20, b=22), DONE],
        "browser": [
            _call("browser_navigate", url=page_url),
            _call("browser_get_content", extract_links=False, start_from_char=0),
            DONE,
        ],
        "supplier": [
            _call("find_successor", number="BRG-6204"),
            _call("find_successor", number="brg-6204-2rs"),
            _call("find_part", number="BRG-6204-2RSH"),
            _call("find_successor", number="SEAL-25-40"),
            _call("find_part", number="NO-SUCH-PART"),
            DONE,
        ],
        "kiosk": [
            # As the task's prompt proposes it, on a free port, and not for ever.
            _terminal(
                f"(timeout 60 python3 -m http.server {kiosk_port} --bind 127.0.0.1 --directory kiosk &) 2>log.txt"
            ),
            _terminal(f"curl -s --retry 50 --retry-connrefused --retry-delay 1 127.0.0.1:{kiosk_port}"),
            _call("browser_navigate", url=f"http://127.0.0.1:{kiosk_port}/"),
            _call("browser_get_content", extract_links=False, start_from_char=0),
            DONE,
        ],
        "exit-codes": [
            _terminal("sleep 1; echo first; (exit 7)"),
            _terminal("sleep 1; echo second; (exit 8)"),
            DONE,
        ],
        "probe": [_terminal("bash probe.sh"), DONE],
        "secret": [
            _terminal(_FORMS),
            _terminal("env"),
            {**_terminal(f"echo '{SECRET}'"), "reply": SECRET},
            DONE,
        ],
        "secret-in-an-answer": [_call("finish", message=f"It is {SECRET}.")],
        "secret-in-an-error": [_fail(400, message=f"bad header: Bearer {SECRET}")],
        "mcp-tells": [_call("tell"), DONE],
        "escape-sequences": [
            _terminal("printf 'a\\033[2Jb\\233cd\\n'"),
            _call("finish", message="\x1b]0;title\x07over\x1b[31m and \u202etuo"),
        ],
        "outlasts": [
            _call("terminal", command="echo begun; sleep 3; read word; echo it was $word", timeout=1),
            _call("terminal", command="echo another"),
            _call("terminal", command="horse", is_input=True),
            DONE,
        ],
        "environment": [_terminal("env | sort >env.txt"), DONE],
    }
    return {name: {"steps": content} for name, content in steps.items()}
