"""YAML with the place of every value, so that an error can say where it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paddock_mlflow.config.errors import InvalidConfiguration, Problem

Place = tuple[int, int]
"""Line and column, from 1."""
Steps = tuple[str | int, ...]
"""The way to a value from the top: keys and positions."""

MERGE = "tag:yaml.org,2002:merge"


@dataclass
class Source:
    """A file's content as plain values, and where each of them stands."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Steps, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """What is wrong already: a name that is there twice."""

    def problem(self, steps: Steps, expected: str, found: str, remedy: str) -> Problem:
        """A problem of one value, at its place, or at that of the nearest thing around it that has one."""
        known = steps
        while known and known not in self.places:
            known = known[:-1]
        line, column = self.places.get(known, (0, 0))
        return Problem(line, column, path_of(steps), expected, found, remedy)


def path_of(steps: Steps) -> str:
    """`("a", "b", 0)` as `a.b[0]`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


@dataclass(frozen=True)
class Form:
    """What a kind of file is, in the words of its errors."""

    kind: str = "a readable configuration file"
    content: str = "a mapping of sections (providers, models, endpoints)"
    example: str = "the shipped mlflow/gateway.yaml"
    named_by: str = "GATEWAY_CONFIG in .env, or the argument"


GATEWAY = Form()


def read(path: Path, form: Form = GATEWAY) -> Source:
    """The content of a file.

    Raises:
        InvalidConfiguration: it can't be read, is no YAML, or is no mapping.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = f"name one that is there and that this user may read ({form.named_by})"
        raise InvalidConfiguration(name, [Problem(0, 0, "", form.kind, reason, remedy)]) from None
    return parse(text, name, form)


def parse(text: str, file: str, form: Form = GATEWAY) -> Source:
    """The content of a text; `file` is the name that errors give it.

    Raises:
        InvalidConfiguration: it is no YAML, or no mapping.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            found = f"a {root.id}" if root is not None else "nothing in it"
            remedy = f"begin with `version: 1`; {form.example} shows the form"
            raise InvalidConfiguration(file, [Problem(1, 1, "", form.content, found, remedy)])
        source = Source(file)
        source.data = _Walk(loader, source).value(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = " ".join(part for part in (error.context, error.problem) if part)
        remedy = "mend the indentation, quotes or brackets there"
        raise InvalidConfiguration(file, [Problem(line, column, "", "valid YAML", what, remedy)]) from None
    except yaml.YAMLError as error:
        remedy = "save the file as plain UTF-8 text"
        raise InvalidConfiguration(file, [Problem(0, 0, "", "valid YAML", str(error), remedy)]) from None
    finally:
        loader.dispose()
    return source


class _Walk:
    """Turns nodes into values; a duplicate key, which PyYAML takes silently, is a problem."""

    def __init__(self, loader: yaml.SafeLoader, source: Source) -> None:
        self._loader = loader
        self._source = source
        self._open: set[int] = set()

    def value(self, node: yaml.Node, steps: Steps) -> Any:
        self._source.places.setdefault(steps, _place(node))
        if isinstance(node, yaml.ScalarNode):
            return self._loader.construct_object(node, deep=True)
        if id(node) in self._open:
            self._source.problems.append(
                self._source.problem(
                    steps, "a value that ends", "an alias of what it stands in", "write it out"
                )
            )
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*steps, index)) for index, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, steps)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, steps: Steps) -> dict[str, Any]:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == MERGE:
                continue
            name = self._key(key)
            if name in seen:
                line, _ = _place(seen[name])
                self._source.places[(*steps, name)] = _place(key)
                self._source.problems.append(
                    self._source.problem(
                        (*steps, name),
                        "each name once",
                        f"it a second time, after line {line}",
                        "rename one of them",
                    )
                )
            seen[name] = key
        # Resolves `<<: *anchor`; only after the look at duplicates, because what is merged may be overridden.
        self._loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key, item in node.value:
            name = self._key(key)
            self._source.places[(*steps, name)] = _place(key)
            result[name] = self.value(item, (*steps, name))
        return result

    def _key(self, node: yaml.Node) -> str:
        key = self._loader.construct_object(node, deep=True)
        # `1:` and `on:` are a number and a truth in YAML; as a name they are what was written.
        return key if isinstance(key, str) else node.value if isinstance(node.value, str) else repr(key)


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1
