"""The request path of model calls: identify, admit, attempt, settle, in front of MLflow's own handlers.

`middleware` is the way in. What it serves itself is in `lean`; the rest falls through to MLflow's handlers, admitted
before and settled after (`fallthrough`).
"""
