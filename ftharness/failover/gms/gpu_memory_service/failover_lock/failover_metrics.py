"""What Dynamo calls ``gpu_memory_service.failover_lock.failover_metrics``."""

from ftharness.failover.metrics import FailoverMetrics, create_failover_metrics

__all__ = ["FailoverMetrics", "create_failover_metrics"]
