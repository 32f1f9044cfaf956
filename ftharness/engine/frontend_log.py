"""What the frontend logs and counts, in the words and names of Dynamo's: one method an event."""

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from ftharness.engine.dialects import write_line

_HTTP = "dynamo_llm::http::service::openai"
_MIGRATION = "dynamo_llm::migration"


class FrontendLog:
    """Log lines on standard error and the metrics of ``/metrics``; what is an event is in both."""

    def __init__(self, model: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._model = model
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by how they ended", "endpoint", "request_type", "status")
        self._migrations = self._counter("model_migration", "Requests that moved to another worker", "migration_type")
        self._beyond = self._counter("model_migration_max_seq_len_exceeded", "Requests too long to migrate")
        self._cancelled = self._counter(
            "model_cancellation", "Requests that their client gave up", "endpoint", "request_type"
        )
        self._tokens = self._counter("output_tokens", "Tokens sent to clients")
        self._inflight = Gauge(
            "dynamo_frontend_inflight_requests", "Requests that run", ["model"], registry=self._registry
        )
        for kind in ("ongoing_request", "new_request"):
            self._migrations.labels(model, kind)  # a zero is evidence too
        self._beyond.labels(model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"dynamo_frontend_{name}", text, ["model", *labels], registry=self._registry)

    def metrics(self) -> bytes:
        """The metrics as Prometheus text."""
        return generate_latest(self._registry)

    def listening(self, what: str, host: str, port: int) -> None:
        """A socket of ours accepts connections: ``HTTP`` or ``plane``."""
        where = f'address="{host}:{port}"'
        if what == "HTTP":
            logger = "dynamo_llm::http::service::service_v2"
            write_line("INFO", logger, f'Starting HTTP(S) service protocol="HTTP" {where}')
        else:
            write_line("INFO", "dynamo_runtime::pipeline::network", f"request plane awaits workers {where}")

    def worker_joined(self, worker: str, engine: str, role: str) -> None:
        """A worker registered."""
        text = f"worker joined worker={worker} engine={engine} role={role} model={self._model}"
        write_line("INFO", "dynamo_llm::discovery::watcher", text)

    def worker_refused(self, worker: str, reason: str) -> None:
        """A worker does not belong here."""
        write_line("ERROR", "dynamo_llm::discovery::watcher", f"worker refused worker={worker}: {reason}")

    def worker_draining(self, worker: str) -> None:
        """A worker takes nothing new."""
        write_line("INFO", "dynamo_llm::discovery::watcher", f"worker draining worker={worker}")

    def worker_left(self, worker: str, running: int) -> None:
        """A worker's lease ended, with so many requests on it."""
        write_line("INFO", "dynamo_llm::discovery::watcher", f"worker left worker={worker} running={running}")

    def started(self) -> None:
        """A request begins."""
        self._inflight.labels(self._model).inc()

    def ended(self, request_id: str, endpoint: str, request_type: str, *, status: str, tokens: int) -> None:
        """A request ended: ``success``, ``error`` or ``cancelled``."""
        self._inflight.labels(self._model).dec()
        self._requests.labels(self._model, endpoint, request_type, status).inc()
        self._tokens.labels(self._model).inc(tokens)
        write_line("INFO", _HTTP, f"request completed request_id={request_id} status={status} output_tokens={tokens}")

    def routed(self, request_id: str, worker: str, attempt: int) -> None:
        """A worker was chosen for a request."""
        text = f"selected worker={worker} request_id={request_id} attempt={attempt}"
        write_line("DEBUG", "dynamo_runtime::pipeline::push_router", text)

    def migrating(self, request_id: str, error: str, *, ongoing: bool) -> None:
        """A request goes to another worker, in mid-stream or before its first answer."""
        what = "Stream disconnected... recreating stream..." if ongoing else "Creating new stream... retrying..."
        write_line("WARN", _MIGRATION, f"{what} request_id={request_id} error={error}")
        self._migrations.labels(self._model, "ongoing_request" if ongoing else "new_request").inc()

    def exhausted(self, request_id: str, error: str) -> None:
        """A request may not migrate any more."""
        text = f"Cannot recreate stream: Migration limit exhausted request_id={request_id} error={error}"
        write_line("ERROR", _MIGRATION, text)

    def too_long(self, request_id: str, tokens: int, limit: int) -> None:
        """A request is too long to migrate."""
        text = f"Migration refused: max_seq_len exceeded request_id={request_id} tokens={tokens} limit={limit}"
        write_line("WARN", _MIGRATION, text)
        self._beyond.labels(self._model).inc()

    def stalled(self, request_id: str, worker: str, seconds: float) -> None:
        """A worker said nothing about a request for too long."""
        text = f"backend stream timeout worker={worker} request_id={request_id} after_s={seconds:g}"
        write_line("WARN", _HTTP, text)

    def cancelled(self, request_id: str, endpoint: str, request_type: str) -> None:
        """The client is gone; its choices are cancelled on their workers."""
        write_line("WARN", _HTTP, f"Stream closed unexpectedly; issuing cancellation request_id={request_id}")
        self._cancelled.labels(self._model, endpoint, request_type).inc()

    def kill_sent(self, request_id: str, worker: str) -> None:
        """A worker was told to give a request up."""
        text = f"issued control message Kill to sender request_id={request_id} worker={worker}"
        write_line("DEBUG", "dynamo_runtime::pipeline::network::tcp::client", text)

    def error(self, message: str) -> None:
        """A request failed, or something is wrong with the stack."""
        write_line("ERROR", _HTTP, message)
