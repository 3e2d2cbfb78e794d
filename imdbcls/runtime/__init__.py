"""The process and the machine: device, console, progress, signals, resource limits and caches."""
