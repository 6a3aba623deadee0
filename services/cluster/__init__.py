"""What Redis knows of the whole cluster: schedulers, workers, tasks, queues, and what was measured of the backlog."""
