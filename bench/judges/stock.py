"""Stock evaluation by a client: `python stock.py EXPERIMENT`. Prints verdicts, failures and seconds as JSON.

Imports and the search for traces are not counted.
"""

import json
import sys
import time

import mlflow
from mlflow.genai.scorers import Completeness, RelevanceToQuery, Safety

experiment = sys.argv[1]
mlflow.set_experiment(experiment_id=experiment)
traces = mlflow.search_traces(locations=[experiment], return_type="list", max_results=1000)
scorers = [scorer(model="gateway:/judge") for scorer in (RelevanceToQuery, Safety, Completeness)]
frame = mlflow.search_traces(locations=[experiment], max_results=1000)
began = time.monotonic()
mlflow.genai.evaluate(data=frame, scorers=scorers)
seconds = time.monotonic() - began
ids = [trace.info.trace_id for trace in traces]
found = mlflow.search_traces(locations=[experiment], return_type="list", max_results=1000)
said = [a for one in found if one.info.trace_id in ids for a in one.info.assessments]
print(
    json.dumps(
        {
            "verdicts": sum(a.error is None for a in said),
            "failed": sum(a.error is not None for a in said),
            "seconds": seconds,
        }
    )
)
