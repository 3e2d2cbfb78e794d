"""Choices that more than one command offers. This module imports nothing slow, so that `--help` stays fast."""

from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
MetricName = Literal["accuracy", "f1", "auroc", "loss", "brier"]
Truncation = Literal["head", "tail", "head_tail", "windows"]
TrackerMode = Literal["auto", "online", "offline", "disabled"]
KeptCheckpoints = Literal["all", "best", "none"]
