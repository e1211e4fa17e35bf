"""The task "write N facts about the project into FILE": look, write what was seen, read it back."""

import re
import shlex
from collections.abc import Generator
from dataclasses import dataclass, field
from posixpath import basename, join, normpath, relpath

from paddock_demo_model.conversation import Conversation, Result
from paddock_demo_model.plans import Action, Outcome, Plan

IGNORED_FOLDERS = (".git", "node_modules", ".venv", "__pycache__")
SURVEY_SECONDS = 120
_SHOWN_ENTRIES = 60
_PRUNE = "\\( " + " -o ".join(f"-name {name}" for name in IGNORED_FOLDERS) + " \\) -prune"
_README = re.compile(r"readme(\.(md|rst|txt|adoc|org))?", re.IGNORECASE)

LANGUAGES = {
    "py": "Python", "js": "JavaScript", "mjs": "JavaScript", "cjs": "JavaScript", "jsx": "JavaScript",
    "ts": "TypeScript", "tsx": "TypeScript", "go": "Go", "rs": "Rust", "c": "C", "h": "C", "cc": "C++", "cpp": "C++",
    "cxx": "C++", "hpp": "C++", "java": "Java", "kt": "Kotlin", "rb": "Ruby", "php": "PHP", "cs": "C#",
    "swift": "Swift", "scala": "Scala", "lua": "Lua", "pl": "Perl", "r": "R", "jl": "Julia", "sh": "shell",
    "bash": "shell", "sql": "SQL", "html": "HTML", "css": "CSS", "scss": "CSS", "vue": "Vue", "svelte": "Svelte",
    "ex": "Elixir", "exs": "Elixir", "erl": "Erlang", "hs": "Haskell", "ml": "OCaml", "zig": "Zig", "dart": "Dart",
    "tf": "Terraform",
}  # fmt: skip
DOCUMENTS = {
    "md": "Markdown", "rst": "reStructuredText", "txt": "plain text", "json": "JSON", "yaml": "YAML", "yml": "YAML",
    "toml": "TOML", "xml": "XML", "csv": "CSV", "ini": "INI", "lock": "lock", "png": "PNG", "jpg": "JPEG", "svg": "SVG",
    "pdf": "PDF", "ipynb": "Jupyter notebook",
}  # fmt: skip
_MARKERS = {
    "pyproject.toml": "a Python project file (pyproject.toml)",
    "package.json": "an npm package file (package.json)",
    "Cargo.toml": "a Cargo package file (Cargo.toml)",
    "go.mod": "a Go module file (go.mod)",
    "pom.xml": "a Maven project file (pom.xml)",
    "Makefile": "a Makefile",
    "Dockerfile": "a Dockerfile",
    "docker-compose.yml": "a Compose file (docker-compose.yml)",
    "compose.yaml": "a Compose file (compose.yaml)",
    "LICENSE": "a LICENSE file",
}


type SubPlan = Generator[Action, Result, str]


@dataclass
class Survey:
    """What the terminal reported about the folder. Counts leave out the target file and IGNORED_FOLDERS."""

    files: int
    folders: int
    extensions: dict[str, int]
    entries: list[str]
    target_lines: int | None
    commits: int | None
    branch: str | None
    subject: str | None
    readme_lines: int | None = None
    readme_head: list[str] = field(default_factory=list)
    top_lines: int | None = None


