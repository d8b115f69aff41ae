"""The only persistence: desired state in one SQLite file. Rows hold encoded frozen structs, and columns
only what is looked up by or must be unique.

Liveness is never here (it comes from the kernel and the run root), and blobs are not either (they are
files named by their digest).
"""
