"""A report as JSON: every figure, every attempt that is worth a look, nothing cut."""

import json
from dataclasses import asdict

from paddock_cli.suites.comparison import Comparison
from paddock_cli.suites.summary import Summary


def render(summary: Summary, comparison: Comparison | None) -> str:
    """The document of --json. The attempts themselves stand in the suite run's results.json."""
    run = summary.run
    document = {
        "suite_run": run.model_dump(mode="json", exclude={"attempts"}),
        "all": summary.all.as_json(),
        "by_endpoint": [group.as_json() for group in summary.by_endpoint],
        "by_task": [group.as_json() for group in summary.by_task],
        "endpoints_compared": [asdict(one) for one in summary.versus],
        "comparison": comparison.as_json() if comparison else None,
        "worst": [one.model_dump(mode="json") for one in summary.worst],
        "errors": [one.model_dump(mode="json") for one in summary.errors],
    }
    return json.dumps(document, indent=2) + "\n"