def facts_plan(conversation: Conversation, count: int, target: str) -> Plan:
    """Plan that writes ``count`` facts into ``target`` (a path, relative to the workspace or absolute)."""
    workspace = conversation.workspace() or conversation.working_directory() or "."
    tools = conversation.tools
    if "terminal" not in tools:
        return Outcome(
            False,
            f"I wrote no facts into {target}: I look at a project by the terminal tool, and this agent has none.",
        )
    tracked = "task_tracker" in tools
    titles = ["Look at the project's files", f"Write {count} facts into {target}", f"Check {target}"]
    if tracked:
        yield _tasks(titles, done=0, why=f"Plan the work: look, write {count} facts, check.")

    path = normpath(join(workspace, target))
    inside = relpath(path, workspace) if workspace != "." and path.startswith(workspace + "/") else None
    enter = f"cd {shlex.quote(workspace)} && " if conversation.has_moved() else ""
    look = enter + survey_command(path, inside)
    result = yield _terminal(look, "Count the files, and look at the README and the history.")
    survey = parse_survey(result)
    if survey is None and not result.still_running:
        # OpenHands' terminal can lose the output of a shell's first command.
        result = yield _terminal(look, "The output was incomplete, so look again.")
        survey = parse_survey(result)
    if survey is None:
        if result.still_running:
            yield Action(
                "terminal", {"command": "C-c", "is_input": True}, "Stop the command that takes too long."
            )
        return Outcome(
            False, f"I wrote no facts into {target}: looking at the folder failed. {_why_not(result)}"
        )

    if details := detail_command(survey, inside):
        result = yield _terminal(details, "Read the README's first lines and count lines of code.")
        parse_details(result, survey)

    known = facts(survey, name=basename(workspace), target=inside)
    chosen = known[:count]
    text = "".join(f"{number}. {fact}\n" for number, fact in enumerate(chosen, 1))
    replaced = survey.target_lines is not None

    problem = yield from write_file(conversation, path, text, replace=replaced)
    if problem:
        return Outcome(False, f"I could not write {target}. {problem}")

    problem = yield from check_file(conversation, path, text)
    if problem:
        return Outcome(False, f"I wrote {target}, but reading it back did not show what I wrote. {problem}")
    if tracked:
        yield _tasks(titles, done=len(titles), why="All three tasks are done.")

    message = f"I wrote {len(chosen)} {_plural('fact', len(chosen))} about the current project into {target}:\n\n{text}"
    if len(chosen) < count:
        message += f"\nYou asked for {count}; I could find no more than {len(chosen)}."
    if replaced:
        message += (
            f"\nThere was a {target} with {survey.target_lines} "
            f"{_plural('line', survey.target_lines or 0)} before; I replaced it."
        )
    return Outcome(len(chosen) == count, message.strip())


def survey_command(path: str, inside: str | None) -> str:
    """One shell line, for bash or any POSIX shell, whose output ``parse_survey`` reads.

    ``path`` is the file that will be written, ``inside`` the same relative to the folder if it lies in it.

    Every line begins with a key of ours, and newlines and control characters in file names are replaced, so that
    neither a file's name nor a commit's subject can pass for a count.
    """
    quoted = shlex.quote(path)
    found = f"{_find(inside)} -print0"
    lines = "LC_ALL=C tr '\\001-\\037\\177' '?' | tr '\\000' '\\n'"
    return (
        f"echo 'survey: begin'; echo files: $({found} | tr -cd '\\000' | wc -c)"
        f"; echo folders: $(find . -mindepth 1 {_PRUNE} -o -type d -print0 | tr -cd '\\000' | wc -c)"
        f"; {found} | {lines} | sed -n 's/.*[^/]\\.\\([A-Za-z0-9_+-]\\{{1,12\\}}\\)$/\\1/p' | sort | uniq -c"
        " | sort -rn | head -n 20 | sed 's/^ */extension: /'"
        f"; find . -mindepth 1 -maxdepth 1 -print0 | {lines} | sed 's|^\\./||' | sort | head -n {_SHOWN_ENTRIES}"
        " | cut -c1-120 | sed 's/^/entry: /'"
        f"; if [ -d {quoted} ]; then echo target: folder; elif [ -e {quoted} ] || [ -L {quoted} ];"
        f" then echo target: $(wc -l < {quoted}) lines; fi"
        '; if [ "$(git rev-parse --show-prefix 2>/dev/null; echo $?)" = "$(printf \'\\n0\')" ]; then'
        " echo commits: $(git rev-list --count HEAD 2>/dev/null || echo 0)"
        "; echo branch: $(git symbolic-ref --short -q HEAD)"
        "; git log -1 --format=%s 2>/dev/null | cut -c1-120 | sed 's/^/subject: /'; fi; echo 'survey: end'"
    )


