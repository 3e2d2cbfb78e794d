"""The process and its machine: device, console, progress, signals, limits and caches."""
