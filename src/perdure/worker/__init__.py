"""Background work: the worker advances sessions, the sweep recovers lost ones, schedules fire."""
