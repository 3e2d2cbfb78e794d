"""The compiled LSTM and GRU give PyTorch's results, with and without AMX, with any number of threads."""

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from support.encoders import LENGTHS, distance
from support.hardware import needs_kernels
from support.kernels import HALF, cu_seqlens_of, library, limit, random, unwritten, with_one_and_three_threads
from torch import Tensor, nn

from imdbcls.heads.pooling import last_real_token, reverse_within_length
from imdbcls.kernels import loading, recurrent
from imdbcls.kernels.heads import final_output

pytestmark = needs_kernels


@pytest.fixture(scope="module", params=["amx", "avx512", "avx2"])
def loaded(request: pytest.FixtureRequest) -> Iterator[loading.Kernels]:
    yield from library(request.param)


@pytest.fixture(params=[nn.LSTM, nn.GRU])
def kind(request: pytest.FixtureRequest) -> type[nn.Module]:
    return request.param


def outputs_and_gradients(
    layers: nn.ModuleDict,
    hidden_BTD: Tensor,
    mask_BT: Tensor,
    using: loading.Kernels | None,
    *,
    bf16: bool = False,
    all_tokens: bool = False,
) -> dict[str, Tensor]:
    """Return the outputs of both directions and all gradients of a fixed function of them, keyed by name.

    An output is the layer's output after the last token or, with `all_tokens`, after each token. PyTorch's
    layer computes it if the kernels `using` are None or do not support the width. With `bf16`, compute in bfloat16.
    """
    if all_tokens:
        output = pytorch_outputs if using is None else partial(recurrent.token_outputs, using)
    else:
        output = pytorch_output if using is None else final_output
    layers.zero_grad()
    hidden_BTD = hidden_BTD.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", HALF, enabled=bf16):
        patch.setattr("imdbcls.kernels.recurrent.load", lambda dtype: using)
        patch.setattr("imdbcls.kernels.recurrent.computes_bf16", lambda device: True)
        outputs = {
            "forwards": output(layers["forwards"], hidden_BTD, mask_BT),
            "backwards": output(layers["backwards"], hidden_BTD, mask_BT, backward=True),
        }
    torch.manual_seed(2)
    torch.stack([(output * torch.randn(output.shape)).sum() for output in outputs.values()]).sum().backward()
    assert hidden_BTD.grad is not None
    found = {name: output.detach() for name, output in outputs.items()} | {"tokens": hidden_BTD.grad}
    return found | {name: weight.grad.clone() for name, weight in layers.named_parameters() if weight.grad is not None}


def pytorch_output(layer: nn.Module, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False) -> Tensor:
    """Compute `final_recurrent_output` in the autocast dtype."""
    hidden_BTD = reverse_within_length(hidden_BTD, mask_BT) if backward else hidden_BTD
    return last_real_token(layer(hidden_BTD)[0], mask_BT)


def pytorch_outputs(layer: nn.Module, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False) -> Tensor:
    """Return the outputs at the non-padding tokens in the order of the document, in the autocast dtype."""
    if not backward:
        return layer(hidden_BTD)[0][mask_BT]
    return reverse_within_length(layer(reverse_within_length(hidden_BTD, mask_BT))[0], mask_BT)[mask_BT]


def layers_and_batch(
    kind: type[nn.Module], width: int, lengths: tuple[int, ...]
) -> tuple[nn.ModuleDict, Tensor, Tensor]:
    torch.manual_seed(0)
    layers = nn.ModuleDict({name: kind(width, width, batch_first=True) for name in ("forwards", "backwards")})
    for weight in layers.parameters():
        weight.data *= 2
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return layers, torch.randn(*mask_BT.shape, width).to(HALF).float(), mask_BT


@pytest.mark.parametrize(
    ("width", "lengths", "all_tokens"),
    [
        *((96, LENGTHS, False), (32, (1,), False), (64, (90,), False), (64, (1, 9, 2) * 13, False)),
        *((40, LENGTHS, False), (8, (3, 1), False)),
        *((96, LENGTHS, True), (32, (1,), True), (64, (1, 9, 2) * 13, True)),
    ],
)
def test_layer_is_as_exact_as_pytorchs(
    loaded: loading.Kernels, kind: type[nn.Module], width: int, lengths: tuple[int, ...], all_tokens: bool
) -> None:
    """The reference is float64. Widths that are not multiples of 32 use PyTorch's layer in the dtype of the weights."""
    layers, hidden_BTD, mask_BT = layers_and_batch(kind, width, lengths)
    run = partial(outputs_and_gradients, all_tokens=all_tokens)
    exact = run(copy.deepcopy(layers).double(), hidden_BTD.double(), mask_BT, None)
    bf16 = loaded.dtype == HALF
    ours, theirs = (run(layers, hidden_BTD, mask_BT, using, bf16=bf16) for using in (loaded, None))
    assert ours.keys() == exact.keys() and len(exact) == 11
    for name, value in exact.items():
        error, their_error = (ours[name] - value).norm(), (theirs[name] - value).norm()
        assert error <= 1.2 * their_error + limit(loaded, 0.0005) * value.norm(), name
    plain = run(layers, hidden_BTD, mask_BT, None)
    assert (width % 32 == 0) != all(torch.equal(ours[name], plain[name]) for name in ours)


