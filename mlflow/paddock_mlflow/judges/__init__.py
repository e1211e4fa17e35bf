"""Finished traces are judged: which judges there are, what each has to look at, and what it said.

| module | what it holds |
| --- | --- |
| `registry` | the judges: MLflow's registered scorers with their sampling rate and filter |
| `admission` | which of them look at what has ended, and why the others don't |
| `queue`, `states` | the queue, one row for each judge and trace or session, in the database |
| `asks` | what people want judged now |
| `work` | takes what is due, reads traces, lets judges look |
| `calls` | what judges ask the gateway: bounded tries, rate limits, budgets, cost |
| `verdicts` | what they said, checked and written once |
| `traces` | which traces may be judged, how large they are, what is expected of them |
| `service` | all of it, as the job process runs it |
| `run_judges` | *Run judges* of MLflow's UI |
"""
