"""The command line: one file per command, argument -> one call."""
