"""What was judged by a release with one row a trace stays judged."""

import json
import time
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from judging_made import Bench

BOTH = ["sqlite_url", "postgres_url"]


@pytest.fixture(scope="module", params=BOTH)
def bench(request: pytest.FixtureRequest, server: Any) -> Bench:
    return Bench(request.getfixturevalue(request.param))


def alembic(bench: Bench) -> Config:
    from paddock_mlflow.migrate import MIGRATIONS

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = bench.url
    return config


def test_what_was_judged_is_not_judged_again(bench: Bench) -> None:
    from mlflow.entities import AssessmentError, AssessmentSource, Feedback
    from mlflow.genai.scorers import Correctness, RelevanceToQuery, Safety
    from sqlalchemy import text

    from paddock_mlflow.database import now
    from paddock_mlflow.judges.admission import Admission

    experiment = bench.experiment()
    bench.register(experiment, RelevanceToQuery(model="gateway:/judge"))
    bench.register(experiment, Safety(model="gateway:/judge"))
    bench.register(experiment, Correctness(model="gateway:/judge"), rate=0)
    judged, passed_over, cut_off, new = (bench.trace(experiment) for _ in range(4))
    source = AssessmentSource("LLM_JUDGE", "gateway:/judge")
    for name, error in (("relevance_to_query", None), ("safety", AssessmentError("SCORER_ERROR", "no"))):
        value = None if error else "yes"
        made = Feedback(name=name, trace_id=judged, source=source, value=value, error=error)
        bench.store.create_assessment(made)
    command.downgrade(alembic(bench), "0007")
    with bench.engine.begin() as connection:
        job = text(
            "INSERT INTO jobs (id, creation_time, job_name, params, status, retry_count, last_update_time, workspace)"
            " VALUES (:id, 1, 'paddock_judge_trace', '{}', :status, 0, 1, 'default')"
        )
        row = text(
            "INSERT INTO paddock_judged_traces (trace_id, experiment_id, taken_at, job_id, note)"
            " VALUES (:trace, :experiment, :at, :job, :note)"
        )
        connection.execute(job, [{"id": "done", "status": 2}, {"id": "cut-off", "status": 1}])
        given = {"experiment": experiment, "at": now()}
        connection.execute(row, given | {"trace": judged, "job": "done", "note": ""})
        connection.execute(row, given | {"trace": passed_over, "job": None, "note": "sampled out"})
        connection.execute(row, given | {"trace": cut_off, "job": "cut-off", "note": ""})

    command.upgrade(alembic(bench), "head")

    assert bench.states(experiment) == {
        ("relevance_to_query", judged): "done",
        ("safety", judged): "failed",
        ("relevance_to_query", passed_over): "filtered",
        ("safety", passed_over): "filtered",
    }
    rows = bench.rows(experiment)
    assert "SCORER_ERROR" in json.loads(rows["safety", judged]["reason"])["error_code"]
    assert rows["safety", passed_over]["reason"] == "sampled out"
    assert abs(rows["safety", judged]["subject_ended_at"].timestamp() - time.time()) < 60
    with bench.engine.connect() as connection:
        states = connection.execute(text("SELECT id, status FROM jobs WHERE job_name LIKE 'paddock%'"))
        assert dict(tuple(one) for one in states) == {"done": 2, "cut-off": 5}

    # The ids are those that the queue makes: what is there is not admitted again, and the rest is.
    assert Admission(bench.store, bench.url, 300).tick() == 4
    assert {key for key, state in bench.states(experiment).items() if state == "queued"} == {
        (judge, trace) for judge in ("relevance_to_query", "safety") for trace in (cut_off, new)
    }
