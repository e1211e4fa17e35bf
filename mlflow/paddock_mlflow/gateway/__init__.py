"""The gateway's invocation routes: who calls, what a call may cost, which provider answers, and what it came to."""
