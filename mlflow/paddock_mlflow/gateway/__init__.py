"""The request path of model calls: identify, admit, attempt, settle, in front of MLflow's own handlers.

`middleware` is the way in, `calls` the way of a call. `lean` speaks to providers of OpenAI's and Anthropic's protocols,
`provider_calls` to all others by MLflow's own classes; `endpoints` keeps what they are made of.
"""
