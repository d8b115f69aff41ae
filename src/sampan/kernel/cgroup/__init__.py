"""Control groups, v1 and v2: where they are mounted, how one is made, entered, read and removed.

A plan (see :mod:`sampan.kernel.cgroup.steps`) is computed by the runtime's planner from an OCI
``Resources``; what is here only carries it out, so that the tiny processes can load it.
"""
