"""The gateway's declared configuration: read, checked, compared with what a server has, applied, and written back.

    source      YAML, with the line of every value
    model       what the file may say; the JSON Schema comes from here
    validation  the file against itself, the settings and the secrets: every error at once
    desired     what a valid file means here and now: providers without a key are not there
    state       what the server has
    plan        the difference, as data
    apply       the plan, written in an order that a second run can finish
    export      what the server has, as a file

Nothing here imports mlflow: the command line reads a file in its own small environment.
"""