def parse_survey(result: Result) -> Survey | None:
    """Read the output of ``survey_command``; None if it is not all there."""
    block = _block(result.text, "survey")
    if block is None:
        return None
    values: dict[str, list[str]] = {}
    for line in block:
        key, separator, value = line.partition(": ")
        if separator:
            values.setdefault(key, []).append(value.rstrip())
    try:
        extensions: dict[str, int] = {}
        for value in values.get("extension", []):
            number, _, extension = value.partition(" ")
            extensions[extension.lower()] = extensions.get(extension.lower(), 0) + int(number)
        lines = _first(values, "target")
        return Survey(
            files=int(values["files"][0]),
            folders=int(values["folders"][0]),
            extensions=extensions,
            entries=values.get("entry", []),
            target_lines=_target_lines(lines),
            commits=int(values["commits"][0]) if "commits" in values else None,
            branch=_first(values, "branch") or None,
            subject=_first(values, "subject"),
        )
    except (KeyError, ValueError, IndexError):
        return None


def detail_command(survey: Survey, inside: str | None) -> str | None:
    """The second look: the README's head, and the lines of the most frequent language. None if there is neither."""
    parts = []
    if readme := _readme(survey):
        quoted = shlex.quote("./" + readme)
        parts.append(
            f"echo readme: $(wc -l < {quoted}); head -n 40 {quoted} | cut -c1-200"
            " | LC_ALL=C tr '\\001-\\011\\013-\\037\\177' ' ' | sed 's/^/head: /'"
        )
    if language := _top_language(survey):
        names = " -o ".join(f"-iname '*.{extension}'" for extension in _extensions_of(language, survey))
        parts.append(f"echo lines: $({_find(inside)} \\( {names} \\) -exec cat {{}} + | wc -l)")
    if not parts:
        return None
    return f"echo 'details: begin'; {'; '.join(parts)}; echo 'details: end'"


def parse_details(result: Result, survey: Survey) -> None:
    """Add the output of ``detail_command`` to the survey; what is missing there stays unknown."""
    for line in _block(result.text, "details") or []:
        key, _, value = line.partition(": ")
        if key == "readme" and value.strip().isdigit():
            survey.readme_lines = int(value)
        elif key == "lines" and value.strip().isdigit():
            survey.top_lines = int(value)
        elif line.startswith("head:"):
            survey.readme_head.append(line[len("head:") :].strip())


def facts(survey: Survey, name: str, target: str | None) -> list[str]:
    """Sentences that are true of the surveyed folder, the most telling first.

    Facts about what is missing come last: they serve where there is little else to tell.
    """
    project = f'The project folder "{name}"' if name.strip(".") else "The project folder"
    aside = f"not counting {f'{target} and ' if target else ''}the contents of {', '.join(IGNORED_FOLDERS)}"
    folders = f" in {survey.folders} {_plural('folder', survey.folders)}" if survey.folders else ""
    size = f"{survey.files} {_plural('file', survey.files)}{folders}" if survey.files else "no files"
    count = [f"{project} has {size}, {aside}."]
    language, no_language = _language_facts(survey)
    readme, no_readme = _readme_facts(survey)
    git, no_git = _git_facts(survey)
    entries, no_entries = _entry_facts(survey, target)
    return [*count, *language, *readme, *git, *entries, *no_readme, *no_git, *no_language, *no_entries]


