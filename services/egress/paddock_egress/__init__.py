"""The way out for agents: a proxy that lets through what was allowed, and adds credentials that no agent holds."""
