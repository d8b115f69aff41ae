"""Output and input of processes: attach, exec, logs."""
