"""Export one or more finished runs to formats that need no `imdbcls`: Hugging Face, ONNX and torch.export.

| module | content |
| --- | --- |
| `source` | the runs' models in plain PyTorch, their tokenizer, labels and temperatures, for all formats |
| `huggingface`, `head_source`, `modeling.py.jinja` | a folder for `transformers`, with or without a modelling file |
| `program` | the model as a function of token ids and mask, traced by `torch.export` |
| `onnx_file`, `int8` | `model.onnx`, and its quantized copy with the change in accuracy and speed |
| `documents`, `verification`, `standalone` | the check of an export in a process without this package |
| `folder`, `marker` | writing either a complete export or nothing, and the file that marks a folder as an export |
| `card`, `recorded`, `card.md.jinja` | the model card, and the values that it shows from the runs and their study |
| `ensemble_result` | the test metrics of several runs, from their recorded predictions |
| `push` | uploading a folder to the Hugging Face Hub |
"""

FORMATS = ("huggingface", "onnx", "torch")
