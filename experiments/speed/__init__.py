"""What ``experiments/throughput.py`` is made of: workloads, a process for each way to do them, and the report."""
