"""YAML with the place of every value, so that an error can say where it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paddock_egress.config.errors import InvalidConfiguration, Problem

Steps = tuple[str | int, ...]
"""The way to a value from the top: keys and positions."""

_REMEDY = "name a file that is there and that this user may read (EGRESS_CONFIG in .env, or the argument)"


@dataclass
class Source:
    """A file's content as plain values, and line and column of each, from 1."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Steps, tuple[int, int]] = field(default_factory=dict)
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


def read(path: Path) -> Source:
    """The content of a file.

    Raises:
        InvalidConfiguration: it can't be read, is no YAML, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidConfiguration(
            str(path), [Problem(0, 0, "", "a readable configuration file", reason, _REMEDY)]
        ) from None
    return parse(text, str(path))


def parse(text: str, file: str) -> Source:
    """The content of a text; `file` is the name that errors give it.

    Raises:
        InvalidConfiguration: it is no YAML, or no mapping.
    """
    source = Source(file)
    try:
        loader = yaml.SafeLoader(text)
        _refuse_aliases(text, file)
        try:
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                found = f"a {root.id}" if root is not None else "nothing"
                remedy = "begin with `version: 1`; the shipped services/egress/egress.yaml shows the form"
                raise InvalidConfiguration(file, [Problem(1, 1, "", "a mapping", found, remedy)])
            source.data = _value(loader, source, root, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = " ".join(part for part in (error.context, error.problem) if part)
        remedy = "mend the indentation, quotes or brackets there"
        raise InvalidConfiguration(file, [Problem(line, column, "", "valid YAML", what, remedy)]) from None
    except yaml.YAMLError as error:
        remedy = "save the file as plain UTF-8 text"
        raise InvalidConfiguration(file, [Problem(0, 0, "", "valid YAML", str(error), remedy)]) from None
    return source


def _refuse_aliases(text: str, file: str) -> None:
    """Anchors would be worth little in so short a file, and one that contains itself never ends."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            raise InvalidConfiguration(
                file, [Problem(line, column, "", "a value", f"the alias *{event.anchor}", "write it out")]
            )


def _value(loader: yaml.SafeLoader, source: Source, node: yaml.Node, steps: Steps) -> Any:
    source.places.setdefault(steps, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, source, item, (*steps, index)) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    result: dict[str, Any] = {}
    for key, item in node.value:
        # `on:` is a truth in YAML; as a name it is what was written.
        name = key.value if isinstance(key, yaml.ScalarNode) else repr(key.value)
        here = (*steps, name)
        if name in result:
            line, _ = source.places[here]
            source.places[here] = (key.start_mark.line + 1, key.start_mark.column + 1)
            source.problems.append(
                source.problem(here, "each name once", f"it a second time, after line {line}", "rename one")
            )
        source.places[here] = (key.start_mark.line + 1, key.start_mark.column + 1)
        result[name] = _value(loader, source, item, here)
    return result
