"""Running sessions: the worker takes jobs and advances them, the sweep finds what was forgotten."""
