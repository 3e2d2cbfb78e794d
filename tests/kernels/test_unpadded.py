"""The encoder without padding gives the library's outputs and gradients, and zeros at the padding tokens."""

import copy
from typing import Any

import pytest
import torch
from support.encoders import LENGTHS, make, make_batch
from support.heads import MAKERS
from support.small_models import make_model
from torch import Tensor
from transformers import PreTrainedModel

from imdbcls.kernels import unpadded, varlen
from imdbcls.kernels.masks import ready_mask
from imdbcls.models.classifier import Classifier
from imdbcls.runtime.padding import token_indices

MODEL_TYPES = ["bert", "roberta", "modernbert"]


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the CUDA implementation on the CPU, except for attention, which is computed document by document."""
    monkeypatch.setattr(unpadded, "applies", lambda device: True)


def run(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, without_padding: bool) -> dict[str, Tensor]:
    """Return the hidden states of the real tokens, and the gradients of a fixed function of them."""
    model.zero_grad()
    if without_padding:
        hidden_BTH = unpadded.encode(model, ids_BT, mask_BT, token_indices(mask_BT))
        assert hidden_BTH.shape[:2] == ids_BT.shape and not hidden_BTH[~mask_BT].any()
    else:
        hidden_BTH = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    hidden_RH = hidden_BTH[mask_BT]
    torch.manual_seed(2)
    (hidden_RH * torch.randn_like(hidden_RH)).mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"hidden": hidden_RH.detach(), **gradients}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("lengths", [LENGTHS, (48, 48), (1,), (130 - 2,)])
def test_equals_the_padded_model(model_type: str, lengths: tuple[int, ...]) -> None:
    model = make(model_type)
    ids_BT, mask_BT = make_batch(model, lengths)
    if lengths == LENGTHS:
        ids_BT[0, 3] = model.config.pad_token_id  # a text may contain this token; RoBERTa then skips its position
    expected = run(model, ids_BT, mask_BT.bool(), without_padding=False)
    actual = run(model, ids_BT, mask_BT.bool(), without_padding=True)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda message, name=name: f"{name}: {message}"
        )


@pytest.mark.parametrize("model_type", ["roberta", "modernbert"])
@pytest.mark.parametrize("name", MAKERS)
def test_logits_of_each_head_equal_the_padded_model(name: str, model_type: str) -> None:
    """Single documents without padding give the same logits, so the logits do not depend on the batch."""
    model = make(model_type)
    head = MAKERS[name](model.config.hidden_size)
    without_padding = copy.deepcopy(model)
    unpadded.enable(without_padding)
    padded, compact = Classifier(model, head).eval(), Classifier(without_padding, head).eval()
    compact.tokens = "first" if name == "cls" else "all"
    ids_BT, mask_BT = make_batch(model)
    mask_BT = mask_BT.bool()
    with torch.no_grad():
        expected_BC = padded(ids_BT, mask_BT)
        together_BC = compact(ids_BT, mask_BT)
        torch.testing.assert_close(together_BC, expected_BC, atol=1e-5, rtol=1e-5)
        for row, length in enumerate(LENGTHS):
            alone_1C = compact(ids_BT[row : row + 1, :length], mask_BT[row : row + 1, :length])
            torch.testing.assert_close(alone_1C[0], together_BC[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("model_type", "windows"), [("roberta", [None] * 3), ("modernbert", [None, (8, 8), (8, 8)])])
def test_kernel_gets_valid_arguments(
    model_type: str, windows: list[tuple[int, int] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Call the kernel on meta tensors: PyTorch checks the dtypes and shapes of all tensors, including the gradients."""
    model = make(model_type).to("meta").train()
    ids_BT, mask_BT = make_batch(model)
    mask_BT = mask_BT.bool()
    calls, found = [], []
    kernel = varlen.varlen_attn

    def recorded(*given: Any, **options: Any) -> Any:
        calls.append(given)
        found.append(options.get("window_size"))
        return kernel(*given, **options)

    monkeypatch.setattr(varlen, "varlen_attn", recorded)
    token_indices_N = token_indices(mask_BT).to("meta")
    hidden_BTH = unpadded.encode(model, ids_BT.to("meta"), mask_BT.to("meta"), token_indices_N)
    hidden_BTH.sum().backward()
    assert found == windows
    for query_NAD, key_NAD, value_NAD, starts, same, longest, equal in calls:
        assert query_NAD.shape == key_NAD.shape == value_NAD.shape == (sum(LENGTHS), 3, 32)
        assert starts is same and starts.dtype == torch.int32 and starts.shape == (len(LENGTHS) + 1,)
        assert longest == equal == max(LENGTHS)
    assert all(p.grad is not None for name, p in model.named_parameters())


