"""Bytes to values and back, without I/O: archives, references, log lines, frames, tables of the kernel."""
