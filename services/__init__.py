"""What Adjourn does: functions of their arguments on the models. Knows nothing of queues, retries and schedules."""
