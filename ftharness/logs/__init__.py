"""Contracts: what a log line or a metric of one backend means, as data; and the scan that finds those lines."""

from ftharness.logs.contract import Contract, ContractError, load_contract, read_contract, shipped_events
from ftharness.logs.metrics import Sample, read_metrics
from ftharness.logs.scanner import Match, Scanner
from ftharness.logs.toml_file import TomlError, read_toml

__all__ = [
    "Contract",
    "ContractError",
    "Match",
    "Sample",
    "Scanner",
    "TomlError",
    "load_contract",
    "read_contract",
    "read_metrics",
    "read_toml",
    "shipped_events",
]
