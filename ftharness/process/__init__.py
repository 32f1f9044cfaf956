"""Processes that we own: started below a guardian, every byte of their output kept, their real end seen, all of them ended."""

from ftharness.process.http_get import NoAnswer, http_get
from ftharness.process.kept_log import KeptLog, LogBudget
from ftharness.process.living import Living, Owner
from ftharness.process.ports import PortReservation, listening_ports, listening_socket
from ftharness.process.process import Ended, Process, ProcessGone
from ftharness.process.process_table import Entry
from ftharness.process.processes import Processes, StartError, Survivor
from ftharness.process.readiness import ANSWER_S, Asked, Condition, NotReady, http_ok, log_event, must_live, until_ready
from ftharness.process.redact import Redactor

__all__ = [
    "ANSWER_S",
    "Asked",
    "Condition",
    "Ended",
    "Entry",
    "KeptLog",
    "Living",
    "LogBudget",
    "NoAnswer",
    "NotReady",
    "Owner",
    "PortReservation",
    "Process",
    "ProcessGone",
    "Processes",
    "Redactor",
    "StartError",
    "Survivor",
    "http_get",
    "http_ok",
    "listening_ports",
    "listening_socket",
    "log_event",
    "must_live",
    "until_ready",
]
