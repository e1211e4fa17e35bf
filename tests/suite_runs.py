"""Suite runs as documents, for what reads them."""

from typing import Any

from paddock_cli.suites.results import SuiteRun


def attempt(task: str = "fix", endpoint: str = "coder", repeat: int = 1, **more: Any) -> dict[str, Any]:
    """An attempt that passed, for 2 cents, unless `more` says otherwise."""
    passed = more.get("passed", True)
    return {
        "task": task,
        "endpoint": endpoint,
        "repeat": repeat,
        "state": "done",
        "passed": passed,
        "outcome": "finished",
        "trace_id": f"tr-{task}-{endpoint}-{repeat}",
        "trace_url": f"http://127.0.0.1:5000/#/experiments/1/traces?traceId=tr-{task}-{endpoint}-{repeat}",
        "model": "openai/model",
        "checks": [
            {"name": "tests pass", "passed": passed, "output": "" if passed else "E\nFAILED (failures=1)\n"}
        ],
        "cost_usd": 0.02,
        "tokens": {"input": 1000, "cached_input": 400, "output": 100},
        "seconds": 10.0,
        "steps": 5,
        **more,
    }


def attempts(results: dict[str, str], endpoint: str = "coder") -> list[dict[str, Any]]:
    """Attempts of each task, a letter for each: `+` passed, `-` did not, `e` is in state error."""
    return [
        attempt(
            task,
            endpoint,
            number,
            passed=letter == "+",
            state="error" if letter == "e" else "done",
            error="the repository can't be cloned" if letter == "e" else "",
        )
        for task, letters in results.items()
        for number, letter in enumerate(letters, 1)
    ]


def suite_run_of(results: dict[str, str], endpoint: str = "coder", **more: Any) -> SuiteRun:
    """A suite run of one endpoint, by the letters of its attempts."""
    return suite_run(attempts(results, endpoint), **more)


def suite_run(made: list[dict[str, Any]], **more: Any) -> SuiteRun:
    """A complete suite run of these attempts."""
    document = {
        "id": "coding-20261125-200000-aaaa",
        "suite": "coding",
        "suite_sha256": "0" * 64,
        "created": "2026-11-25T20:00:00+00:00",
        "stack": "embedded",
        "endpoints": list(dict.fromkeys(one["endpoint"] for one in made)),
        "repeat": max((one["repeat"] for one in made), default=1),
        "attempts": made,
        **more,
    }
    return SuiteRun.model_validate(document)
