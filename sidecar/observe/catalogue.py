"""Every metric there is. docs/metrics.md tells of them in the same words.

Values of labels come from the configuration and from this code, never from a client: a path, a
method, an address or an id is none. Nothing here tells of one organization, user or key.
"""

from __future__ import annotations

from typing import Final

from sidecar.observe.metrics import Metric

NO_ROUTE: Final = "none"
"""The label `route` of what came under no route; a route's begins with a slash."""

_OWN_BOUNDS = (
    *(0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
_UPSTREAM_BOUNDS = (
    *(0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    60.0,
)
_STORE_BOUNDS = (
    *(0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)

# Requests

REQUESTS = Metric(
    "sidecar_requests_total",
    "counter",
    "Requests that have ended, by what the client got and why.",
    ("route", "status", "reason"),
)
OWN_SECONDS = Metric(
    "sidecar_request_own_seconds",
    "histogram",
    "Seconds from the end of a request's head until it was sent to the upstream, or refused.",
    ("route",),
    bounds=_OWN_BOUNDS,
)
UPSTREAM_SECONDS = Metric(
    "sidecar_upstream_response_seconds",
    "histogram",
    "Seconds from sending a request to the upstream until the head of its response came.",
    ("route", "upstream"),
    bounds=_UPSTREAM_BOUNDS,
)
REQUEST_BODY_BYTES = Metric(
    "sidecar_request_body_bytes_total",
    "counter",
    "Bytes of request bodies that arrived, of requests that have ended.",
    ("route",),
)
RESPONSE_BODY_BYTES = Metric(
    "sidecar_response_body_bytes_total",
    "counter",
    "Bytes of response bodies that were passed on, of requests that have ended.",
    ("route",),
)
REQUESTS_IN_FLIGHT = Metric(
    "sidecar_requests_in_flight", "gauge", "Requests that are in progress, streams included."
)
REQUESTS_LIMIT = Metric(
    "sidecar_requests_limit", "gauge", "Requests that may be in progress: listen.max_requests."
)
SPLICES = Metric(
    "sidecar_splices", "gauge", "Long bodies that the kernel is moving past the process."
)

# Client connections

CONNECTIONS = Metric(
    "sidecar_connections",
    "gauge",
    "Client connections by what they do, as in request, event_stream, websocket or idle.",
    ("state",),
)
CONNECTIONS_LIMIT = Metric(
    "sidecar_connections_limit",
    "gauge",
    "Client connections that are served at once: listen.max_connections, if descriptors suffice.",
)
CONNECTIONS_ACCEPTED = Metric(
    "sidecar_connections_accepted_total",
    "counter",
    "Client connections that came as far as HTTP.",
)

# Credentials

LOOKUPS = Metric(
    "sidecar_credential_lookups_total",
    "counter",
    "Requests whose caller was looked up: a hit was decided on from memory, a miss waited for the"
    " store.",
    ("result",),
)
CACHE_ENTRIES = Metric(
    "sidecar_credential_cache_entries",
    "gauge",
    "What is remembered of the store: records that it has, and names that it does not know.",
    ("kind", "state"),
)
STALE_SERVED = Metric(
    "sidecar_credential_stale_served_total",
    "counter",
    "Uses of a remembered record that was older than store.cache.fresh, for want of an answer.",
)
FAILURES = Metric(
    "sidecar_credential_failures_total",
    "counter",
    "Bad credentials that were counted against the address that sent them.",
)
FAILURES_THROTTLED = Metric(
    "sidecar_credential_failures_throttled_total",
    "counter",
    "Credentials that were not looked at, since too many bad ones came from their address.",
)
FAILURE_NETWORKS = Metric(
    "sidecar_credential_failure_networks",
    "gauge",
    "Networks whose bad credentials are being counted; with workers, about.",
    merge="max",
)

RENEWALS = Metric(
    "sidecar_session_renewals_total",
    "counter",
    "Sessions that were due for renewal, by what became of it; only with session.renew.",
    ("outcome",),
)

# The store

STORE_UP = Metric(
    "sidecar_store_up",
    "gauge",
    "Whether the store answered the last question that was put to it.",
    merge="min",
)
STORE_LAST_ANSWER = Metric(
    "sidecar_store_last_answer_timestamp_seconds",
    "gauge",
    "When the store last answered, in Unix seconds; 0 for never.",
    merge="min",
)
STORE_NOTIFIES = Metric(
    "sidecar_store_notifies",
    "gauge",
    "Whether the store tells what has changed, as sidecar migrate has it do.",
    merge="min",
)
STORE_CONFIRMED = Metric(
    "sidecar_store_last_confirmation_timestamp_seconds",
    "gauge",
    "Until when all changes in the store are known, in Unix seconds; 0 for never.",
    merge="min",
)
STORE_IN_FLIGHT = Metric(
    "sidecar_store_queries_in_flight", "gauge", "Questions about callers that are being asked."
)
STORE_WAITING = Metric(
    "sidecar_store_queries_waiting", "gauge", "Questions about callers that wait for their turn."
)
STORE_OUTAGES = Metric(
    "sidecar_store_outages_total", "counter", "How often the store ceased to answer."
)
STORE_QUERIES = Metric(
    "sidecar_store_queries_total",
    "counter",
    "Questions that were put to the store.",
    ("question",),
)
STORE_FAILURES = Metric(
    "sidecar_store_query_failures_total",
    "counter",
    "Questions to which the store gave no answer, by what went wrong.",
    ("question", "kind"),
)
STORE_SECONDS = Metric(
    "sidecar_store_query_seconds",
    "histogram",
    "Seconds until the store answered a question, or failed to.",
    ("question",),
    bounds=_STORE_BOUNDS,
)

# Limits

LIMIT_DECISIONS = Metric(
    "sidecar_limit_decisions_total",
    "counter",
    "Requests with API keys that were held against a limit, by what came of it.",
    ("decision",),
)
LIMIT_GIVEN_BACK = Metric(
    "sidecar_limit_given_back_total",
    "counter",
    "Requests that were counted against a limit and given back, since no upstream received them.",
)
LIMIT_ENTRIES = Metric(
    "sidecar_limit_entries",
    "gauge",
    "Limits of which something is used, about: a sample of the host's table is counted.",
    merge="max",
)
LIMIT_ENTRIES_LIMIT = Metric(
    "sidecar_limit_entries_limit",
    "gauge",
    "Limits that the host's table is meant for: limits.entries.",
    merge="max",
)
LIMIT_EVICTIONS = Metric(
    "sidecar_limit_evictions_total",
    "counter",
    "Limits of which something was used, and which made room for others and began anew.",
)
LIMIT_FILES_SET_ASIDE = Metric(
    "sidecar_limit_files_set_aside_total",
    "counter",
    "Broken files that were found where counts are kept, and set aside.",
)
LIMIT_LOCKS_GIVEN_UP = Metric(
    "sidecar_limit_locks_given_up_total",
    "counter",
    "Requests that were counted without a lock, which somebody held who had been stopped.",
)
LIMIT_AT_ONCE = Metric(
    "sidecar_limit_at_once_requests",
    "gauge",
    "Requests in progress that limits.at_once counts.",
)
LIMIT_AT_ONCE_RECOVERED = Metric(
    "sidecar_limit_at_once_recovered_total",
    "counter",
    "Places of limits.at_once that were given back for workers that had been killed.",
)
LIMIT_AT_ONCE_CROWDED_OUT = Metric(
    "sidecar_limit_at_once_crowded_out_total",
    "counter",
    "Places of limits.at_once that a worker counted by itself, those of all being full.",
)
LIMIT_BACKEND_UP = Metric(
    "sidecar_limit_backend_up",
    "gauge",
    "Whether limits.backend answered the last call, in a cluster for every slot; only where"
    " limits.backend names a server.",
    merge="min",
)
LIMIT_BACKEND_OUTAGES = Metric(
    "sidecar_limit_backend_outages_total", "counter", "How often limits.backend ceased to answer."
)
LIMIT_BACKEND_CALLS = Metric(
    "sidecar_limit_backend_calls_total",
    "counter",
    "Calls to limits.backend, each with all checks that had gathered.",
)
LIMIT_BACKEND_CHECKS = Metric(
    "sidecar_limit_backend_checks_total",
    "counter",
    "Requests that limits.backend counted, refused or took back.",
)
LIMIT_BACKEND_UNANSWERED = Metric(
    "sidecar_limit_backend_unanswered_total",
    "counter",
    "Requests about which limits.backend gave no answer, or was not asked, since it failed.",
)

# Upstreams

UPSTREAM_CONNECTIONS = Metric(
    "sidecar_upstream_connections",
    "gauge",
    "Connections to an upstream, by what they are doing.",
    ("upstream", "state"),
)
UPSTREAM_CONNECTIONS_LIMIT = Metric(
    "sidecar_upstream_connections_limit",
    "gauge",
    "Connections that an upstream may have at once: its max_connections.",
    ("upstream",),
)
UPSTREAM_CONNECTS = Metric(
    "sidecar_upstream_connects_total",
    "counter",
    "Connections to an upstream that were made.",
    ("upstream",),
)
UPSTREAM_CONNECT_FAILURES = Metric(
    "sidecar_upstream_connect_failures_total",
    "counter",
    "Connections to an upstream that could not be made.",
    ("upstream", "reason"),
)
UPSTREAM_RETRIES = Metric(
    "sidecar_upstream_retries_total",
    "counter",
    "Requests that were sent again, their idle connection having died under them.",
    ("upstream",),
)
UPSTREAM_QUEUE = Metric(
    "sidecar_upstream_queue",
    "gauge",
    "Requests that wait for a connection to an upstream to become free.",
    ("upstream",),
)
UPSTREAM_QUEUED = Metric(
    "sidecar_upstream_queued_total",
    "counter",
    "Requests that had to wait for a connection to an upstream to become free.",
    ("upstream",),
)
UPSTREAM_SERVERS = Metric(
    "sidecar_upstream_servers",
    "gauge",
    "Servers of an upstream: in use, set aside for failing, or down by the active checks.",
    ("upstream", "state"),
    merge="max",
)
UPSTREAM_EJECTIONS = Metric(
    "sidecar_upstream_ejections_total",
    "counter",
    "How often a server of an upstream was set aside, or found to be down.",
    ("upstream",),
)

# The sidecar itself

WORKERS = Metric("sidecar_workers", "gauge", "Worker processes that run.")
WORKER_RESTARTS = Metric(
    "sidecar_worker_restarts_total",
    "counter",
    "Worker processes that were started in place of one that had ended.",
)
LOG_LINES_DROPPED = Metric(
    "sidecar_log_lines_dropped_total",
    "counter",
    "Lines of the access log that were lost, since nobody read them or writing failed.",
)
CERTIFICATE_EXPIRY = Metric(
    "sidecar_certificate_expiry_timestamp_seconds",
    "gauge",
    "When the certificate that clients are shown ends, in Unix seconds.",
    merge="min",
)
DRAINING = Metric("sidecar_draining", "gauge", "Whether the sidecar is shutting down.", merge="max")
CONFIG_GENERATION = Metric(
    "sidecar_config_generation",
    "gauge",
    "How many configurations have been in use since the start.",
    merge="min",
)
CONFIG_LOADED = Metric(
    "sidecar_config_load_timestamp_seconds",
    "gauge",
    "When the configuration that is in use was loaded, in Unix seconds.",
    merge="min",
)
CONFIG_INFO = Metric(
    "sidecar_config_info",
    "gauge",
    "Always 1; the hash is the same wherever all settings but the secrets are the same.",
    ("hash",),
    merge="max",
)
BUILD_INFO = Metric(
    "sidecar_build_info",
    "gauge",
    "Always 1; the version of the sidecar, and of the Python that runs it.",
    ("version", "python"),
    merge="max",
)
PROCESS_CPU = Metric(
    "sidecar_process_cpu_seconds_total", "counter", "Seconds of processor time that were used."
)
PROCESS_MEMORY = Metric("sidecar_process_resident_memory_bytes", "gauge", "Memory that is in RAM.")
PROCESS_DESCRIPTORS = Metric("sidecar_process_open_fds", "gauge", "Descriptors that are open.")
PROCESS_DESCRIPTORS_LIMIT = Metric(
    "sidecar_process_max_fds", "gauge", "Descriptors that may be open."
)
PROCESS_START = Metric(
    "sidecar_process_start_time_seconds",
    "gauge",
    "When the process started, in Unix seconds.",
    merge="min",
)

METRICS: Final = tuple(each for each in globals().values() if isinstance(each, Metric))
"""All of them, in this order."""