def test_output_at_the_last_token_has_the_bits_of_the_final_output(
    loaded: loading.Kernels, kind: type[nn.Module]
) -> None:
    """A document that is read backwards ends with its first token."""
    layers, hidden_BTD, mask_BT = layers_and_batch(kind, 96, LENGTHS)
    run = partial(outputs_and_gradients, layers, hidden_BTD, mask_BT, loaded, bf16=loaded.dtype == HALF)
    final, at_tokens, offsets = run(), run(all_tokens=True), cu_seqlens_of(LENGTHS)
    assert torch.equal(at_tokens["forwards"][offsets[1:] - 1], final["forwards"])
    assert torch.equal(at_tokens["backwards"][offsets[:-1]], final["backwards"])


def test_bias_gradients_are_separate_tensors(loaded: loading.Kernels, kind: type[nn.Module]) -> None:
    """Gradient clipping multiplies gradients in place, so two gradients must not share memory."""
    layers, *batch = layers_and_batch(kind, 32, (3, 2))
    outputs_and_gradients(layers, *batch, loaded, bf16=loaded.dtype == HALF)
    one, other = layers["forwards"].bias_ih_l0.grad, layers["forwards"].bias_hh_l0.grad
    num_equal = 4 * 32 if kind is nn.LSTM else 2 * 32  # the gradients of a GRU's new gate differ
    assert torch.equal(one[:num_equal], other[:num_equal]) and one.any() and other.all()
    one.mul_(2)
    assert torch.equal(one[:num_equal], 2 * other[:num_equal])


def test_padding_is_never_read(loaded: loading.Kernels, kind: type[nn.Module]) -> None:
    layers, hidden_BTD, mask_BT = layers_and_batch(kind, 64, LENGTHS)
    run = partial(outputs_and_gradients, layers, using=loaded, bf16=loaded.dtype == HALF)
    expected = run(hidden_BTD, mask_BT)
    assert not expected["tokens"][~mask_BT].any()
    wider_BTD = torch.nn.functional.pad(hidden_BTD.masked_fill(~mask_BT.unsqueeze(2), torch.nan), (0, 0, 0, 5), value=9)
    wider = run(wider_BTD, torch.nn.functional.pad(mask_BT, (0, 5)))
    wider["tokens"] = wider["tokens"][:, :-5]
    assert all(torch.equal(wider[name], expected[name]) for name in expected)
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        alone, tolerance = run(hidden_BTD[one, :length], mask_BT[one, :length]), 0.01 if loaded.dtype == HALF else 0.0
        assert all(distance(alone[name][0], expected[name][row]) <= tolerance for name in ("forwards", "backwards"))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_bits_do_not_depend_on_threads_or_saved_tensors(loaded: loading.Kernels, name: str, backwards: bool) -> None:
    lengths, width = (5, 0, 17) * 23, 64  # nine groups of up to eight documents; a third of the documents is empty
    num_rows, dtype, num_gates = sum(lengths), loaded.dtype, 4 if name == "lstm" else 3
    sizes = (len(lengths), width, backwards)
    weight, offsets = (0.1 * random(num_gates * width, width)).to(dtype), cu_seqlens_of(lengths)
    bias = () if name == "lstm" else (random(width).float(),)
    d_final_BH, d_output_NH = (random(num, width).to(dtype) for num in (len(lengths), num_rows))

    def all_results() -> list[Tensor]:
        gates = random(num_rows, num_gates * width).to(dtype)
        alone_BH, final_BH = (unwritten(len(lengths), width, dtype=dtype) for _ in range(2))
        alone_NH, output_NH = (unwritten(num_rows, width, dtype=dtype) for _ in range(2))
        loaded.call(name, gates, weight, *bias, offsets, alone_BH, None, None, None, *sizes)
        loaded.call(name, gates, weight, *bias, offsets, None, alone_NH, None, None, *sizes)
        assert torch.equal(gates, random(num_rows, num_gates * width).to(dtype))
        previous_NH = unwritten(num_rows, width, dtype=dtype)
        saved_NH = unwritten(num_rows, width, dtype=torch.float32 if name == "lstm" else dtype)
        loaded.call(name, gates, weight, *bias, offsets, final_BH, output_NH, previous_NH, saved_NH, *sizes)
        saved = (saved_NH,) if name == "lstm" else (previous_NH, saved_NH)
        d_gates = [unwritten(*gates.shape, dtype=dtype) for _ in range(1 if name == "lstm" else 2)]
        d_bias = unwritten(len(lengths), 4 * width)
        given = (gates, weight, offsets, *saved, d_final_BH, d_output_NH)
        loaded.call(f"{name}_backward", *given, *d_gates, d_bias, *sizes)
        assert torch.equal(alone_BH, final_BH) and not final_BH[1::3].any() and torch.equal(alone_NH, output_NH)
        tolerance = 0.02 if dtype == HALF else 2e-5
        d_columns = torch.cat([d_gates[0], *(each[:, -width:] for each in d_gates[1:])], dim=1).float()
        torch.testing.assert_close(d_bias[0], d_columns.sum(0), rtol=tolerance, atol=tolerance)
        return [gates, final_BH, output_NH, previous_NH, saved_NH, *d_gates, d_bias[0]]

    one_thread, three_threads = with_one_and_three_threads(all_results)
    assert all(
        one.isfinite().all() and torch.equal(one, other) for one, other in zip(one_thread, three_threads, strict=True)
    )
