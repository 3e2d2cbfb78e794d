"""Compose and check configs, and limit what a config may instantiate. Nothing here imports torch."""
