"""Record anew what the real OpenHands SDK sends: `python record.py [CASE]...`, with openhands-sdk and -tools installed.

Each case runs one SDK program against a scripted model and an OTLP receiver on loopback, and writes the requests as they
came, in order, to `data/<case>.otlp.xz`, each after its length as four bytes. What tells of the machine is replaced.
"""

import gzip
import json
import lzma
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

DATA = Path(__file__).parent / "data"
TASK = "Write 3 facts about the current project into FACTS.txt."
ANSWER = "I wrote 3 facts into FACTS.txt."

PROGRAM = """
import os, signal, sys
from openhands.sdk import LLM, Agent, Conversation, Tool
from openhands.tools.file_editor import FileEditorTool
from openhands.tools.task_tracker import TaskTrackerTool
from openhands.tools.terminal import TerminalTool

CASE = os.environ["CASE"]
llm = LLM(
    model="litellm_proxy/coder", base_url=os.environ["LLM_BASE_URL"], api_key="any", num_retries=1,
    stream=CASE == "stream",
)
tools = [
    Tool(name=TerminalTool.name, params={"terminal_type": "subprocess"}),
    Tool(name=FileEditorTool.name),
    Tool(name=TaskTrackerTool.name),
]
mcp = {"sums": {"command": sys.executable, "args": [os.environ["MCP_SERVER"]]}}
agent = Agent(llm=llm, tools=tools, **({"mcp_config": mcp} if CASE == "mcp" else {}))
options = {}
if CASE == "limit":
    options["max_iteration_per_run"] = 3
if CASE == "user":
    options |= {"user_id": "alice", "tags": {"team": "lab"}, "observability_metadata": {"ticket": "7"}}
if CASE == "stream":
    options["token_callbacks"] = [lambda chunk: None]
conversation = Conversation(agent=agent, workspace=os.getcwd(), visualizer=None, **options)
if CASE == "signal":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    conversation.send_message(os.environ["TASK"])
    conversation.run()
    if CASE == "twice":
        conversation.send_message("Now say it again.")
        conversation.run()
except Exception as error:
    print("raised", type(error).__name__)
finally:
    conversation.close()
"""

MCP_SERVER = """
from fastmcp import FastMCP

server = FastMCP("sums")

@server.tool
def add(a: int, b: int) -> int:
    "Add two whole numbers."
    return a + b

server.run(show_banner=False)
"""


def call(name: str, **arguments: Any) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": json.dumps({"summary": name, **arguments})}
    return [{"id": f"call_{name}", "type": "function", "function": function}]


def reply(case: str, step: int, workspace: str) -> dict[str, Any]:
    """The scripted model's message for the step-th call."""
    plan = call("task_tracker", command="plan", task_list=[{"title": "Facts", "notes": "", "status": "todo"}])
    path = f"{workspace}/FACTS.txt"
    create = call("file_editor", command="create", path=path, file_text="1. one\n2. two\n3. three\n")
    finish = {"content": "", "tool_calls": call("finish", message=ANSWER)}
    look = {
        "content": "Looking.",
        "tool_calls": call("terminal", command=f"echo {step}", security_risk="LOW"),
    }
    if case == "limit":
        return look
    if case == "message":
        return {"content": "It is a project with three facts."}
    if case == "signal":
        return [look, {"content": "", "tool_calls": call("terminal", command="kill -TERM $PPID; sleep 5")}][
            step > 0
        ]
    if case == "mcp":
        return [{"content": "Adding.", "tool_calls": call("add", a=2, b=3)}, finish][step > 0]
    if case == "tool-error":
        view = {"content": "", "tool_calls": call("file_editor", command="view", path=f"{workspace}/missing")}
        unknown = {"content": "", "tool_calls": call("terminal", nothing="here")}
        return [view, unknown, finish][min(step, 2)]
    steps = [
        {"content": "Plan first.", "tool_calls": plan},
        look,
        {"content": "Write.", "tool_calls": create},
        finish,
    ]
    if case == "twice" and step >= 4:
        return {"content": "I did write them."}
    return steps[min(step, 3)]


