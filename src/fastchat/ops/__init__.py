"""The interfaces for operators: metrics, health probes and status."""
