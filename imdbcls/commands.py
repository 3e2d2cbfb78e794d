"""The commands of `imdbcls`, with a one-line description of each. To add a command, add a line to `COMMANDS`."""

from pathlib import Path

# Each command is the module or package of this name, which also runs with `python -m imdbcls.NAME`.
COMMANDS = {
    "train": "Train one run or a sweep.",
    "pretrain": "Continue the pretraining of an encoder on your own text.",
    "study": "Add seeds to a study until it is known which group is better.",
    "tune": "Tune groups with equal budgets, and train the best configuration of each.",
    "compare": "Compare the groups of a study, or the predictions of any tool.",
    "evaluate": "Evaluate a finished run again, or on a file of labelled documents.",
    "predict": "Classify texts with a finished run.",
    "explain": "Show which words moved a decision of a finished run.",
    "export": "Export a finished run to Hugging Face, ONNX or torch.export.",
    "serve": "Serve one or two finished runs over HTTP, with a page to try them.",
    "data": "Describe a dataset: classes, lengths, truncation, duplicates.",
    "doctor": "Show this machine's devices, kernels, encoders and caches.",
    "config": "Print the JSON schema of config files, for editors.",
    "completion": "Print the script that completes these commands in bash, zsh or fish.",
}


def module_of(name: str) -> str:
    """Return the name of a command's module. The function `command` in this module runs the command."""
    is_package = Path(__file__).with_name(name).is_dir()
    return f"imdbcls.{name}.__main__" if is_package else f"imdbcls.{name}"
