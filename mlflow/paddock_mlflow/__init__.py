"""Paddock's plugin for the unforked MLflow server.

`python -m paddock_mlflow --help` lists what it does: prepare the stores, serve, run jobs, apply the configuration.
Every module that closes a gap of MLflow names the gap and its upstream reference in its docstring.
"""
