"""From a task's words to a plan.

The rules look for explicit wishes: facts about the project, a command or a text in backticks, a file's name, a pattern,
an address, a tool's name. A task may hold several; they are done in the order in which they stand. What no rule
recognises gets a look around and an honest answer.
"""

import json
import re
import shlex
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from posixpath import join, normpath
from typing import Any

from paddock_demo_model.conversation import Conversation, Result
from paddock_demo_model.facts import check_file, facts_plan, write_file
from paddock_demo_model.plans import Action, Outcome, Plan, look

_SHOWN_CHARACTERS = 1500
_NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_MAX_FACTS = 30
_OWN_TOOLS = {"finish", "think", "task_tracker", "terminal", "file_editor"}

_PATH = (
    r"(?:[`'\"](?P<quoted_path>[^`'\"\n]+)[`'\"]"
    r"|(?P<path>(?:[\w.@~+-]*/)*[\w@~+-][\w.@~+-]*\.[A-Za-z0-9]{1,8})(?![\w/-]))"
)
_QUOTED = (
    r"(?:```[a-z]*\n(?P<fence>.*?)\n?```|`(?P<tick>[^`\n]+)`|\"(?P<double>[^\"\n]+)\"|'(?P<single>[^'\n]+)')"
)
_COUNT = r"(?P<count>\d{1,4}|" + "|".join(_NUMBERS) + r"|a|some|a few)"

_FACTS = re.compile(
    rf"\b{_COUNT}\s+(?:\w+\s+){{0,2}}?facts?\b(?P<about>[^.\n]*?)"
    rf"\b(?:in(?:to)?|to)\s+(?:a\s+|the\s+)?(?:file\s+)?(?:called\s+|named\s+)?{_PATH}",
    re.IGNORECASE,
)
_PROJECT = re.compile(
    r"\b(?:project|repo|repository|workspace|folder|directory|code\s?base|code)\b|^\s*$", re.IGNORECASE
)
_RUN = re.compile(
    r"\b(?:run|execute)\b(?:\s+(?:the|this|these|following|shell|terminal|bash|commands?))*\s*:?\s*"
    r"(?:```[a-z]*\n(?P<fence>.*?)\n?```|`(?P<tick>[^`\n]+)`)",
    re.IGNORECASE | re.DOTALL,
)
_CREATE = re.compile(
    r"\b(?:create|make|write|add)\s+(?:a\s+|the\s+)?(?:new\s+)?(?:text\s+)?file\s+(?:called\s+|named\s+|at\s+)?"
    rf"{_PATH}\s*,?\s*(?:with|containing|that\s+says|that\s+contains|saying|holding)\b"
    rf"(?:\s+(?:the|this|these|following|exact|text|words?|contents?|line|one|single|of))*\s*:?\s*{_QUOTED}",
    re.IGNORECASE | re.DOTALL,
)
_PUT = re.compile(
    rf"\b(?:write|put|save)\s+(?:the\s+(?:text|words?|line)\s+)?{_QUOTED}\s+(?:in(?:to)?|to)\s+"
    rf"(?:a\s+|the\s+)?(?:new\s+)?(?:file\s+)?(?:called\s+|named\s+)?{_PATH}",
    re.IGNORECASE | re.DOTALL,
)
_REPLACE = re.compile(
    r"\breplace\s+(?:the\s+text\s+)?(?P<q1>[`'\"])(?P<old>.+?)(?P=q1)\s+(?:with|by)\s+(?P<q2>[`'\"])(?P<new>.*?)(?P=q2)"
    rf"\s+in\s+(?:the\s+)?(?:file\s+)?{_PATH}",
    re.IGNORECASE,
)
_FIND = re.compile(
    r"\b(?:find|list|show)\s+(?:me\s+)?(?:all\s+)?(?:the\s+)?files?\s+"
    r"(?:(?:that\s+)?match(?:ing|es)?|named|called|like|with\s+the\s+(?:name|pattern))\s*"
    r"(?:the\s+)?(?:glob\s+)?(?:pattern\s+)?[`'\"]?(?P<pattern>[^\s`'\",;]+)[`'\"]?",
    re.IGNORECASE,
)
_GREP = re.compile(
    r"\b(?:search|grep|look)\s+(?:(?:all\s+)?(?:the\s+)?(?:files|code|project|workspace)\s+)?(?:for\s+)?"
    rf"(?:the\s+)?(?:text|word|string|phrase|pattern)?\s*{_QUOTED}",
    re.IGNORECASE | re.DOTALL,
)
_READ = re.compile(
    rf"\b(?:read|show|print|view|open|display)\s+(?:me\s+)?(?:the\s+)?(?:contents?\s+of\s+)?(?:the\s+)?(?:file\s+)?"
    rf"{_PATH}",
    re.IGNORECASE,
)
_URL = re.compile(r"\bhttps?://[^\s`'\"<>)\]]+[^\s`'\"<>)\].,;:!?]", re.IGNORECASE)
_CALL = re.compile(
    r"\b(?:call|use|invoke|run)\b\s+(?:the\s+)?(?:MCP\s+)?(?:tool\s+)?[`'\"]?(?P<tool>[A-Za-z_][\w.:-]*\w)[`'\"]?",
    re.IGNORECASE,
)

