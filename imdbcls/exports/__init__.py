"""Export one or more finished runs to formats that need no `imdbcls`: Hugging Face, ONNX and torch.export.

| module | content |
| --- | --- |
| `source` | what all formats need: the runs' models in plain PyTorch, their tokenizer, labels and temperatures |
| `huggingface`, `head_source`, `modeling.py.jinja` | a folder for `transformers`: stock classes or one modelling file |
| `program` | the model as a function of token ids and mask, traced by `torch.export` |
| `onnx_file`, `int8` | `model.onnx`, its quantized copy, and the cost of the quantization |
| `documents`, `verification`, `standalone` | the check of an export in a process without this package |
| `folder`, `marker` | writing an export: all of it, or nothing; the file that marks a folder as an export |
| `card`, `recorded`, `card.md.jinja` | the model card, and what it takes from the files of the runs and their study |
| `ensemble_result` | the test metrics of several runs, from their recorded predictions |
| `push` | uploading a folder to the Hugging Face Hub |
"""

FORMATS = ("huggingface", "onnx", "torch")
