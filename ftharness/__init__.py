"""Fault-injection testing for LLM serving stacks: one history of everything that happened."""

__version__ = "0.1.0"