CAN = (
    "I am Paddock's demo model: a small set of rules, not a language model. I can write N facts about the current "
    "project into a file, run a command given in backticks, create a file with a given text, replace a text in a file, "
    "read a file, find files by a pattern, search the files for a text, read a web page by its address where the "
    "browser tools are switched on, and call a tool by its name. For anything else give the endpoint a real model."
)

type Part = Generator[Action, Result, Outcome]


@dataclass(frozen=True)
class Wish:
    """One recognised wish: where it stands in the task, a title for the task list, and its plan."""

    start: int
    end: int
    title: str
    plan: Callable[[], Part]


def plan_for(conversation: Conversation) -> Plan:
    """The plan of the conversation's task."""
    wishes = recognise(conversation)
    if not wishes:
        return look_around(conversation)
    if len(wishes) == 1:
        return wishes[0].plan()
    return _in_turn(conversation, wishes)


def recognise(conversation: Conversation) -> list[Wish]:
    """The wishes that the rules find in the task, in their order there, none within another."""
    task = conversation.task
    found: list[Wish] = []
    for rule in _RULES:
        for wish in rule(conversation, task):
            if all(wish.end <= other.start or wish.start >= other.end for other in found):
                found.append(wish)
    return sorted(found, key=lambda wish: wish.start)


def look_around(conversation: Conversation) -> Plan:
    """The plan where no rule fits: list the folder, and say what this model is."""
    seen = ""
    if "terminal" in conversation.tools:
        result = yield from look("ls -A | head -n 50", "See what is in the folder.")
        if not result.failed and not result.lost:
            names = result.output.splitlines()
            seen = (
                f"I looked at the folder; it holds {', '.join(names[:20])}. "
                if names
                else "The folder is empty. "
            )
    elif "file_editor" in conversation.tools and (folder := conversation.workspace()):
        result = yield Action(
            "file_editor", {"command": "view", "path": folder}, "See what is in the folder."
        )
        if not result.failed:
            seen = f"I looked at the folder:\n{_shown(result.text)}\n"
    asked = _one_line(conversation.task)
    before = conversation.earlier_tasks
    memory = f' Before that you asked: "{_one_line(before[-1])}".' if before else ""
    return Outcome(
        False, f'You asked: "{asked}".{memory} {seen}I have no rule for this task, so I did nothing. {CAN}'
    )


def _in_turn(conversation: Conversation, wishes: list[Wish]) -> Plan:
    """Do one wish after the other; stop at the first that fails."""
    tracked = "task_tracker" in conversation.tools
    if tracked:
        yield _tasks(wishes, done=0, why=f"Plan the {len(wishes)} parts of the task.")
    messages: list[str] = []
    for number, wish in enumerate(wishes, 1):
        outcome = yield from wish.plan()
        messages.append(outcome.message)
        if not outcome.done:
            left = [other.title for other in wishes[number:]]
            if left:
                messages.append(f"I stopped there and did not do: {'; '.join(left)}.")
            return Outcome(False, "\n\n".join(messages))
    if tracked:
        yield _tasks(wishes, done=len(wishes), why="All parts are done.")
    return Outcome(True, "\n\n".join(messages))


def _tasks(wishes: list[Wish], *, done: int, why: str) -> Action:
    tasks = [
        {
            "title": wish.title,
            "status": "done" if index < done else "in_progress" if index == done else "todo",
        }
        for index, wish in enumerate(wishes)
    ]
    return Action("task_tracker", {"command": "plan", "task_list": tasks}, why)


# --- the rules --------------------------------------------------------------------------------------------


def _facts_wish(conversation: Conversation, task: str) -> list[Wish]:
    wishes = []
    for match in _FACTS.finditer(task):
        path, count = _path(match), _number(match["count"])
        if _PROJECT.search(re.sub(r"\babout\b", "", match["about"])) and 1 <= count <= _MAX_FACTS:
            plan = partial(facts_plan, conversation, count, path)
            wishes.append(Wish(*match.span(), f"Write {count} facts into {path}", plan))
    return wishes


