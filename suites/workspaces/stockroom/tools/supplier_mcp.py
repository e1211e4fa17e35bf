"""MCP server of the supplier's catalogue, over standard input and output.

The client that starts it hands the catalogue over, as JSON, with `--catalogue`. Protocol: modelcontextprotocol.io, revision
2025-06-18, of which a server with two tools needs four methods. Standard library, since it also runs on the PC at the counter.
"""

import argparse
import json
import sys

TOOLS = [
    {
        "name": "find_part",
        "description": "What the supplier knows of a part number: whether it is shipped, its price in cents, the pieces in a pack.",
        "inputSchema": {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]},
    },
    {
        "name": "find_successor",
        "description": "The part number that replaces a discontinued one, if there is one. It may have been replaced itself.",
        "inputSchema": {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]},
    },
]


def call(catalogue: dict, name: str, arguments: dict) -> str:
    number = str(arguments.get("number", "")).strip().upper()
    part = catalogue.get(number)
    if part is None:
        return f"{number}: not in the catalogue"
    if name == "find_part":
        if not part.get("shipped"):
            return f"{number}: no longer shipped"
        return f"{number}: shipped, {part['cents']} cents a pack of {part['pack']}"
    successor = part.get("successor")
    return f"{number}: replaced by {successor}" if successor else f"{number}: no successor"


def answer(catalogue: dict, message: dict) -> dict | None:
    method, parameters = message.get("method"), message.get("params") or {}
    if "id" not in message:
        return None
    if method == "initialize":
        result = {
            "protocolVersion": parameters.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "supplier", "version": "1.0"},
        }
    elif method == "ping":
        result = {}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call" and any(tool["name"] == parameters.get("name") for tool in TOOLS):
        text = call(catalogue, parameters["name"], parameters.get("arguments") or {})
        result = {"content": [{"type": "text", "text": text}], "isError": False}
    else:
        return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": f"no such method: {method}"}}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--catalogue", type=json.loads, required=True)
    catalogue = parser.parse_args().catalogue
    for line in sys.stdin:
        if line.strip() and (reply := answer(catalogue, json.loads(line))) is not None:
            print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
