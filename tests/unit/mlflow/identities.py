"""The secrets of the tests' server, and who they stand for."""

ADMIN = ("admin", "a-password-of-the-tests")
AGENT_KEY = "pdk-key-of-the-tests"
COLLECTOR_KEY = "collector-of-the-tests"
INTERNAL_TOKEN = "token-of-the-tests"
GATE_SECRET = "gate-secret-of-the-tests"
TLS_SECRET = "tls-secret-of-the-tests"
EGRESS_TOKEN = "egress-token-of-the-tests"

SECRETS = {
    "admin_password": ADMIN[1],
    "agent_key": AGENT_KEY,
    "collector_key": COLLECTOR_KEY,
    "internal_token": INTERNAL_TOKEN,
    "gate_secret": GATE_SECRET,
    "tls_secret": TLS_SECRET,
    "egress_token": EGRESS_TOKEN,
    "flask_secret_key": "flask-key-of-the-tests",
    "kek_passphrase": "passphrase-of-the-tests",
}
