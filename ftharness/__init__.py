"""Fault-injection testing for LLM serving stacks: one history of everything that happened."""
