"""All metrics of a process: what they are called, what they count, and their labels."""

from __future__ import annotations

from perdure.domain.instruments import Bounded, Counter, Gauge, Histogram

MOST_MODELS, MOST_TOOLS = 50, 50
"""Models and tools with a label of their own; further ones are counted as `other`."""

QUICK = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The metrics of one process. Everything that measures gets the same object."""

    def __init__(self) -> None:
        self.model_label = Bounded(MOST_MODELS)
        self.tool_label = Bounded(MOST_TOOLS)
        self._requests()
        self._turns()
        self._models()
        self._parts()
        self._now()

    def _requests(self) -> None:
        route = ("method", "route")
        self.requests = Counter(
            "perdure_http_requests",
            "Requests that were answered. Status 499: the client left before.",
            (*route, "status"),
        )
        self.request_seconds = Histogram(
            "perdure_http_request_duration_seconds",
            "The time from a request's headers to the end of its answer. Streams are left out.",
            QUICK,
            route,
        )
        self.sse_events = Counter("perdure_sse_events", "Events and live text that were sent to followers.")
        self.sse_lag = Histogram(
            "perdure_sse_lag_seconds",
            "The time from an event's append to its sending, for followers that have caught up.",
            QUICK,
        )
        self.sse_ends = Counter(
            "perdure_sse_disconnects", "Streams that ended, by the reason that was sent.", ("reason",)
        )

    def _turns(self) -> None:
        self.turns = Counter(
            "perdure_turns",
            "Turns that ended here: completed, failed, cancelled or sealed. `code`: why they failed.",
            ("outcome", "code"),
        )
        self.turn_seconds = Histogram(
            "perdure_turn_duration_seconds", "The time from a turn's start to its completion.", LONG
        )
        self.queue_wait = Histogram(
            "perdure_queue_wait_seconds", "The time that a session waited for a runner.", QUICK
        )
        self.parkings = Counter(
            "perdure_turn_parkings", "How often turns and their calls were parked, by what they wait for.",
            ("kind",),
        )  # fmt: skip
        self.recoveries = Counter(
            "perdure_turn_recoveries",
            "Sessions that were taken over from a runner that died, lost its lease or failed.",
        )
        self.fenced = Counter(
            "perdure_turns_fenced", "Runners that stopped because another one had claimed their session."
        )
        self.tool_calls = Counter(
            "perdure_tool_calls", "Tool calls that ended, by tool and outcome.", ("tool", "outcome")
        )

    def _models(self) -> None:
        model = ("provider", "model")
        self.model_calls = Counter(
            "perdure_model_calls", "Model calls that ended, retries included in them.", (*model, "outcome")
        )
        self.model_retries = Counter(
            "perdure_model_retries",
            "Attempts of model calls that failed and were made again.",
            ("provider", "code"),
        )
        self.model_failures = Counter(
            "perdure_model_failures", "Model calls that failed for good.", ("provider", "code")
        )
        self.model_seconds = Histogram(
            "perdure_model_call_duration_seconds", "How long model calls took, retries included.", LONG, model
        )
        self.first_token = Histogram(
            "perdure_model_time_to_first_token_seconds",
            "The time from a model call's start to its first text.",
            LONG,
            model,
        )
        self.tokens = Counter(
            "perdure_model_tokens",
            "Tokens of model calls: input, output, cache_read or cache_creation.",
            (*model, "kind"),
        )
        self.cost = Counter("perdure_model_cost_usd", "What model calls have cost, in US dollars.", model)

    def _parts(self) -> None:
        self.database_wait = Histogram(
            "perdure_database_wait_seconds",
            "The time that reads and writes took, waiting for a connection or the writer included.",
            QUICK,
            ("kind",),
        )
        self.database_faults = Counter(
            "perdure_database_faults", "Transactions that the database did not carry out.", ("cause",)
        )
        self.sandbox_wait = Histogram(
            "perdure_sandbox_wait_seconds", "The time that jobs waited for a place in the sandbox.", QUICK
        )
        self.sandbox_seconds = Histogram(
            "perdure_sandbox_job_duration_seconds", "How long jobs in the sandbox took.", LONG
        )
        self.sandbox_stopped = Counter(
            "perdure_sandbox_stopped", "Sandbox processes that died or were killed with a job."
        )
        self.loop_delay = Histogram(
            "perdure_event_loop_delay_seconds",
            "How late the event loop ran what was due, asked twice a second.",
            QUICK,
        )

    def _now(self) -> None:
        self.info = Gauge("perdure_info", "Always 1; the labels say what runs.", ("version", "database"))
        self.running = Gauge("perdure_turns_running", "Sessions that this process works on.")
        self.queued = Gauge(
            "perdure_queue_jobs",
            "Sessions and tasks that wait for a runner, in all processes. Read at most every 5 seconds.",
        )
        self.active = Gauge(
            "perdure_sessions_active",
            "Sessions whose turn runs or waits for a runner, in all processes. Read at most every 5 seconds.",
        )
        self.parked = Gauge(
            "perdure_turns_parked",
            "Sessions that are parked, by what they wait for, in all processes. Read at most every 5 "
            "seconds.",
            ("kind",),
        )
        self.followers = Gauge("perdure_sse_followers", "Open streams of events.")
        self.connections = Gauge("perdure_http_connections", "Open connections of clients.")
        self.breakers = Gauge(
            "perdure_circuit_breakers", "Models whose circuit breaker is open or half_open.", ("state",)
        )
        self.sandbox_running = Gauge("perdure_sandbox_jobs", "Jobs that run in the sandbox.")
        self.log_dropped = Gauge(
            "perdure_log_lines_dropped", "Lines of the log that were dropped since the process started."
        )
