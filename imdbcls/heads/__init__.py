"""Classification heads: each turns the token vectors of a document into one logit per class.

A head is an `nn.Module`. Its constructor takes `hidden_size` and `num_labels` by keyword, from the builder; all its
other settings come from its YAML. The type hints are their schema: `Annotated[float, Ge(0), Lt(1)]` is a range. Its
`forward(hidden_BTD, mask_BT)` returns `logits_BC`.

- `hidden_BTD`: the encoder's last hidden states, float32, or bfloat16 under autocast.
- `mask_BT`: bool, True at real tokens. Documents are padded on the right; each has at least one real token.
- Padding never influences a document: its logits are the same alone and in any batch.
- A head keeps no state between calls: two evaluations of a document give the same logits.

A head that reads all layers sets `reads_all_layers = True` on its class. Its constructor then also takes L as
`num_hidden_states`, and its `forward(hidden_LBTD, mask_BT)` gets all hidden states of the encoder: the embeddings
first, then every layer.

A head is plain PyTorch. The fast kernels are applied to it from outside (`imdbcls.kernels.accelerate_head`), and
whether it reads only the first token is measured (`imdbcls.models.head_probe`), so no head declares it. The encoder
then computes only that token in its last layer, and the head receives `hidden_B1D` with the same `mask_BT`.

Shape suffixes: L layers, B documents, T tokens, D hidden size, C classes.
"""