class Loopback(BaseHTTPRequestHandler):
    """The model's API, and the receiver of traces."""

    case = ""
    workspace = ""
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            self.bodies.append(
                gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            )
            self.answer(200, b"")
        else:
            self.complete(json.loads(body))

    def complete(self, request: dict[str, Any]) -> None:
        if self.case == "wrong-key":
            error = {"error": {"message": "wrong key", "type": "auth", "code": "invalid_api_key"}}
            self.answer(401, json.dumps(error).encode())
            return
        step = sum(message["role"] == "assistant" for message in request["messages"])
        message = {"role": "assistant", **reply(self.case, step, self.workspace)}
        usage = {
            "prompt_tokens": 1000 + 100 * step,
            "completion_tokens": 50,
            "total_tokens": 1050 + 100 * step,
            "prompt_tokens_details": {"cached_tokens": 800 if step else 0},
        }
        head = {"id": f"chatcmpl-{step}", "created": 1, "model": "demo"}
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        if not request.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self.answer(200, json.dumps(whole).encode())
            return
        for index, part in enumerate(message.get("tool_calls") or []):
            part["index"] = index
        chunk = {**head, "object": "chat.completion.chunk"}
        parts = [
            {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            {**chunk, "choices": [], "usage": usage},
        ]
        lines = [f"data: {json.dumps(part)}\n\n" for part in parts] + ["data: [DONE]\n\n"]
        self.answer(200, "".join(lines).encode(), "text/event-stream")

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def record(case: str) -> list[bytes]:
    """Run one case and return the bodies that the SDK sent, decompressed."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, home = Path(folder, "workspace"), Path(folder, "home")
        workspace.mkdir()
        home.mkdir()
        Path(folder, "plain_sdk.py").write_text(PROGRAM)
        Path(folder, "mcp_server.py").write_text(MCP_SERVER)
        handler = type("Handler", (Loopback,), {"case": case, "workspace": str(workspace), "bodies": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | {
            "CASE": case,
            "TASK": TASK,
            "HOME": str(home),
            "MCP_SERVER": str(Path(folder, "mcp_server.py")),
            "LLM_BASE_URL": f"{address}/v1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENHANDS_SUPPRESS_BANNER": "1",
            # Several requests a run, so that the root comes after its children's batches.
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=1",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        }
        subprocess.run(
            [sys.executable, str(Path(folder, "plain_sdk.py"))], cwd=workspace, env=environment, check=False
        )
        server.shutdown()
        secrets = [
            (re.escape(str(workspace)), "/workspace"),
            (re.escape(folder), "/app"),
            (re.escape(str(Path(sys.prefix))), "/app/venv"),
            (re.escape(str(Path(sys.base_prefix))), "/usr"),
            (re.escape(os.environ.get("HOME", "/root")) + r"[\w./-]*/python[\d.]*", "/usr/bin/python3"),
            (re.escape(socket.gethostname()), "agent"),
            (r"127\.0\.0\.1:\d+", "127.0.0.1:8000"),
        ]
        return [anonymous(body, secrets) for body in handler.bodies]


def anonymous(body: bytes, secrets: list[tuple[str, str]]) -> bytes:
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        clean(resource.resource.attributes, secrets)
        for scope in resource.scope_spans:
            for span in scope.spans:
                clean(span.attributes, secrets)
                span.status.message = replaced(span.status.message, secrets)
                for event in span.events:
                    clean(event.attributes, secrets)
    return request.SerializeToString()


def clean(attributes: Iterable[KeyValue], secrets: list[tuple[str, str]]) -> None:
    for attribute in attributes:
        clean_value(attribute.value, secrets)


def clean_value(value: AnyValue, secrets: list[tuple[str, str]]) -> None:
    if value.HasField("string_value"):
        value.string_value = replaced(value.string_value, secrets)
    for item in value.array_value.values if value.HasField("array_value") else ():
        clean_value(item, secrets)


def replaced(text: str, secrets: list[tuple[str, str]]) -> str:
    for pattern, replacement in secrets:
        text = re.sub(pattern, replacement, text)
    return text


CASES = ("finish", "user", "message", "limit", "signal", "wrong-key", "tool-error", "mcp", "stream", "twice")


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for case in sys.argv[1:] or CASES:
        bodies = record(case)
        recording = b"".join(len(body).to_bytes(4) + body for body in bodies)
        (DATA / f"{case}.otlp.xz").write_bytes(lzma.compress(recording, preset=9))
        print(f"{case}: {len(bodies)} requests, {sum(map(len, bodies))} bytes")


if __name__ == "__main__":
    main()
