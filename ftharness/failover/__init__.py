"""Shadow takeover on one machine: the lock that elects one engine of several, and what answers a holder that hangs.

A library in its own right, of the standard library alone: it runs inside other people's engines.
"""
