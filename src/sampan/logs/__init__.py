"""Container logs as clients read them; they are written by :mod:`sampan.kernel.logfile`."""
