"""``python -m paddock_demo_model``."""
