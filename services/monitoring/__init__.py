"""How the processes are: what they count for Prometheus, and whether they are healthy, told over HTTP."""
