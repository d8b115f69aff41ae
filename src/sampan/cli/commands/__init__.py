"""One module per group of commands; main imports only the one that was asked for."""
