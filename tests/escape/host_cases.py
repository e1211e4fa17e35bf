"""What is tried where no program in the container can see how it ended: the tests look from outside.

Each entry is for the table of docs/security.md, as a `Probe` of paddock_probes is; the test of that name does the work.
"""

from dataclasses import dataclass

from paddock_probes.registry import BLOCKED, OPEN


@dataclass(frozen=True)
class Case:
    """A way out that is judged from outside; the fields are those of a probe."""

    name: str
    attempt: str
    wall: str
    marks: tuple[str, ...]
    stands_open: str = ""

    @property
    def expected(self) -> str:
        """The outcome on a stack as it should be."""
        return OPEN if self.stands_open else BLOCKED


CASES = {
    case.name: case
    for case in (
        Case(
            "second-agent",
            "to disturb another agent of the stack: its steps, its spans, its result",
            "limits on each container; a process, network and mount namespace of its own",
            ("ASI07", "ASI08", "ASI10"),
        ),
        Case(
            "log-flood",
            "to fill the disk by what the container prints",
            "logs rotate: `max-size`, `max-file`",
            ("LLM10", "ASI08"),
        ),
        Case(
            "key-elsewhere",
            "a run's key from anywhere but the gate: MLflow's published port, another service",
            "the gate shows a secret of its own with each call, without which MLflow takes no run's key",
            ("ASI03",),
        ),
        Case(
            "planted-files",
            "files that a repository brings along and a tool might obey: `.env`, `.openhands/hooks.json`, plugins, MCP "
            "configuration, git hooks",
            "the runner reads no settings, hooks, plugins or MCP servers from the workspace",
            ("ASI01", "ASI04", "ASI05", "LLM01"),
        ),
        Case(
            "planted-git-hooks",
            "git hooks, editor tasks and build files left in the workspace, for the user's own tools to run later",
            "none of ours: the workspace is yours, and so is what you run there",
            ("ASI05", "ASI09"),
            "look at what a run has changed (git diff, and .git/hooks and .git/config, which it leaves out) before "
            "you run anything there, or let agents work on a clone",
        ),
        Case(
            "terminal-escapes",
            "control sequences in what the agent says, to act on the user's terminal: title, clipboard, other text",
            "the command line and the runner leave control characters out of all that they show",
            ("LLM05", "ASI09"),
        ),
        Case(
            "forged-result",
            "a result of the agent's own making, written into the runner's output: another run's trace, a path, a line "
            "without end",
            "the runner's tools can't open what it has open; the command line checks a trace's id by its form, a line by "
            "its length",
            ("LLM05", "ASI09"),
        ),
        Case(
            "links-in-state",
            "links left in the run's state, for the command line to follow when the run is resumed",
            "the command line writes nothing there, and gives it to the agent's user by descriptors, past no link",
            ("ASI06",),
        ),
        Case(
            "links-in-workspace",
            "links out of the workspace to files of the host, for the runner to read or write",
            "the container's own root is what a link leads to",
            ("LLM02",),
        ),
        Case(
            "forged-experiment",
            "spans for another experiment than the run's",
            "the collector says by which key they came; a run's spans are its experiment's, all others are refused",
            ("LLM04", "ASI06"),
        ),
        Case(
            "forged-trace",
            "spans added to another run's trace, whose id the agent has got to know",
            "a trace belongs to the key that began it (agents that `docker compose run` starts have none, and could)",
            ("LLM04", "ASI06"),
        ),
    )
}
