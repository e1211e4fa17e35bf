"""Paddock's demo model: an OpenAI-compatible server that stands in for a model provider."""
