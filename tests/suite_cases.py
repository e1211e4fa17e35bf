"""Suites from their file to report and gate, on both stacks: known passes, known failures, and what is neither.

A folder's conftest gives a session fixture `product`, a `Product`; a test class takes the cases by inheriting `Suites`.
"""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cases import Product, eventually, lines_of
from pages import SECONDS, logged_in
from playwright.sync_api import expect

SUITE = """\
version: 1
name: known
description: What comes of each task is known.
defaults: {limits: {max_iterations: 10, timeout: 60, budget_usd: 0.25, max_output_tokens: 512}}
tasks:
  - id: passes
    prompt: There is nothing to do.
    workspace: {folder: project}
    setup: echo made >setup.txt
    checks:
      - name: hidden files
        run: cat hidden.txt && test -e setup.txt && test ! -s /run/handover/experiment_id
        files: hidden
      - {name: no change, diff_only: ["src/**"]}
      - {name: the source, file: src/a.txt, matches: "^one$"}
      - {name: nothing left, file: hidden.txt, absent: true}
    tags: [good]
  - id: fails
    prompt: There is nothing to do here either.
    workspace: {archive: project.tar.gz}
    checks:
      - {name: hangs, run: "sleep 1000 & sleep 1000", timeout: 1}
      - {name: never, run: "echo this is why; false"}
      - {name: still made, run: cat src/a.txt}
  - id: broken
    prompt: Nobody gets to see this.
    workspace: {git: "file:///nonexistent/repository.git", commit: 0123456789abcdef0123456789abcdef01234567}
"""
COUNTED = """\
version: 1
name: counted
defaults: {limits: {timeout: 120, budget_usd: 0.25, max_output_tokens: 512}}
tasks:
  - {id: one, prompt: Count., workspace: {folder: project}, checks: [{name: each once, run: seq 5 | cmp - steps.log}]}
  - {id: two, prompt: Count too., workspace: {folder: project}, checks: [{name: each once, run: seq 5 | cmp - steps.log}]}
"""
STEPS, CALLS = 5, 6


