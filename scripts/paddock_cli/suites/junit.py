"""A suite run as JUnit XML, as GitHub's actions and GitLab read it: an attempt is a test case, and so is a criterion.

XML 1.0 has no way to write most control characters, not even escaped: they are taken out.
"""

import re
from xml.etree import ElementTree

from paddock_cli.console import plain
from paddock_cli.suites.gate import Gate
from paddock_cli.suites.pages import one_line, what_failed
from paddock_cli.suites.results import Attempt
from paddock_cli.suites.summary import link

LONGEST_OUTPUT = 8_000
"""Characters of a check's output in a test case: its end."""

# Beyond control characters, what XML 1.0 leaves out (section 2.2).
_NO_XML = re.compile("[\ufffe\uffff]")


def render(gate: Gate) -> str:
    """The document."""
    run = gate.summary.run
    root = ElementTree.Element("testsuites", name=_attribute(f"paddock suite {run.suite}"))
    _criteria(root, gate)
    for group in gate.summary.by_endpoint:
        attempts = [one for one in run.attempts if one.endpoint == group.name]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_attribute(f"{run.suite} on {group.name}"),
            timestamp=_attribute(run.created[:19]),
            tests=str(len(attempts)),
            failures=str(group.count.decided - group.count.passed),
            errors=str(group.errors),
            skipped="0",
            time=f"{group.seconds.total:.3f}",
        )
        for attempt in attempts:
            _case(suite, run.suite, attempt)
    _count(root)
    ElementTree.indent(root)
    return (
        ElementTree.tostring(root, encoding="unicode", xml_declaration=False, short_empty_elements=True)
        + "\n"
    )


def _criteria(root: ElementTree.Element, gate: Gate) -> None:
    rows = [
        *((one.name, one.state, one.found) for one in gate.criteria),
        *(("results are complete", "undecided", obstacle) for obstacle in gate.obstacles),
    ]
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name="gate",
        timestamp=_attribute(gate.summary.run.created[:19]),
        tests=str(len(rows)),
        failures=str(sum(state == "failed" for _, state, _ in rows)),
        errors=str(sum(state == "undecided" for _, state, _ in rows)),
        skipped="0",
        time="0.000",
    )
    for name, state, found in rows:
        case = ElementTree.SubElement(
            suite, "testcase", name=_attribute(name), classname="gate", time="0.000"
        )
        if state == "failed":
            ElementTree.SubElement(case, "failure", message=_attribute(found), type="gate").text = _text(
                found
            )
        elif state == "undecided":
            ElementTree.SubElement(case, "error", message=_attribute(found), type="gate").text = _text(found)


def _case(suite: ElementTree.Element, name: str, attempt: Attempt) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=_attribute(f"{attempt.task} #{attempt.repeat}"),
        classname=_attribute(f"{name}.{attempt.endpoint}"),
        time=f"{attempt.seconds:.3f}",
    )
    if attempt.state == "error":
        element = ElementTree.SubElement(
            case, "error", message=_attribute(attempt.error), type=_attribute(attempt.outcome or "error")
        )
        element.text = _text(attempt.error)
    elif not attempt.passed:
        element = ElementTree.SubElement(
            case, "failure", message=_attribute(what_failed(attempt) or "not passed"), type="check"
        )
        element.text = _text(_checks(attempt))
    said = [
        f"trace {attempt.trace_id}" if attempt.trace_id else "",
        link(attempt.trace_url),
        f"outcome {attempt.outcome}" if attempt.outcome else "",
        f"answer {attempt.message}" if attempt.message else "",
        *(
            f"judge {judge}: {verdict.value or verdict.error} {verdict.rationale}"
            for judge, verdict in sorted(attempt.judges.items())
        ),
    ]
    if any(said):
        output = ElementTree.SubElement(case, "system-out")
        output.text = _text("\n".join(one_line(line, 2000) for line in said if line))


def _checks(attempt: Attempt) -> str:
    parts = []
    if attempt.outcome and attempt.outcome != "finished":
        parts.append(f"The agent ended as {attempt.outcome}: {attempt.message}")
    for check in attempt.checks:
        if not check.passed:
            parts.append(f"--- {check.name}\n{check.error}\n{check.output[-LONGEST_OUTPUT:]}".strip())
    return "\n\n".join(parts)


def _count(root: ElementTree.Element) -> None:
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")


def _attribute(text: str) -> str:
    return _text(one_line(text, 500))


def _text(text: str) -> str:
    return _NO_XML.sub("", plain(text))
