"""Kubernetes: a topology as a DynamoGraphDeployment, and the stack ``k8s`` that applies it and breaks it.

Needs the extra ``k8s`` (kr8s, jsonschema, PyYAML), which is imported where it is used: without it the rest of ftharness
is what it was. docs/kubernetes.md says what has been run, and what has not.
"""

from ftharness.k8s.deployment import Deployment
from ftharness.k8s.faults import delete_pod
from ftharness.k8s.stack import K8sStack

__all__ = ["Deployment", "K8sStack", "delete_pod"]
