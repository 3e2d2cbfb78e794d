"""Classification heads. A head maps the token vectors of a document to one logit per class.

A head is an `nn.Module`. Its constructor takes `hidden_size`, `num_labels` and the settings in the head's YAML file,
all as keyword arguments. The type hints are the schema of these settings: `Annotated[float, Ge(0), Lt(1)]` gives a
range. `forward(hidden_BTD, mask_BT)` returns `logits_BC`.

- `hidden_BTD`: the encoder's last hidden states, in float32, or in bfloat16 under autocast.
- `mask_BT`: bool, True at non-padding tokens. Padding is on the right. Every document has a non-padding token.
- Padding must not influence the logits of a document. A document has the same logits in any batch.
- A head keeps no state between calls. Two evaluations of a document give the same logits.

A head that reads several layers sets one of two class attributes and has `forward(hidden_LBTD, mask_BT)`.

- `reads_all_layers = True`: the constructor also takes `num_hidden_states` (L). L counts the embeddings, which come
  first, and all layers.
- `reads_last_layers = True`: the setting and attribute `num_layers` (L) is the number of last layers that the head
  reads. The embeddings are not a layer.

A head that averages the token vectors can also define `pooling_weights(hidden_BTD, mask_BT)`, which returns weights_BT.
`imdbcls.explain` shows these weights.

A head is plain PyTorch. `imdbcls.kernels.accelerate_head` adds the fast kernels from outside. A head does not declare
which tokens it reads. `imdbcls.models.head_probe` determines these tokens, so that the encoder can compute less:

- If a head reads only the first token, the last layer of an accelerated BERT or RoBERTa computes only that token. The
  head gets `hidden_B1D` with the same `mask_BT`.
- If a head reads several layers, but only the first token or only `pooling.token_mean` of each layer, the head gets
  `hidden_LB1D`.

Shape suffixes: L layers, B documents, T tokens, D hidden size, C classes.
"""
