"""Kubernetes: a topology as a DynamoGraphDeployment.

Needs the extra ``k8s`` (kr8s, jsonschema, PyYAML), which is imported where it is used: without it the rest of ftharness
is what it was. docs/kubernetes.md says what has been run, and what has not.
"""

from ftharness.k8s.deployment import Deployment

__all__ = ["Deployment"]
