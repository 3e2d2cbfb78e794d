"""The configuration: composing, overrides, checks, and what may be instantiated. It imports no torch."""
