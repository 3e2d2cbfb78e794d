"""The accelerated encoder has the same outputs, gradients and dropout as the Hugging Face encoder."""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support.encoders import LENGTHS, SIZES, distance, make, make_batch, run
from torch import Tensor, nn
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
)

from imdbcls.heads.cls import ClsHead
from imdbcls.kernels import compiled, layer, loading, unpadded
from imdbcls.kernels.encoder import accelerate, inference_weights
from imdbcls.kernels.first_token import first_token_of
from imdbcls.kernels.head_input import HeadInput
from imdbcls.models.classifier import Classifier
from imdbcls.runtime.padding import token_indices

FIRST = HeadInput(tokens="first")


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("lengths", [LENGTHS, (48, 48), (1,), (130 - 2,)])
def test_fp32_equals_hugging_face(model_type: str, lengths: tuple[int, ...]) -> None:
    model = make(model_type)
    fast = copy.deepcopy(model)
    assert accelerate(fast) is None
    batch = make_batch(model, lengths)
    expected, expected_gradients = run(model, *batch, bf16=False)
    actual, gradients = run(fast, *batch, bf16=False)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    rounding = 4e-6 if loading.supports_float32_kernels() else 2e-6  # the kernels sum in another order than PyTorch
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(
            gradients[name], gradient, atol=rounding * largest, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_bf16_is_as_close_to_fp32_as_hugging_face_in_bf16(model_type: str) -> None:
    model = make(model_type)
    fast = copy.deepcopy(model)
    accelerate(fast)
    batch = make_batch(model)
    exact, exact_gradients = run(model, *batch, bf16=False)
    theirs, their_gradients = run(model, *batch, bf16=True)
    ours, our_gradients = run(fast, *batch, bf16=True)
    assert distance(ours, exact) < 2 * distance(theirs, exact)
    for name, gradient in exact_gradients.items():
        if not name.endswith("key.bias"):  # the gradient of the key bias is zero in exact arithmetic
            assert distance(our_gradients[name], gradient) < 2 * distance(their_gradients[name], gradient) + 0.01, name


@pytest.fixture
def memory_holds_nan() -> Iterator[None]:
    """Fill new tensors with NaN before they are written."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("memory_holds_nan")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"hidden_size": 100, "num_attention_heads": 5},
        {"hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 1200},
    ],
    ids=lambda sizes: str(sizes.get("hidden_size", SIZES["hidden_size"])),
)
@pytest.mark.parametrize("lengths", [(1,), (5,), (37,), (33, 32)])
def test_uninitialized_memory_is_never_read(sizes: dict[str, int], lengths: tuple[int, ...], dropout: float) -> None:
    assert torch.empty(1).isnan().all()
    model = make("bert", hidden_dropout_prob=dropout, **sizes).train()
    accelerate(model)
    batch = make_batch(model, lengths)
    hidden_RH, gradients = run(model, *batch, bf16=True)
    assert hidden_RH.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(*batch).last_hidden_state[batch[1].bool()].isfinite().all()


@pytest.mark.parametrize("bf16", [False, True])
def test_padding_does_not_influence_documents(bf16: bool) -> None:
    model = make("roberta")
    accelerate(model)
    ids_BT, mask_BT = make_batch(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        together_BTH = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        for row, length in enumerate(LENGTHS):
            alone_BTH = model(input_ids=ids_BT[row : row + 1, :length]).last_hidden_state
            tolerance = 0.1 if bf16 else 1e-5
            torch.testing.assert_close(together_BTH[row, :length], alone_BTH[0], atol=tolerance, rtol=tolerance)


def test_padding_gets_no_gradient() -> None:
    model = make("bert")
    accelerate(model)
    ids_BT, mask_BT = make_batch(model)
    _, gradients = run(model, ids_BT, mask_BT, bf16=False)
    other_ids_BT = torch.where(mask_BT.bool(), ids_BT, 50)
    _, other_gradients = run(model, other_ids_BT, mask_BT, bf16=False)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, atol=1e-7, rtol=1e-5)


def test_left_padding_and_holes() -> None:
    model = make("bert")
    fast = copy.deepcopy(model)
    accelerate(fast)
    ids_BT, mask_BT = make_batch(model, (40, 40))
    mask_BT[0, :9] = 0
    mask_BT[1, 11:20] = 0
    for one, other in zip(
        run(fast, ids_BT, mask_BT, bf16=False)[:1], run(model, ids_BT, mask_BT, bf16=False)[:1], strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_dropout_rate_and_scale() -> None:
    from imdbcls.kernels.dropout import DropoutMasks

    torch.manual_seed(0)
    count = kept = 0.0
    for _ in range(40):
        mask_NH = DropoutMasks().draw(1000, 384, 0.1, torch.bfloat16)
        assert set(mask_NH.unique().tolist()) == {0.0, 1.0}
        count += mask_NH.numel()
        kept += float(mask_NH.sum(dtype=torch.float64))
    assert abs(kept / count - 0.9) < 4 * (0.09 / count) ** 0.5
    columns = torch.stack([DropoutMasks().draw(4000, 8, 0.5, torch.float32) for _ in range(4)]).flatten(0, 1)
    assert float((columns.T.corrcoef() - torch.eye(8)).abs().max()) < 0.04


def test_dropout_has_hugging_faces_distribution() -> None:
    """Compare the mean and standard deviation of the output over many masks with the values of the library."""
    model = make("bert", num_hidden_layers=1, hidden_dropout_prob=0.3)
    fast = copy.deepcopy(model)
    accelerate(fast)
    ids_BT, mask_BT = make_batch(model, (6,) * 500)
    ids_BT[:] = ids_BT[0]
    outputs = []
    for which in (model, fast):
        torch.manual_seed(0)
        with torch.no_grad():
            hidden = torch.cat(
                [which.train()(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state for _ in range(20)]
            )
        outputs.append(hidden)
    theirs, ours = outputs
    error_TH = (theirs.var(0) / len(theirs) + ours.var(0) / len(ours)).sqrt()
    assert float(((theirs.mean(0) - ours.mean(0)) / error_TH).abs().max()) < 5
    assert float((ours.std(0) / theirs.std(0)).log().abs().max()) < 0.06


def test_bits_depend_on_seed() -> None:
    model = make("bert", hidden_dropout_prob=0.1).train()
    accelerate(model)
    batch = make_batch(model)
    results = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        results.append(model(input_ids=batch[0], attention_mask=batch[1]).last_hidden_state.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_training_follows_hugging_face_step_by_step() -> None:
    """Fused AdamW does not increase the version of parameters, so cached copies of the weights would be outdated."""
    model = make("bert", hidden_dropout_prob=0.0)
    fast = copy.deepcopy(model)
    accelerate(fast)
    batch = make_batch(model)
    for which in (model, fast):
        which.train()
        optimizer = torch.optim.AdamW(which.parameters(), lr=1e-3, fused=True)
        for _ in range(5):
            run_gradients = run(which, *batch, bf16=False)
            optimizer.step()
    del run_gradients
    before = make("bert", hidden_dropout_prob=0.0)
    for (name, one), other, start in zip(fast.named_parameters(), model.parameters(), before.parameters(), strict=True):
        if not name.endswith("key.bias"):
            assert float((one - other).detach().norm()) < 0.02 * float((other - start).detach().norm()) + 1e-6, name


def test_state_dict_and_modules_do_not_change() -> None:
    model = make("bert", pooling=True)
    names = list(model.state_dict())
    modules = [name for name, _ in model.named_modules()]
    fast = copy.deepcopy(model)
    accelerate(fast)
    assert list(fast.state_dict()) == names
    assert [name for name, _ in fast.named_modules()] == modules
    batch = make_batch(model)
    twin = copy.deepcopy(fast)
    assert twin.forward.__self__ is twin
    expected = model(input_ids=batch[0], attention_mask=batch[1]).pooler_output
    torch.testing.assert_close(
        twin(input_ids=batch[0], attention_mask=batch[1]).pooler_output, expected, atol=1e-5, rtol=1e-5
    )


def test_library_handles_unsupported_passes() -> None:
    model = make("bert", attention_probs_dropout_prob=0.1)
    fast = copy.deepcopy(model)
    accelerate(fast)
    ids_BT, mask_BT = make_batch(model)
    states = fast(input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=True).hidden_states
    assert len(states) == 4
    results = []
    for which in (model, fast):
        torch.manual_seed(3)
        results.append(which.train()(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state)
    assert torch.equal(*results)


@pytest.mark.parametrize("path", ["kernels", "operations", "unpadded"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_first_token_only_equals_library(
    model_type: str, num_layers: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the output and all gradients. The library's gradient of the last key bias is only rounding error."""
    model = make(model_type, num_hidden_layers=num_layers)
    fast = copy.deepcopy(model)
    accelerate(fast)
    if path == "operations":
        monkeypatch.setattr(loading, "load", lambda dtype: None)
    ids_BT, mask_BT = make_batch(model)
    mask_BT = mask_BT.bool()
    if path == "unpadded":
        first_B1H = unpadded.encode(fast, ids_BT, mask_BT, token_indices(mask_BT), head_input=FIRST)
    else:
        first_B1H = fast(input_ids=ids_BT, attention_mask=mask_BT, head_input=FIRST).last_hidden_state
    expected_B1H = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state[:, :1]
    torch.testing.assert_close(first_B1H, expected_B1H, atol=1e-5, rtol=1e-5)
    torch.manual_seed(2)
    asked_B1H = torch.randn_like(expected_B1H)
    for output_B1H in (first_B1H, expected_B1H):
        (output_B1H * asked_B1H).mean().backward()
    largest = max(float(parameter.grad.abs().max()) for parameter in model.parameters() if parameter.grad is not None)
    unseen = f"encoder.layer.{num_layers - 1}.attention.self.key.bias"
    for (name, parameter), theirs in zip(fast.named_parameters(), model.parameters(), strict=True):
        assert (parameter.grad is None) == (name == unseen)
        gradient = torch.zeros_like(parameter) if name == unseen else parameter.grad
        assert gradient is not None and theirs.grad is not None, name
        torch.testing.assert_close(
            gradient, theirs.grad, atol=4e-6 * largest, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_first_token_only_in_bf16_is_as_close_to_fp32_as_hugging_face() -> None:
    model = make("bert")
    fast = copy.deepcopy(model)
    accelerate(fast)
    ids_BT, mask_BT = make_batch(model)

    def first(which: PreTrainedModel, bf16: bool, **asked: HeadInput) -> dict[str, Tensor]:
        which.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            first_BH = which(input_ids=ids_BT, attention_mask=mask_BT, **asked).last_hidden_state[:, 0].float()
        torch.manual_seed(2)
        (first_BH * torch.randn_like(first_BH)).mean().backward()
        gradients = {name: p.grad.clone() for name, p in which.named_parameters() if p.grad is not None}
        return {"output": first_BH.detach(), **gradients}

    exact, theirs, ours = first(model, False), first(model, True), first(fast, True, head_input=FIRST)
    assert exact.keys() - ours.keys() == {"encoder.layer.2.attention.self.key.bias"}
    for name, tensor in ours.items():
        if not name.endswith("key.bias"):  # the gradient of the key bias is zero in exact arithmetic
            assert distance(tensor, exact[name]) < 2 * distance(theirs[name], exact[name]) + 0.01, name


def test_first_token_layer_dropout_has_hugging_faces_distribution() -> None:
    """Compare the mean and standard deviation of the output over many masks, without dropout in lower layers."""
    model = make("bert", num_hidden_layers=1, hidden_dropout_prob=0.3).train()
    model.embeddings.dropout.p = 0.0
    ids_BT, mask_BT = make_batch(model, (6,) * 500)
    ids_BT[:] = ids_BT[0]
    hidden_BTH = model.embeddings(input_ids=ids_BT)
    outputs = []
    for first in (
        lambda: model.encoder.layer[0](hidden_BTH)[:, 0],
        lambda: first_token_of(model.encoder.layer[0], hidden_BTH, mask_BT.bool())[:, 0],
    ):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(torch.cat([first() for _ in range(20)]))
    theirs_NH, ours_NH = outputs
    error_H = (theirs_NH.var(0) / len(theirs_NH) + ours_NH.var(0) / len(ours_NH)).sqrt()
    assert float(((theirs_NH.mean(0) - ours_NH.mean(0)) / error_H).abs().max()) < 5
    assert float((ours_NH.std(0) / theirs_NH.std(0)).log().abs().max()) < 0.06


def test_first_token_only_is_used_if_head_reads_no_other() -> None:
    """The logits are the same. Without `tokens="first"`, or with adapters in the last layer, it computes all tokens."""
    model = make("roberta")
    fast = copy.deepcopy(model)
    accelerate(fast)
    ids_BT, mask_BT = make_batch(model)
    mask_BT = mask_BT.bool()
    head = ClsHead(hidden_size=SIZES["hidden_size"], num_labels=3, dropout=0.1).eval()
    expected_BC = Classifier(model, head)(ids_BT, mask_BT)
    alone = Classifier(fast, head, tokens="first")
    torch.testing.assert_close(alone(ids_BT, mask_BT), expected_BC, atol=1e-5, rtol=1e-5)
    whole = Classifier(fast, head)
    shapes = [model.encode(ids_BT, mask_BT, None).shape for model in (whole, alone)]
    assert shapes == [(4, 64, 96), (4, 1, 96)]

    class Adapted(nn.Linear):
        pass

    fast.encoder.layer[-1].attention.self.value.__class__ = Adapted
    assert alone.encode(ids_BT, mask_BT, None).shape == (4, 64, 96)


def test_unsupported_encoder_keeps_its_forward() -> None:
    model = DistilBertModel(DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=50))
    assert accelerate(model) == "distilbert has no fast layers"
    assert "forward" not in vars(model)


def test_inference_weights_are_cast_once(monkeypatch: pytest.MonkeyPatch) -> None:
    casts = 0
    for module in (compiled, layer):
        compute = module.compute_weights

        def counted(*arguments: Any, compute: Callable[..., Any] = compute) -> Any:
            nonlocal casts
            casts += 1
            return compute(*arguments)

        monkeypatch.setattr(module, "compute_weights", counted)
    model = make("bert")
    accelerate(model)
    batch = make_batch(model)
    outputs: dict[bool, list[Tensor]] = {False: [], True: []}

    def casts_of_a_pass(bf16: bool = True) -> int:
        before = casts
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs[bf16].append(model(*batch).last_hidden_state.detach())
        return casts - before

    num_layers = SIZES["num_hidden_layers"]
    with torch.inference_mode():
        assert casts_of_a_pass() == casts_of_a_pass(bf16=False) == num_layers
        with inference_weights():
            assert [casts_of_a_pass(), casts_of_a_pass()] == [num_layers, 0]
            assert [casts_of_a_pass(bf16=False), casts_of_a_pass(bf16=False)] == [num_layers, 0]
            with inference_weights():
                assert casts_of_a_pass() == 0
            assert casts_of_a_pass() == 0
            with torch.inference_mode(False):
                assert casts_of_a_pass() == num_layers  # nothing is kept if gradients may be needed
            with ThreadPoolExecutor(1) as other:
                assert other.submit(torch.inference_mode()(casts_of_a_pass)).result() == num_layers
        with pytest.raises(RuntimeError, match="end"), inference_weights():
            casts_of_a_pass()
            raise RuntimeError("the end")
        assert casts_of_a_pass() == num_layers
        for same in outputs.values():
            assert all(torch.equal(output, same[0]) for output in same)
        model.encoder.layer[0].output.dense.weight.data.mul_(2)
        with inference_weights():
            assert casts_of_a_pass() == num_layers
        assert not torch.equal(outputs[True][-1], outputs[True][0])
