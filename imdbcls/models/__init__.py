"""The model: backbones, the classifier, LoRA, compilation, inference and metrics."""
