"""Probes: what a hostile program in an agent's container would try, each with the wall that must stop it.

They run inside the container, on the standard library alone, as a zip archive that `./paddock audit` and the tests under
tests/escape copy in. A probe breaks nothing: it opens files for writing and writes nothing, connects and hangs up.
What would break something (bombs, floods) is the tests' alone.

    python3 probes.pyz --targets '{"gate": ["gate", 8080]}' metadata-service mounts

prints a JSON object a probe: `{"probe", "outcome", "evidence", "seconds"}`; see `registry.Finding`.
"""