def _run_wish(conversation: Conversation, task: str) -> list[Wish]:
    return [
        Wish(*match.span(), f"Run {_one_line(command)}", partial(_run, conversation, command))
        for match in _RUN.finditer(task)
        if (command := (match["fence"] or match["tick"]).strip())
    ]


def _create_wish(conversation: Conversation, task: str) -> list[Wish]:
    return [
        Wish(*match.span(), f"Create {path}", partial(_create, conversation, path, _quoted(match)))
        for rule in (_PUT, _CREATE)
        for match in rule.finditer(task)
        if (path := _path(match))
    ]


def _replace_wish(conversation: Conversation, task: str) -> list[Wish]:
    return [
        Wish(
            *match.span(),
            f"Replace a text in {path}",
            partial(_replace, conversation, path, match["old"], match["new"]),
        )
        for match in _REPLACE.finditer(task)
        if (path := _path(match))
    ]


def _find_wish(conversation: Conversation, task: str) -> list[Wish]:
    return [
        Wish(*match.span(), f"Find {pattern}", partial(_find, conversation, pattern))
        for match in _FIND.finditer(task)
        if (pattern := match["pattern"].rstrip(".") or match["pattern"])
    ]


def _grep_wish(conversation: Conversation, task: str) -> list[Wish]:
    return [
        Wish(*match.span(), f"Search for {text}", partial(_grep, conversation, text))
        for match in _GREP.finditer(task)
        if (text := _quoted(match).strip())
    ]


def _read_wish(conversation: Conversation, task: str) -> list[Wish]:
    return [
        Wish(*match.span(), f"Read {path}", partial(_read, conversation, path))
        for match in _READ.finditer(task)
        if (path := _path(match))
    ]


def _url_wish(conversation: Conversation, task: str) -> list[Wish]:
    return [
        Wish(*match.span(), f"Read {match[0]}", partial(_browse, conversation, match[0]))
        for match in _URL.finditer(task)
    ]


def _call_wish(conversation: Conversation, task: str) -> list[Wish]:
    named = conversation.tools.keys() - _OWN_TOOLS
    matches = [match for match in _CALL.finditer(task) if match["tool"] in named]
    # A tool's arguments are the words up to the next tool.
    ends = [*(match.start() for match in matches[1:]), len(task)]
    return [
        Wish(
            match.start(),
            end,
            f"Call {match['tool']}",
            partial(_call, conversation, match["tool"], task[match.end() : end]),
        )
        for match, end in zip(matches, ends, strict=False)
    ]


# --- the parts of a plan ----------------------------------------------------------------------------------


def _run(conversation: Conversation, command: str) -> Part:
    if "terminal" not in conversation.tools:
        return Outcome(False, f"I could not run `{command}`: this agent has no terminal tool.")
    result = yield Action("terminal", {"command": command}, f"Run {_one_line(command)}.", "MEDIUM")
    waits = 0
    while result.still_running and waits < 10:
        waits += 1
        result = yield Action("terminal", {"command": ""}, f"The command is still running; wait ({waits}).")
    if result.failed:
        return Outcome(False, f"I could not run `{command}`. The terminal said: {result.error}")
    if result.lost:
        # To run it again could do harm; the shell still knows how it ended.
        result = yield Action(
            "terminal", {"command": 'echo "exit code $?"'}, "The output is lost; ask how it ended."
        )
        found = re.search(r"^exit code (\d+)$", result.output, re.MULTILINE)
        ended = f"it ended with exit code {found[1]}" if found else "how it ended is not known"
        done = found is not None and found[1] == "0"
        return Outcome(
            done, f"I ran `{command}`; {ended}. The terminal lost its output, so I cannot show it."
        )
    output = _shown(result.output)
    said = f"Its output:\n\n```\n{output}\n```" if output else "It printed nothing."
    if result.still_running:
        return Outcome(False, f"I ran `{command}`; it has not ended yet. {said}")
    if result.exit_code:
        return Outcome(False, f"I ran `{command}`; it failed with exit code {result.exit_code}. {said}")
    return Outcome(True, f"I ran `{command}`; it ended with exit code {result.exit_code or 0}. {said}")


