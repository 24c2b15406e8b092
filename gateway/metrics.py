"""Metrics of the gateway for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="oncotwin", registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace="oncotwin", registry=self.registry)

        self.received = counter("instances_received", "Instances accepted by C-STORE.")
        self.refused = counter("instances_refused", "Instances refused by C-STORE.", "reason")
        self.jobs = gauge("jobs", "Jobs by state.", "state")
        self.attempts = counter("attempts", "Ended attempts by outcome.", "outcome")
        self.run_seconds = Histogram(
            "run_seconds",
            "Seconds of one attempt.",
            namespace="oncotwin",
            buckets=(1, 5, 15, 60, 180, 600, 1800, 3600),
            registry=self.registry,
        )
        self.deliveries = counter("deliveries", "Deliveries by outcome.", "outcome")
        self.sent = counter("instances_sent", "Result instances sent.")
        self.free_gb = gauge("free_gigabytes", "Free space in the work folder.")
        self.source_up = gauge("source_up", "1 when the watched archive answers.")
