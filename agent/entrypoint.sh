#!/bin/bash
# Starts the agent runner, or with `exec COMMAND …` any other program in the same environment. `plain COMMAND …` starts
# one as the agent's tools do, without the runner's Python, without keys and spans, and needs no stack.
#   /run/handover/experiment_id   written by the stack's set-up: the MLflow experiment that the traces go to
#   LLM_API_KEY                   a key that the stack made for this run, if any: calls and spans are the run's by it
# Exit 78 (EX_CONFIG): the stack was not set up.
set -euo pipefail

fail() {
	printf 'paddock-agent: %s\n' "$1" >&2
	exit 78
}

# The user's umask, where the one who starts the container hands it over (octal, e.g. 0002).
if [ -n "${PADDOCK_AGENT_UMASK:-}" ]; then
	[[ "$PADDOCK_AGENT_UMASK" =~ ^0?[0-7]{3}$ ]] ||
		fail "expected an octal umask such as 022 in PADDOCK_AGENT_UMASK, found '$PADDOCK_AGENT_UMASK'; correct or unset it."
	umask "$PADDOCK_AGENT_UMASK"
fi

uid=$(id -u)
gid=$(id -g)
# git, ssh, whoami and Python's getpass want a name for the uid that the container happens to run as. The root is
# read-only, so the name stands in libnss-extrausers' files on a tmpfs. It ignores entries with a gid below 500 other
# than 100 (`users`), such as macOS' 20; the process keeps its own gid all the same.
if ! getent passwd "$uid" >/dev/null; then
	entry_gid=$gid
	[ "$gid" -ge 500 ] || entry_gid=100
	(
		umask 022
		printf 'agent:x:%s:%s:agent:%s:/bin/bash\n' "$uid" "$entry_gid" "$HOME" >/var/lib/extrausers/passwd
		getent group "$gid" >/dev/null || printf 'agent:x:%s:\n' "$gid" >/var/lib/extrausers/group
	) 2>/dev/null || printf 'paddock-agent: uid %s gets no name: /var/lib/extrausers is not writable; mount a tmpfs there.\n' "$uid" >&2
fi
# /tmp serves where HOME was left on the read-only root.
if [ ! -w "$HOME" ]; then
	HOME=$(mktemp -d /tmp/home.XXXXXX 2>/dev/null) ||
		fail "expected a writable HOME or /tmp, found neither; mount a tmpfs on /home/agent and on /tmp."
	export HOME
fi
export USER="${USER:-$(id -un 2>/dev/null || echo agent)}"
export LOGNAME="${LOGNAME:-$USER}"

if [ "${1:-}" = plain ]; then
	shift
	[ $# -gt 0 ] || fail "expected a command after 'plain', found none"
	exec "$@"
fi

# Clients insist on some key. This one means nothing: the gate drops it and adds the stack's identity.
export LLM_API_KEY="${LLM_API_KEY:-added-by-gate}"

# A checkout of Paddock that is in use holds the keys of its settings file, and programs that run outside of the fence.
if [ -e /workspace/scripts/paddock_cli ] && { [ -e /workspace/.env ] || [ -e /workspace/.paddock ]; }; then
	fail "expected a workspace apart from Paddock's own folder, found that folder with its keys; mount another one: WORKSPACE=DIR"
fi

# The experiment's id is looked up by the set-up and handed over in a file; it is never assumed.
handover=/run/handover/experiment_id
if [ -z "${OTEL_EXPORTER_OTLP_HEADERS:-}" ]; then
	[ -s "$handover" ] ||
		fail "expected the experiment's id in $handover, found none: the stack is not set up. Run: docker compose up -d --wait"
	OTEL_EXPORTER_OTLP_HEADERS="x-mlflow-experiment-id=$(tr -d '[:space:]' <"$handover")"
	# Spans that come with a key are its run's; the collector passes on its hash. Nobody else's key leaves this way.
	if [[ "$LLM_API_KEY" == pdk_* ]]; then
		OTEL_EXPORTER_OTLP_HEADERS+=",authorization=Bearer%20$LLM_API_KEY"
	fi
	export OTEL_EXPORTER_OTLP_HEADERS
fi

if [ "${1:-}" = exec ]; then
	shift
	[ $# -gt 0 ] || fail "expected a command after 'exec', found none; for a shell: exec bash"
	# Programs started this way find openhands-sdk under `python`.
	export PATH="/opt/venv/bin:$PATH"
	# A way out is opened with the key that such a program was given; the runner opens its own.
	[ -z "${PADDOCK_EGRESS:-}" ] || set -- /opt/venv/bin/python -P -m paddock_agent.egress "$@"
	exec "$@"
fi
exec paddock-agent "$@"