def _create(conversation: Conversation, path: str, text: str) -> Part:
    if not conversation.tools.keys() & {"file_editor", "terminal"}:
        return Outcome(
            False, f"I could not create {path}: this agent has neither a file editor nor a terminal."
        )
    full = _absolute(conversation, path)
    content = text if text.endswith("\n") else text + "\n"
    problem = yield from write_file(conversation, full, content, replace=False)
    replaced = ""
    if "already exists" in problem and "terminal" in conversation.tools:
        problem = yield from write_file(conversation, full, content, replace=True)
        replaced = " There was a file of that name before; I replaced it."
    if problem:
        return Outcome(False, f"I could not create {path}. {problem}")
    problem = yield from check_file(conversation, full, content)
    if problem:
        return Outcome(False, f"I wrote {path}, but reading it back did not show what I wrote. {problem}")
    lines = len(content.splitlines())
    return Outcome(True, f"I created the file {path} with {lines} {'line' if lines == 1 else 'lines'}: "
                         f"{_one_line(text)}.{replaced}")  # fmt: skip


def _replace(conversation: Conversation, path: str, old: str, new: str) -> Part:
    if "file_editor" not in conversation.tools:
        return Outcome(False, f"I could not change {path}: this agent has no file editor.")
    arguments = {
        "command": "str_replace",
        "path": _absolute(conversation, path),
        "old_str": old,
        "new_str": new,
    }
    result = yield Action("file_editor", arguments, f"Replace the text in {path}.", "MEDIUM")
    if result.failed:
        return Outcome(False, f"I could not replace {old!r} in {path}. The file editor said: {result.error}")
    return Outcome(True, f"I replaced {old!r} with {new!r} in {path}.")


def _find(conversation: Conversation, pattern: str) -> Part:
    if "glob" in conversation.tools:
        result = yield Action("glob", {"pattern": pattern}, f"Find the files that match {pattern}.")
        paths = [line for line in result.text.splitlines() if line.startswith("/")]
    elif "terminal" in conversation.tools:
        quoted = shlex.quote(pattern.rsplit("/", 1)[-1])
        command = f"find . -name .git -prune -o -type f -name {quoted} -print | sort | head -n 100"
        result = yield from look(command, f"Find the files that match {pattern}.")
        paths = [line for line in result.output.splitlines() if line.startswith("./")]
    else:
        return Outcome(False, f"I could not look for {pattern}: this agent has neither glob nor a terminal.")
    if result.failed:
        return Outcome(False, f"I could not look for {pattern}. The tool said: {result.error}")
    return Outcome(True, _listing(f"matching {pattern}", paths))


def _grep(conversation: Conversation, text: str) -> Part:
    if "grep" in conversation.tools:
        arguments = {"pattern": re.sub(r"([\\.*+?\[\](){}^$|])", r"\\\1", text)}
        result = yield Action("grep", arguments, f"Search the files for {_one_line(text)}.")
        paths = [line for line in result.text.splitlines() if line.startswith("/")]
    elif "terminal" in conversation.tools:
        command = f"grep -rIlF --exclude-dir=.git -e {shlex.quote(text)} . | sort | head -n 100"
        result = yield from look(command, f"Search the files for {_one_line(text)}.")
        paths = [line for line in result.output.splitlines() if line.startswith("./")]
    else:
        return Outcome(False, f'I could not search for "{text}": this agent has neither grep nor a terminal.')
    if result.failed:
        return Outcome(False, f'I could not search for "{text}". The tool said: {result.error}')
    return Outcome(True, _listing(f'containing "{text}"', paths))


def _read(conversation: Conversation, path: str) -> Part:
    if "file_editor" in conversation.tools:
        arguments = {"command": "view", "path": _absolute(conversation, path)}
        result = yield Action("file_editor", arguments, f"Read {path}.")
        content = "\n".join(re.findall(r"^ *\d+\t(.*)$", result.text, re.MULTILINE)) or result.text
        problem = result.error if result.failed else ""
    elif "terminal" in conversation.tools:
        result = yield from look(f"cat -- {shlex.quote(path)}", f"Read {path}.")
        content = result.output
        problem = result.error if result.failed else content if result.exit_code else ""
    else:
        return Outcome(
            False, f"I could not read {path}: this agent has neither a file editor nor a terminal."
        )
    if problem:
        return Outcome(False, f"I could not read {path}. The tool said: {problem}")
    return Outcome(True, f"The file {path} says:\n\n{_shown(content)}")


