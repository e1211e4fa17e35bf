"""The words of a request and of its answer, in each protocol, as a judge reads them."""

import json
from collections.abc import Iterator
from typing import Any


def conversation(body: dict[str, Any]) -> list[dict[str, str]]:
    """The messages of a request, each as `{"role", "content"}`, oldest first. The offered tools are left out."""
    found: list[dict[str, str]] = []
    for name in ("instructions", "system", "systemInstruction"):
        if body.get(name):
            found.append({"role": "system", "content": _said(body[name])})
    for name in ("messages", "input", "contents", "prompt"):
        given = body.get(name)
        items = given if isinstance(given, list) else [given] if given else []
        for item in items:
            role = str(item.get("role") or item.get("type") or "user") if isinstance(item, dict) else "user"
            if text := _said(item):
                found.append({"role": role, "content": text})
    return found


def question(body: dict[str, Any]) -> str:
    """What the user said last; the whole conversation where no message is a user's."""
    messages = conversation(body)
    users = [message["content"] for message in messages if message["role"] == "user"]
    return users[-1] if users else "\n\n".join(message["content"] for message in messages)


def answer(body: dict[str, Any]) -> str:
    """What the model said, tool calls and their arguments included."""
    parts = [body[name] for name in ("choices", "output", "content", "candidates") if body.get(name)]
    return "\n".join(filter(None, map(_said, parts)))


def _said(value: Any) -> str:
    return "\n".join(text for text in _texts(value) if text.strip())


def _texts(value: Any) -> Iterator[str]:
    """The texts in a message, an item, or a list of either."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts_of(value)


def _texts_of(value: dict[str, Any]) -> Iterator[str]:
    for name in (
        "text",
        "content",
        "parts",
        "message",
        "refusal",
        "output",
        "summary",
        "tool_calls",
        "function_call",
    ):
        yield from _texts(value.get(name))
    for name in ("function", "functionCall", "functionResponse"):
        if isinstance(called := value.get(name), dict):
            yield from _call(called)
    if value.get("type") in ("tool_use", "function_call"):
        yield from _call(value)


def _call(called: dict[str, Any]) -> Iterator[str]:
    given = next(
        (called[name] for name in ("arguments", "input", "args", "response") if called.get(name)), ""
    )
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    yield f"{called.get('name', '')}({text})"