def _language_facts(survey: Survey) -> tuple[list[str], list[str]]:
    languages = _languages(survey)
    if languages:
        top, number = languages[0]
        sentence = f"Its most frequent programming language is {top}, with {number} {_plural('file', number)}"
        if survey.top_lines is not None:
            sentence += f" and {survey.top_lines} {_plural('line', survey.top_lines)}"
        rest = [f"{other} ({amount})" for other, amount in languages[1:4]]
        return [f"{sentence}{', followed by ' + ', '.join(rest) if rest else ''}."], []
    missing = ["It has no file of a programming language that I know by its extension."]
    if not survey.extensions:
        return [], missing
    extension, number = next(iter(survey.extensions.items()))
    kind = DOCUMENTS.get(extension)
    named = f"{kind} (.{extension})" if kind else f".{extension}"
    return [f"Its most frequent kind of file is {named}, with {number} {_plural('file', number)}."], missing


def _readme_facts(survey: Survey) -> tuple[list[str], list[str]]:
    readme = _readme(survey)
    if readme is None:
        return [], ["It has no README file at its top level."]
    sentences = []
    if title := _title(survey.readme_head):
        sentences.append(f'Its {readme} is titled "{title}".')
    if survey.readme_lines is not None:
        sentences.append(f"Its {readme} has {survey.readme_lines} {_plural('line', survey.readme_lines)}.")
    return sentences, []


def _git_facts(survey: Survey) -> tuple[list[str], list[str]]:
    if survey.commits is None:
        # With a .git, git is missing or refuses to read it, and nothing can be said.
        return [], [] if ".git" in survey.entries else ["It is not the top of a git repository."]
    on = f" on the branch {survey.branch}" if survey.branch else ""
    latest = f'; the latest is "{survey.subject}"' if survey.subject else ""
    commits = f"{survey.commits} {_plural('commit', survey.commits)}"
    return [f"Its git history has {commits}{on}{latest}."], []


def _entry_facts(survey: Survey, target: str | None) -> tuple[list[str], list[str]]:
    """What lies at the top level, and the kinds of documents."""
    sentences = [
        f"It has {text} at its top level." for entry, text in _MARKERS.items() if entry in survey.entries
    ]
    sentences += [
        f"It has {number} {DOCUMENTS[extension]} {_plural('file', number)} (.{extension})."
        for extension, number in survey.extensions.items()
        if extension in DOCUMENTS
    ]
    missing = [] if survey.folders else ["It has no sub-folders."]
    others = [entry for entry in survey.entries if entry != target]
    if not others:
        return sentences, ["There is nothing at its top level.", *missing]
    if len(survey.entries) < _SHOWN_ENTRIES:
        number = len(others)
        # Longer names were cut by the command.
        shown = ", ".join([entry for entry in others if len(entry) < 100][:5])
        verb, noun = ("is", "entry") if number == 1 else ("are", "entries")
        more = " and others" if number > 5 else ""
        sentences.append(f"At its top level there {verb} {number} {noun}: {shown}{more}.")
    return sentences, missing


def write_file(conversation: Conversation, path: str, text: str, *, replace: bool) -> SubPlan:
    """Sub-plan that writes ``text`` to ``path``. Returns what went wrong, or an empty string.

    ``file_editor`` refuses to create a file that exists, so one that is to be replaced is removed first.
    """
    name = basename(path)
    if "file_editor" not in conversation.tools:
        command = f"printf '%s' {shlex.quote(text)} > {shlex.quote(path)}"
        result = yield _terminal(command, f"Write {name}.", risk="MEDIUM")
        return "" if result.exit_code == 0 and not result.failed else _why_not(result)
    if replace and "terminal" in conversation.tools:
        result = yield _terminal(
            f"rm -f -- {shlex.quote(path)}", f"Remove the {name} that is there.", risk="MEDIUM"
        )
        if result.failed or result.exit_code not in (0, None):
            return _why_not(result)
    arguments = {"command": "create", "path": path, "file_text": text}
    result = yield Action("file_editor", arguments, f"Write {name}.", risk="MEDIUM")
    return _why_not(result) if result.failed else ""


