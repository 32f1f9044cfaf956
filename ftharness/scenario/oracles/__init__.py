"""The oracles: each a pure function ``(Case, **args) -> Finding``, found by the entry point group ``ftharness.oracles``."""