def test_document_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("bert", num_hidden_layers=1)
    ids_BT, mask_BT = make_batch(model)
    seen: list[varlen.CuSeqlens] = []
    original = varlen.attention
    monkeypatch.setattr(varlen, "attention", lambda q, k, v, at: (seen.append(at), original(q, k, v, at))[1])
    unpadded.encode(model, ids_BT, mask_BT.bool(), token_indices(mask_BT.bool()))
    assert seen[0].starts.tolist() == [0, 37, 42, 106, 107]


@pytest.mark.parametrize(
    ("model_type", "dropout"),
    [
        ("bert", {"hidden_dropout_prob": 0.3}),
        ("modernbert", {"embedding_dropout": 0.3}),
        ("modernbert", {"mlp_dropout": 0.3}),
    ],
)
def test_dropout_is_random_and_seeded(model_type: str, dropout: dict[str, float]) -> None:
    model = make(model_type, **dropout).train()
    ids_BT, mask_BT = make_batch(model)
    token_indices_N = token_indices(mask_BT.bool())
    outputs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        outputs.append(unpadded.encode(model, ids_BT, mask_BT.bool(), token_indices_N).detach())
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("bert", {}, None),
        ("bert", {"attention_probs_dropout_prob": 0.1}, "attention dropout is above 0"),
        ("bert", {"num_attention_heads": 8}, "its attention heads have width 12"),
        ("bert", {"is_decoder": True}, "decoders"),
        ("modernbert", {}, None),
        ("modernbert", {"attention_dropout": 0.1}, "attention dropout is above 0"),
        ("modernbert", {"num_attention_heads": 8}, "its attention heads have width 12"),
    ],
)
def test_supported_encoders(model_type: str, changes: dict[str, float], reason: str | None) -> None:
    found = unpadded.fallback_reason(make(model_type, **changes))
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_sliding_windows_need_a_recent_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first versions of `varlen_attn` have no windows. A ModernBERT with only global layers needs none."""
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k: None)
    found = unpadded.fallback_reason(make("modernbert"))
    assert found is not None and found.endswith("has no sliding window")
    assert unpadded.fallback_reason(make("modernbert", global_attn_every_n_layers=1)) is None


def test_gradient_checkpointing_runs_the_library() -> None:
    model = make("modernbert").train()
    unpadded.enable(model)
    assert unpadded.is_enabled(model)
    for layer in model.layers:
        layer.gradient_checkpointing = True
    assert not unpadded.is_enabled(model)


def test_cpu_does_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with torch.autocast("cpu", torch.bfloat16):
        assert not unpadded.applies(torch.device("cpu"))


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_prepared_masks_equal_the_librarys(family: str) -> None:
    """Include documents longer than ModernBERT's local attention window, and padding far from any real token."""
    model = make_model(family).eval()
    lengths = (300, 9, 150)
    ids_BT, mask_BT = make_batch(model, lengths)
    mask_BT = mask_BT.bool()

    with torch.no_grad():
        expected_BTH = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        actual_BTH = model(input_ids=ids_BT, attention_mask=ready_mask(model, mask_BT)).last_hidden_state
    assert actual_BTH.isfinite().all()
    torch.testing.assert_close(actual_BTH[mask_BT], expected_BTH[mask_BT], atol=1e-5, rtol=1e-5)
