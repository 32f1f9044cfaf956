"""Engine pools: engines of a model that are kept ready, leased slot by slot, supervised, drained and reloaded.

A library in its own right: it knows nothing of scenarios. One event loop in one manager process holds it all.
"""
