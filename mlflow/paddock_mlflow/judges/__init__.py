"""Finished traces are judged: which judges there are, what each has to look at, and what it said.

| module | what it holds |
| --- | --- |
| `registry` | the judges: MLflow's registered scorers with their sampling rate and filter |
"""