def _browse(conversation: Conversation, url: str) -> Part:
    tools = conversation.tools
    if "browser_navigate" not in tools:
        return Outcome(
            False, f"I could not read {url}: this agent has no browser tools. Switch them on and try again."
        )
    result = yield Action("browser_navigate", {"url": url}, f"Open {url}.", "MEDIUM")
    if _browser_failed(result):
        return Outcome(False, f"I could not open {url}. The browser said: {_shown(result.error)}")
    reader = next((name for name in ("browser_get_content", "browser_get_state") if name in tools), None)
    if reader is None:
        return Outcome(True, f"I opened {url}; this agent has no tool that reads the page.")
    result = yield Action(reader, {}, f"Read the page at {url}.")
    if _browser_failed(result):
        return Outcome(
            False, f"I opened {url} but could not read the page. The browser said: {_shown(result.error)}"
        )
    return Outcome(True, f"The page at {url} says:\n\n{_shown(result.text.strip())}")


def _browser_failed(result: Result) -> bool:
    return result.failed or result.text.startswith(
        ("Browser operation failed", "Error:", "Operation timed out")
    )


def _call(conversation: Conversation, name: str, words: str) -> Part:
    arguments, missing = arguments_for(conversation, name, words)
    if missing:
        return Outcome(
            False,
            f"I did not call the tool {name}: it needs {', '.join(missing)}, and the task does not give them. "
            f'Write for example: call {name} with {{"{missing[0]}": ...}}.',
        )
    result = yield Action(name, arguments, f"Call the tool {name}.", "MEDIUM")
    if result.failed:
        return Outcome(False, f"The tool {name} failed: {result.error}")
    return Outcome(True, f"I called the tool {name}. It answered:\n\n{_shown(result.text.strip())}")


def arguments_for(conversation: Conversation, name: str, words: str) -> tuple[dict[str, Any], list[str]]:
    """Arguments of a tool as the words after its name give them, and the required ones that they do not give.

    A JSON object is taken as it is; else ``name=value`` pairs; else the numbers and quoted texts, in the order of the
    parameters that are still open.
    """
    schema = conversation.tools[name].function.parameters or {}
    properties = {
        key: value
        for key, value in (schema.get("properties") or {}).items()
        if key != "security_risk"
        and not (key == "summary" and "summary" not in (schema.get("required") or []))
    }
    required = [key for key in schema.get("required") or [] if key in properties]
    given = _json_object(words)
    if given is None:
        given = {}
        pair = re.compile(r"\b(\w+)\s*(?:=|:)\s*(\"[^\"]*\"|'[^']*'|`[^`]*`|[^\s,;]*[^\s,;.])")
        for key, value in pair.findall(words):
            if key in properties:
                given[key] = _typed(value.strip("\"'`"), properties[key])
        if not given:
            values = re.findall(
                r"\"([^\"]*)\"|'([^']*)'|`([^`]*)`|(?<![\w.])(-?\d+(?:\.\d+)?)(?![\w])", words
            )
            open_names = [*required, *(key for key in properties if key not in required)]
            for key, groups in zip(open_names, values, strict=False):
                given[key] = _typed(next(filter(None, groups), ""), properties[key])
    return given, [key for key in required if key not in given]


def _json_object(words: str) -> dict[str, Any] | None:
    start = words.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(words[start:])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _typed(value: str, schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    try:
        if kind == "integer":
            return int(value)
        if kind == "number":
            return float(value)
    except ValueError:
        return value
    if kind == "boolean":
        return value.lower() in ("true", "yes", "1")
    return value


def _absolute(conversation: Conversation, path: str) -> str:
    return normpath(join(conversation.workspace() or "/", path))


def _path(match: re.Match[str]) -> str:
    return match["quoted_path"] or match["path"]


def _quoted(match: re.Match[str]) -> str:
    groups = match.groupdict()
    return next((groups[name] for name in ("fence", "tick", "double", "single") if groups.get(name)), "")


def _number(word: str) -> int:
    if word.isdigit():
        return int(word)
    lowered = word.lower()
    return _NUMBERS.index(lowered) if lowered in _NUMBERS else {"a": 1}.get(lowered, 3)


def _listing(what: str, paths: list[str]) -> str:
    if not paths:
        return f"I found no file {what}."
    shown = "\n".join(f"- {path}" for path in paths[:50])
    more = f"\n(and {len(paths) - 50} more)" if len(paths) > 50 else ""
    return f"I found {len(paths)} {'file' if len(paths) == 1 else 'files'} {what}:\n{shown}{more}"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "\n(cut here)"


def _one_line(text: str) -> str:
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= 120 else line[:117] + "..."


# The narrower rules come first: what one has taken, the others leave.
_RULES = (
    _facts_wish,
    _create_wish,
    _replace_wish,
    _run_wish,
    _call_wish,
    _url_wish,
    _find_wish,
    _grep_wish,
    _read_wish,
)
