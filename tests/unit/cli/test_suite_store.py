"""Suite runs are found again: by id, label and path, in this checkout's state and in MLflow."""

import json

import httpx
import pytest

from paddock_cli.errors import NotFound, ServerFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.stack import Connection
from paddock_cli.suites import store
from paddock_cli.suites.results import SuiteRun


def made(identity, created, label=None):
    return SuiteRun(
        id=identity,
        suite="small",
        suite_sha256="0" * 64,
        label=label,
        created=created,
        stack="embedded",
        endpoints=("coder",),
        repeat=1,
    )


OLD = made("small-20260101-000000-aaaa", "2026-01-01T00:00:00+00:00", "main")
NEW = made("small-20260102-000000-bbbb", "2026-01-02T00:00:00+00:00", "main")
OTHER = made("small-20260103-000000-cccc", "2026-01-03T00:00:00+00:00")


@pytest.fixture
def kept(where):
    """Three suite runs in the state."""
    for run in (NEW, OLD, OTHER):
        store.folder(where, run.id).mkdir(parents=True)
        store.write(where, run)
    return where


def server(runs):
    """An MLflow with these runs: tag → document of its results."""

    def answer(request):
        path = request.url.path
        if path.endswith("experiments/get-by-name"):
            return httpx.Response(200, json={"experiment": {"experiment_id": "7"}})
        if path.endswith("runs/search"):
            wanted = json.loads(request.content)["filter"]
            found = [name for name in runs if wanted.endswith(f"'{name}'")]
            info = [
                {
                    "info": {
                        "run_id": name,
                        "experiment_id": "7",
                        "artifact_uri": f"mlflow-artifacts:/7/{name}/artifacts",
                    }
                }
                for name in found
            ]
            return httpx.Response(200, json={"runs": info})
        name = path.split("/")[-3]
        assert path == f"/api/2.0/mlflow-artifacts/artifacts/7/{name}/artifacts/results.json"
        return httpx.Response(200, content=runs[name]) if runs[name] else httpx.Response(404, json={})

    return Mlflow(Connection("http://mlflow", "admin", "pw"), httpx.MockTransport(answer))


def test_by_id_label_latest_and_path(kept):
    assert store.find(kept, None, OLD.id) == OLD
    assert store.find(kept, None, "main") == NEW
    assert store.find(kept, None, "latest") == OTHER
    place = store.folder(kept, OLD.id)
    assert store.find(kept, None, str(place)) == OLD
    assert store.find(kept, None, str(place / "results.json")) == OLD
    assert [run.id for run in store.local(kept)] == [OTHER.id, NEW.id, OLD.id]


@pytest.mark.parametrize("reference", ["none", "small-20260101-000000-ffff", "x' OR '1", "../../etc/passwd"])
def test_what_is_not_there(kept, reference):
    with pytest.raises(NotFound, match="suite run"):
        store.find(kept, server({}), reference)


def test_nothing_at_all(where):
    with pytest.raises(NotFound, match="suite run NAME"):
        store.find(where, None, "latest")


def test_another_machines_run_is_read_from_mlflow(kept):
    newest = made("small-20260105-000000-dddd", "2026-01-05T00:00:00+00:00", "main")
    text = newest.model_dump_json().encode()
    assert store.find(kept, server({"main": text}), "main") == newest
    assert store.find(kept, server({newest.id: text}), newest.id) == newest
    # One that was cut off before it had results hides nothing.
    assert store.find(kept, server({"main": None}), "main") == NEW


def test_a_document_that_is_none_is_told(kept, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"format": 2}')
    with pytest.raises(ServerFailed, match="format"):
        store.find(kept, None, str(bad))
    (store.folder(kept, OLD.id) / "results.json").write_text("{")
    assert len(store.local(kept)) == 2
