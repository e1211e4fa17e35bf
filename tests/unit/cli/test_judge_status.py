"""How judging does, for people."""

from paddock_cli import judge_status

ANSWER = {
    "queue": {"queued": 3, "running": 1, "oldest_seconds": 12.4, "lag_seconds": 2.3},
    "judges": [
        {
            "name": "safety",
            "experiment_id": "1",
            "level": "trace",
            "endpoint": "judge",
            "sample_rate": 0.25,
            "states": {"done": 40, "failed": 2, "sampled_out": 120},
        },
        {
            "name": "no_mail",
            "experiment_id": "1",
            "level": "trace",
            "endpoint": None,
            "sample_rate": 0.0,
            "states": {},
        },
        {
            "name": "old",
            "experiment_id": "1",
            "level": None,
            "endpoint": None,
            "sample_rate": None,
            "states": {"done": 1},
        },
    ],
    "failures": [
        {
            "judge": "safety",
            "subject": "tr-1",
            "trace_id": "tr-1",
            "reason": "MODEL_UNAVAILABLE: 503: \x1b[31mdown",
            "state": "failed",
            "ended_at": "2026-03-01T10:00:00+00:00",
        }
    ],
    "endpoints": [
        {
            "name": "judge",
            "budgets": [
                {
                    "scope": "endpoint",
                    "action": "reject",
                    "amount_usd": "5.0000000000",
                    "spent_usd": "3.7500000000",
                    "left_usd": "1.2500000000",
                    "until": "2026-03-02T00:00:00+00:00",
                }
            ],
        }
    ],
}


def test_the_queue_the_judges_the_budget_and_what_failed(capsys):
    judge_status.show(ANSWER)

    told = capsys.readouterr().out
    assert "3 queued, 1 running; the oldest has waited 12 s; verdicts come 2.3 s after a trace's end" in told
    rows = {line.split("│")[1].strip(): line for line in told.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in rows["safety"].split("│")[2:-1]] == [
        "judge",
        "0.25 of traces",
        "40",
        "2",
        "120",
    ]
    assert "what is asked" in rows["no_mail"]
    assert "gone" in rows["old"]
    assert "judge: 1.25 of 5 USD left (endpoint budget, reject) until 2026-03-02 00:00 UTC" in told
    assert "2026-03-01 10:00  safety  tr-1" in told
    assert "MODEL_UNAVAILABLE: 503: " in told
    assert "\x1b" not in told


def test_nothing_to_tell(capsys):
    quiet = {"queued": 0, "running": 0, "oldest_seconds": 0.0, "lag_seconds": None}
    judge_status.show({"queue": quiet, "judges": [], "failures": [], "endpoints": []})

    assert "0 queued, 0 running\n" in capsys.readouterr().out
