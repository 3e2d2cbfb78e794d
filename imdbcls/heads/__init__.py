"""Classification heads: each turns a document's token vectors into one logit per class.

The contract, the same for every head: a head is an `nn.Module` whose constructor takes at least `hidden_size` and
`num_labels` by keyword, which the builder knows; the rest stands in its YAML. Its
`forward(hidden_BTD, mask_BT)` returns `logits_BC`.

- `hidden_BTD`: the encoder's last hidden states, float32 or, under autocast, bfloat16.
- `mask_BT`: bool, True at real tokens. Documents are padded on the right; each has at least one real token.
- Padding never influences a document: its logits are the same alone and in any batch.
- No state outlives a call: two evaluations of the same document give the same logits.
- A head whose class says `reads_first_token_alone = True`, itself and not by inheritance, may be given the first token
  alone, T = 1 and float32: the encoder's last layer then costs next to nothing.

Shape suffixes: B documents, T tokens, D hidden size, C classes.
"""