class Suites:
    """The cases; each test gets the running stack as `product`."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, product: Product, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with suites and what they name."""
        made = tmp_path_factory.mktemp("suites")
        (made / "project" / "src").mkdir(parents=True)
        (made / "project" / "src" / "a.txt").write_text("one\n")
        (made / "hidden").mkdir()
        (made / "hidden" / "hidden.txt").write_text("no agent has seen it\n")
        shutil.make_archive(str(made / "project"), "gztar", made / "project")
        (made / "known.yaml").write_text(SUITE)
        (made / "counted.yaml").write_text(COUNTED)
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def known(cls, product: Product, folder: Path) -> dict[str, Any]:
        """The results of a pass and a failure."""
        answer = product.paddock(
            *["suite", "run", str(folder / "known.yaml"), "--endpoint", product.scenario("finish")],
            *["--task", "passes", "--task", "fails", "--label", "known", "--budget", "0.50"],
            *["--judge-timeout", "0", "--json"],
        )
        assert answer.code == 0, answer.err
        return answer.document

    def test_passes_and_failures_are_told_apart(self, product: Product, known: dict[str, Any]) -> None:
        passes, fails = known["attempts"]
        assert (passes["task"], passes["state"], passes["passed"]) == ("passes", "done", True)
        assert [check["passed"] for check in passes["checks"]] == [True] * 4, passes["checks"]
        assert passes["checks"][0]["output"] == "no agent has seen it"
        assert (fails["task"], fails["state"], fails["passed"]) == ("fails", "done", False)
        hangs, never, still_made = fails["checks"]
        assert hangs["error"] == "no end within 1 s, so it was ended"
        assert never["output"] == "this is why\n(exit code 1)"
        assert still_made["passed"]
        assert known["complete"]

        report = product.paddock("suite", "report", known["id"], "--json")
        assert report.code == 0, report.err
        for criterion, code in (("pass_rate=0.4", 0), ("pass_rate=0.9", 42)):
            gate = product.paddock("suite", "gate", "known", "--min", criterion)
            assert gate.code == code, gate.out + gate.err

    def test_what_checks_say_stands_on_the_trace(self, product: Product, known: dict[str, Any]) -> None:
        for attempt in known["attempts"]:
            told = {
                one["assessment_name"]: one
                for one in product.trace(attempt["trace_id"])["assessments"]
                if one["assessment_name"].startswith("check/")
            }
            assert told.keys() == {f"check/{check['name']}" for check in attempt["checks"]}
            assert {one["source"]["source_type"] for one in told.values()} == {"CODE"}
        assert told["check/never"]["feedback"]["value"] is False
        assert told["check/never"]["rationale"].startswith("this is why")
        assert "no end within 1 s" in told["check/hangs"]["feedback"]["error"]["error_message"]

    def test_mlflow_has_a_run_for_each_attempt_in_that_of_the_suite(
        self, product: Product, known: dict[str, Any]
    ) -> None:
        parent = product.api("GET", "/api/2.0/mlflow/runs/get", params={"run_id": known["mlflow_run_id"]})[
            "run"
        ]
        assert parent["info"]["status"] == "FINISHED"
        tags = {tag["key"]: tag["value"] for tag in parent["data"]["tags"]}
        assert (tags["mlflow.runType"], tags["paddock.suite_label"]) == ("genai_evaluate", "known")
        metrics = {metric["key"]: metric["value"] for metric in parent["data"]["metrics"]}
        assert (metrics["pass_rate"], metrics["attempts"], metrics["attempts_in_error"]) == (0.5, 2, 0)
        (used,) = parent["inputs"]["dataset_inputs"]
        assert used["dataset"]["name"] == "suite known"

        experiment = parent["info"]["experiment_id"]
        for attempt in known["attempts"]:
            query = {"run_id": attempt["mlflow_run_id"]}
            run = product.api("GET", "/api/2.0/mlflow/runs/get", params=query)["run"]
            tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
            assert tags["mlflow.parentRunId"] == known["mlflow_run_id"]
            files = product.api("GET", "/api/2.0/mlflow/artifacts/list", params=query)["files"]
            names = {file["path"] for file in files}
            assert names == {"attempt.log", "changes.patch", "checks.json", "events.jsonl", "results.json"}
            assert self._traces_of(product, experiment, attempt["mlflow_run_id"]) == {attempt["trace_id"]}
        everyone = {attempt["trace_id"] for attempt in known["attempts"]}
        assert self._traces_of(product, experiment, known["mlflow_run_id"]) == everyone

    def test_the_suite_is_an_evaluation_dataset(self, product: Product, known: dict[str, Any]) -> None:
        body = {"experiment_ids": [], "filter_string": "name = 'suite known'"}
        (dataset,) = product.api("POST", "/api/3.0/mlflow/datasets/search", json=body)["datasets"]
        path = f"/api/3.0/mlflow/datasets/{dataset['dataset_id']}/records"
        records = json.loads(product.api("GET", path)["records"])
        assert {record["inputs"]["task"] for record in records} == {"passes", "fails", "broken"}
        assert {len(record["expectations"]["checks"]) for record in records} == {4, 3, 0}

    @pytest.mark.requires_browser
    def test_the_evaluation_opens_in_mlflows_pages(
        self, product: Product, known: dict[str, Any], chromium_path: str
    ) -> None:
        access = product.paddock("password", "--json").document
        experiment = known["mlflow_url"].split("/experiments/")[1].split("/")[0]
        with logged_in(chromium_path, access["password"]) as page:
            page.goto(f"{access['url']}/#/experiments/{experiment}/evaluation-runs")
            row = page.locator("[role=row]", has=page.get_by_text(known["id"], exact=True))
            expect(row).to_contain_text("suite known", timeout=60 * SECONDS)
            page.goto(f"{known['mlflow_url']}/traces")
            for task in ("There is nothing to do.", "There is nothing to do here either."):
                expect(page.get_by_text(task, exact=True)).to_be_visible(timeout=60 * SECONDS)
            # The checks are columns, as judges are.
            for column in ("hangs", "hidden files", "2 of 2"):
                expect(page.locator("body")).to_contain_text(column)

    def test_an_attempt_that_could_not_be_made_is_no_failure_of_the_model(
        self, product: Product, folder: Path
    ) -> None:
        answer = product.paddock(
            *["suite", "run", str(folder / "known.yaml"), "--endpoint", product.scenario("finish")],
            *["--task", "broken", "--label", "broken", "--json"],
        )

        assert answer.code == 41, answer.err
        (broken,) = answer.document["attempts"]
        assert (broken["state"], broken["passed"], broken["cost_usd"]) == ("error", False, 0)
        assert "expected to clone file:///nonexistent/repository.git" in broken["error"]
        gate = product.paddock("suite", "gate", "broken", "--min", "pass_rate=0.1")
        assert gate.code == 43, gate.out + gate.err

    def test_a_killed_runner_loses_nothing_and_pays_nothing_twice(
        self, product: Product, folder: Path
    ) -> None:
        state = Path(product.env["PADDOCK_STATE_DIR"]) / "suites"
        call = product.start(
            *["suite", "run", str(folder / "counted.yaml"), "--endpoint", product.scenario("counted")],
            *["--parallel", "2", "--judge-timeout", "0", "--json"],
        )

        def steps() -> list[Path]:
            return [path for path in state.glob("counted-*/attempts/*/work/steps.log") if lines_of(path)]

        (begun, *_) = eventually(steps, 120, "a step")
        call.send_signal(signal.SIGKILL)
        call.communicate(timeout=30)
        suite_run = begun.parents[3].name
        before = {path.name for path in (state / suite_run / "attempts").iterdir()}
        answer = product.paddock("suite", "run", "--resume", suite_run, "--judge-timeout", "0", "--json")

        assert answer.code == 0, answer.err
        attempts = answer.document["attempts"]
        # Every step once, in order: the check says so.
        assert [attempt["passed"] for attempt in attempts] == [True, True], attempts
        assert [attempt["steps"] for attempt in attempts] == [STEPS + 1] * 2
        assert {attempt["run_id"] for attempt in attempts} == before
        rows = product.paddock("costs", "--by", "run", "--since", "1h", "--json").document["groups"]
        calls = {row["group"]: row["calls"] for row in rows}
        assert [calls[attempt["run_id"]] for attempt in attempts] == [CALLS] * 2
        self._require_nothing_left(product, attempts)

    def test_a_run_ends_by_its_checks(self, product: Product, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one\n")
        answer = product.paddock(
            *[
                "run",
                "Do nothing.",
                "--endpoint",
                product.scenario("finish"),
                "--judge-timeout",
                "0",
                "--json",
            ],
            *["--check", "grep one a.txt; echo x >a.txt", "--check", "exit 3"],
            cwd=tmp_path,
        )

        assert answer.code == 39, answer.err
        assert answer.document["exit_code"] == 39
        good, bad = answer.document["checks"]
        assert (good["passed"], good["output"]) == (True, "one")
        assert not bad["passed"]
        # Checks get a copy.
        assert (tmp_path / "a.txt").read_text() == "one\n"
        told = product.trace(answer.document["run"]["trace_id"])["assessments"]
        values = {one["assessment_name"]: one.get("feedback", {}).get("value") for one in told}
        assert values["check/grep one a.txt echo x a.txt"] is True
        assert values["check/exit 3"] is False

    @staticmethod
    def _traces_of(product: Product, experiment: str, run_id: str) -> set[str]:
        body = {
            "locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}],
            "filter": f"attributes.run_id = '{run_id}'",
        }
        found = product.api("POST", "/api/3.0/mlflow/traces/search", json=body).get("traces", [])
        return {one["trace_id"] for one in found}

    @staticmethod
    def _require_nothing_left(product: Product, attempts: list[dict[str, Any]]) -> None:
        """No container, no process, no key that still opens something, no workspace."""
        keys = product.paddock("keys", "list", "--runs", "--json").document["keys"]
        runs = {attempt["run_id"] for attempt in attempts}
        assert {key["state"] for key in keys if key["run_id"] in runs} == {"revoked"}
        if product.kind == "compose":
            for run_id in runs:
                listed = ["docker", "ps", "--all", "--quiet", "--filter", f"label=paddock.run_id={run_id}"]
                assert not subprocess.run(listed, capture_output=True, text=True, check=True).stdout
        state = Path(product.env["PADDOCK_STATE_DIR"])
        assert not list(state.glob("suites/counted-*/attempts/*/work"))
        assert not [path for run_id in runs for path in (state / "runs").glob(f"{run_id}.agent.out")]
