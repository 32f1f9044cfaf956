"""The name that Dynamo's workers import their failover lock from, over ours: no public package provides it.

On the path of a system under test only (:func:`ftharness.engine.dynamo_api.election`), never of the harness. Re-exports.
"""
