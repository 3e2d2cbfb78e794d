"""A minimal config for tests of the Python interface."""

TINY = (
    "backbone=tiny",
    "data=sample",
    "tracker=none",
    "progress=none",
    "device=cpu",
    "precision=fp32",
    "epochs=1",
    "max_length=32",
    "data.train_limit=32",
    "data.validation_limit=16",
    "data.test_limit=24",
)