def check_file(conversation: Conversation, path: str, text: str) -> SubPlan:
    """Sub-plan that reads ``path`` back and compares. Returns what differs, or an empty string."""
    name = basename(path)
    wanted = text.splitlines()
    if "file_editor" in conversation.tools:
        result = yield Action("file_editor", {"command": "view", "path": path}, f"Read {name} back.")
        # `view` shows what `cat -n` would: number, tab, line.
        seen = re.findall(r"^ *\d+\t(.*)$", result.text, re.MULTILINE)
    else:
        result = yield _terminal(f"cat -- {shlex.quote(path)}", f"Read {name} back.")
        seen = result.output.splitlines()
    if result.failed:
        return _why_not(result)
    missing = [
        line for line in wanted if line.strip() and line.rstrip() not in {entry.rstrip() for entry in seen}
    ]
    return f"Missing: {missing[0]}" if missing else ""


def _terminal(command: str, why: str, risk: str = "LOW") -> Action:
    return Action("terminal", {"command": command, "timeout": SURVEY_SECONDS}, why, risk)


def _tasks(titles: list[str], *, done: int, why: str) -> Action:
    states = [
        "done" if index < done else "in_progress" if index == done else "todo" for index in range(len(titles))
    ]
    tasks = [{"title": title, "status": state} for title, state in zip(titles, states, strict=True)]
    return Action("task_tracker", {"command": "plan", "task_list": tasks}, why)


def _why_not(result: Result) -> str:
    if result.failed:
        return f"The tool said: {result.error}"
    if result.still_running:
        return "The command did not end in time."
    code = result.exit_code
    shown = result.output.strip()[-300:]
    return (
        f"The command ended with exit code {code}. {shown}"
        if code
        else f"Its output was: {shown or '(nothing)'}"
    )


def _block(text: str, name: str) -> list[str] | None:
    """Lines between the last complete pair of ``NAME: begin`` and ``NAME: end``."""
    lines = [line.rstrip() for line in text.splitlines()]
    ends = [index for index, line in enumerate(lines) if line == f"{name}: end"]
    if not ends:
        return None
    begins = [index for index, line in enumerate(lines[: ends[-1]]) if line == f"{name}: begin"]
    return lines[begins[-1] + 1 : ends[-1]] if begins else None


def _first(values: dict[str, list[str]], key: str) -> str | None:
    return values[key][0] if values.get(key) else None


def _target_lines(value: str | None) -> int | None:
    if value is None:
        return None
    number = value.split(" ")[0]
    # A folder, or a link that leads nowhere: something is there, and it has no lines.
    return int(number) if number.isdigit() else 0


def _find(inside: str | None) -> str:
    """A ``find`` of every file but those of IGNORED_FOLDERS and the one that will be written."""
    own = ""
    if inside:
        # `-path` takes a pattern, so its special characters are escaped.
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", f"./{inside}")
        own = f" ! -path {shlex.quote(pattern)}"
    return f"find . {_PRUNE} -o -type f{own}"


def _readme(survey: Survey) -> str | None:
    found = [entry for entry in survey.entries if _README.fullmatch(entry)]
    return min(found, key=lambda entry: (not entry.lower().endswith(".md"), entry)) if found else None


def _title(head: list[str]) -> str | None:
    """A README's title: its first Markdown heading, else its first line of plain words."""
    plain = [
        line for line in head if line and not line.startswith(("<", "[!", "![", "---", "===", "..", "```"))
    ]
    heading = next((line for line in plain if re.match(r"#{1,6} +\S", line)), plain[0] if plain else "")
    return re.sub(r"\s+", " ", heading.strip("#= ").replace('"', "'"))[:120] or None


def _languages(survey: Survey) -> list[tuple[str, int]]:
    totals: dict[str, int] = {}
    for extension, number in survey.extensions.items():
        if language := LANGUAGES.get(extension):
            totals[language] = totals.get(language, 0) + number
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


def _top_language(survey: Survey) -> str | None:
    languages = _languages(survey)
    return languages[0][0] if languages else None


def _extensions_of(language: str, survey: Survey) -> list[str]:
    return [extension for extension in survey.extensions if LANGUAGES.get(extension) == language]


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"
