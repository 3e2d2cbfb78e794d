"""The time limit of everything that a test waits for."""

# Seconds. Even on a busy machine, only a process that hangs takes this long.
HANG_SECONDS = 600.0
