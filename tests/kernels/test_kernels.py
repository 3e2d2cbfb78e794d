"""The compiled kernels give PyTorch's results, with and without AMX, with any number of threads."""

from collections.abc import Iterator

import pytest
import torch
from support.encoders import LENGTHS, distance, make, make_batch, run
from support.hardware import needs_bf16, needs_fp32_kernels_in_use, needs_kernels
from support.kernels import HALF, cu_seqlens_of, library, limit, random, unwritten, with_one_and_three_threads
from torch import Tensor

from imdbcls.kernels import loading, products
from imdbcls.kernels.compiled import Dropout
from imdbcls.kernels.encoder import accelerate

pytestmark = needs_kernels

# The precisions in which runs use kernels on this machine.
IN_USE = [
    pytest.param(True, id="bf16", marks=needs_bf16),
    pytest.param(False, id="fp32", marks=needs_fp32_kernels_in_use),
]


@pytest.fixture(scope="module", params=["amx", "avx512", "avx2"])
def loaded(request: pytest.FixtureRequest) -> Iterator[loading.Kernels]:
    yield from library(request.param)


@pytest.fixture(scope="module", params=["amx", "avx512"])
def half(request: pytest.FixtureRequest) -> Iterator[loading.Kernels]:
    yield from library(request.param)


# ---- Attention


@pytest.mark.parametrize("width", [24, 32, 64, 80])
@pytest.mark.parametrize("lengths", [(1,), (37, 5, 64, 1), (0, 33), (300,)])
@pytest.mark.parametrize(
    ("scale", "tolerance"), [(1, 0.006), (4, 0.012)], ids=("small scores", "scores that are shifted")
)
def test_attention(loaded: loading.Kernels, scale: int, tolerance: float, lengths: tuple[int, ...], width: int) -> None:
    heads, num_rows = 3, sum(lengths)
    qkv_N3H = (scale * random(num_rows, 3 * heads * width)).to(loaded.dtype)
    d_context_NH = random(num_rows, heads * width).to(loaded.dtype)
    offsets = cu_seqlens_of(lengths)
    context_NH = unwritten(num_rows, heads * width, dtype=loaded.dtype)
    max_AN, scale_AN = unwritten(heads, num_rows), unwritten(heads, num_rows)
    sizes = (len(lengths), heads, width)
    loaded.call("attention", qkv_N3H, offsets, context_NH, max_AN, scale_AN, *sizes)
    d_qkv_N3H, d_sum_B3H = unwritten(*qkv_N3H.shape, dtype=loaded.dtype), unwritten(len(lengths), qkv_N3H.shape[1])
    loaded.call(
        "attention_backward", qkv_N3H, context_NH, d_context_NH, max_AN, scale_AN, offsets, d_qkv_N3H, d_sum_B3H, *sizes
    )
    exact_N3H = qkv_N3H.double().requires_grad_()
    contexts = []
    for document_L3H in exact_N3H.split(lengths):
        query, key, value = document_L3H.view(-1, 3, heads, width).permute(1, 2, 0, 3)
        probability_ALL = torch.softmax(query @ key.transpose(1, 2) * width**-0.5, dim=2)
        contexts.append((probability_ALL @ value).transpose(0, 1).flatten(1))
    torch.cat(contexts).backward(d_context_NH.double())
    assert exact_N3H.grad is not None
    assert distance(context_NH.double(), torch.cat(contexts).detach()) < limit(loaded, 0.005)
    # If one probability is close to 1, its gradient is small, and the rounding error is relatively larger.
    assert distance(d_qkv_N3H.double(), exact_N3H.grad) < limit(loaded, tolerance)
    # Terms of a sum over rows cancel, so compare the error with the size of the terms.
    error_3H = (d_sum_B3H[0].double() - exact_N3H.grad.sum(0)).abs()
    assert float(error_3H.max()) < limit(loaded, 0.01) * float(exact_N3H.grad.abs().sum(0).max())


def test_scores_that_overflow_the_exponential(loaded: loading.Kernels) -> None:
    qkv_N3H = (60 * random(40, 96)).to(loaded.dtype)
    context_NH = unwritten(40, 32, dtype=loaded.dtype)
    loaded.call("attention", qkv_N3H, cu_seqlens_of((40,)), context_NH, None, None, 1, 1, 32)
    query, key, value = qkv_N3H.double().chunk(3, dim=1)
    assert distance(context_NH.double(), torch.softmax(query @ key.T * 32**-0.5, dim=1) @ value) < limit(loaded, 0.005)


# ---- Rows


@pytest.mark.parametrize(("num_rows", "width"), [(1, 384), (300, 96), (7, 100), (130, 8)])
@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_dropout_residual_and_norm(loaded: loading.Kernels, num_rows: int, width: int, probability: float) -> None:
    dropout = Dropout(probability, 5) if probability else None
    residual_NH = random(num_rows, width).to(loaded.dtype)
    update_NH = random(width, num_rows).t().contiguous().to(loaded.dtype)
    weight_H, bias_H = 1 + random(width).float(), random(width).float()
    out_NH, sum_NH = (unwritten(num_rows, width, dtype=loaded.dtype) for _ in range(2))
    mean_N, rstd_N = unwritten(num_rows), unwritten(num_rows)
    kept_NW = torch.zeros((num_rows, -(-width // 16)), dtype=torch.int16) if dropout else None
    drawn = (dropout.seed, 3, dropout.threshold, dropout.scale) if dropout else (0, 0, 0, 1.0)
    loaded.call(
        "add_and_normalise", residual_NH, update_NH, weight_H, bias_H, sum_NH, out_NH, mean_N, rstd_N, kept_NW,
        num_rows, width, 1e-5, *drawn,
    )  # fmt: skip
    d_out_NH, d_out2_NH = random(num_rows, width + 1)[:, 1:].contiguous().to(loaded.dtype), residual_NH
    d_sum_NH, d_update_NH = (unwritten(num_rows, width, dtype=loaded.dtype) for _ in range(2))
    partial_B3H = unwritten(loaded.blocks_of(num_rows), 3, width)
    loaded.call(
        "add_and_normalise_backward", d_out_NH, d_out2_NH, sum_NH, mean_N, rstd_N, weight_H, kept_NW, d_sum_NH,
        d_update_NH if dropout else None, partial_B3H, num_rows, width, drawn[3],
    )  # fmt: skip

    kept_NH = torch.ones(num_rows, width) if kept_NW is None else bits_of(kept_NW, width)
    exact = [tensor.double().requires_grad_() for tensor in (residual_NH, update_NH, weight_H, bias_H)]
    sum_exact_NH = exact[0] + exact[1] * kept_NH * drawn[3]
    out_exact_NH = torch.nn.functional.layer_norm(sum_exact_NH, (width,), exact[2], exact[3], 1e-5)
    out_exact_NH.backward(d_out_NH.double() + d_out2_NH.double())
    assert distance(out_NH.double(), out_exact_NH.detach()) < limit(loaded, 0.004)
    assert distance(sum_NH.double(), sum_exact_NH.detach()) < limit(loaded, 0.004)
    found = (d_sum_NH, d_update_NH if dropout else d_sum_NH, partial_B3H[0, 0], partial_B3H[0, 1])
    for one, other in zip(found, exact, strict=True):
        assert other.grad is not None and distance(one.double(), other.grad) < limit(loaded, 0.006)
    assert exact[1].grad is not None and distance(partial_B3H[0, 2].double(), exact[1].grad.sum(0)) < limit(
        loaded, 0.02
    )


@pytest.mark.parametrize(("num_rows", "width"), [(1, 384), (300, 96), (7, 100)])
def test_norm_and_dropout(loaded: loading.Kernels, num_rows: int, width: int) -> None:
    dropout = Dropout(0.3, 2**40)
    sum_NH, weight_H, bias_H = (random(*shape).float() for shape in ((num_rows, width), (width,), (width,)))
    out_NH, mean_N, rstd_N = unwritten(num_rows, width, dtype=loaded.dtype), unwritten(num_rows), unwritten(num_rows)
    kept_NW = torch.zeros((num_rows, -(-width // 16)), dtype=torch.int16)
    loaded.call(
        "normalise_and_drop", sum_NH, weight_H, bias_H, out_NH, mean_N, rstd_N, kept_NW, num_rows, width, 1e-5,
        dropout.seed, 3, dropout.threshold, dropout.scale,
    )  # fmt: skip
    d_out_NH, d_sum_NH = random(num_rows, width).to(loaded.dtype), unwritten(num_rows, width)
    partial_B2H = unwritten(loaded.blocks_of(num_rows), 2, width)
    loaded.call(
        "normalise_and_drop_backward", d_out_NH, d_out_NH, sum_NH, mean_N, rstd_N, weight_H, kept_NW, d_sum_NH,
        partial_B2H, num_rows, width, dropout.scale,
    )  # fmt: skip
    exact = [tensor.double().requires_grad_() for tensor in (sum_NH, weight_H, bias_H)]
    normalised_NH = torch.nn.functional.layer_norm(exact[0], (width,), exact[1], exact[2], 1e-5)
    out_exact_NH = normalised_NH * bits_of(kept_NW, width) * dropout.scale
    out_exact_NH.backward(2 * d_out_NH.double())
    assert distance(out_NH.double(), out_exact_NH.detach()) < limit(loaded, 0.004)
    for one, other in zip((d_sum_NH, *partial_B2H[0]), exact, strict=True):
        assert other.grad is not None and distance(one.double(), other.grad) < 1e-5


def bits_of(kept_NW: Tensor, width: int) -> Tensor:
    return (kept_NW[:, :, None] >> torch.arange(16, dtype=torch.int16) & 1).flatten(1)[:, :width]


def masks(loaded: loading.Kernels, dropout: Dropout, number: int, num_rows: int, width: int) -> Tensor:
    kept_NW = torch.zeros((num_rows, -(-width // 16)), dtype=torch.int16)
    zeros_NH, ones_H = torch.zeros((num_rows, width), dtype=loaded.dtype), torch.ones(width)
    loaded.call(
        "add_and_normalise", zeros_NH, zeros_NH, ones_H, ones_H, None, torch.empty_like(zeros_NH), None, None, kept_NW,
        num_rows, width, 1e-5, dropout.seed, number, dropout.threshold, dropout.scale,
    )  # fmt: skip
    return bits_of(kept_NW, width).double()


def test_masks_have_dropout_distribution(loaded: loading.Kernels) -> None:
    """The rate is p; neighboring columns, rows, masks and seeds are independent."""
    for probability in (0.1, 0.5):
        many = [masks(loaded, Dropout(probability, seed), 0, 2000, 384) for seed in (1, 2, 2**62 + 1)]
        many += [masks(loaded, Dropout(probability, 1), number, 2000, 384) for number in (1, 2, 24)]
        together = torch.stack(many)
        expected, variance = 1 - probability, probability * (1 - probability)
        assert abs(float(together.mean()) - expected) < 4 * (variance / together.numel()) ** 0.5
        assert (
            float(((together.mean((0, 1)) - expected) / (variance / 12000) ** 0.5).abs().max()) < 5
        )  # every column has the rate p
        flat = torch.stack([mask.flatten() for mask in many] + [many[0].roll(1, dim).flatten() for dim in (0, 1)])
        assert float((flat.corrcoef() - torch.eye(len(flat))).abs().max()) < 5 / flat.shape[1] ** 0.5
    assert torch.equal(
        masks(loaded, Dropout(0.1, 1), 0, 30, 100), masks(loaded, Dropout(0.1, 1), 0, 40, 384)[:30, :100]
    )
    assert masks(loaded, Dropout(1.0, 1), 0, 20, 64).sum() == 0 and Dropout(1.0, 1).scale == 0


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Compute Philox4x32-7 as defined by Salmon et al. (2011)."""
    for _ in range(7):
        products = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        high, low = [product >> 32 for product in products], [product & 0xFFFFFFFF for product in products]
        counter = [high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def test_masks_are_philox_of_column_row_and_number(loaded: loading.Kernels) -> None:
    dropout, number, width = Dropout(0.4, 0x1234567890ABCDEF), 5, 200
    kept = masks(loaded, dropout, number, 3, width)
    key = [dropout.seed & 0xFFFFFFFF, dropout.seed >> 32]
    for row in range(3):
        for column in range(width):
            first = column // 64 * 64 + column % 16  # four neighboring vectors of sixteen columns share counters
            bits = philox([first, row, number, 0], key)[column % 64 // 16]
            assert bool(kept[row, column]) == (bits >= dropout.threshold)


def beyond_the_nearest(found: Tensor, exact: Tensor) -> float:
    """Return how far the error exceeds the error of rounding to the nearest bfloat16 numbers."""
    return float(((found.double() - exact).abs() - (exact.to(HALF).double() - exact).abs()).max())


def test_gelu_of_every_number(loaded: loading.Kernels) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(HALF)
    x_NF = every[every.isfinite()].view(1, -1).to(loaded.dtype)
    active_NF, again_NF, d_NF = (
        unwritten(*x_NF.shape, dtype=loaded.dtype),
        unwritten(*x_NF.shape, dtype=loaded.dtype),
        torch.ones_like(x_NF),
    )
    loaded.call("gelu", x_NF, active_NF, *x_NF.shape)
    sums_BF = unwritten(*x_NF.shape)
    loaded.call("gelu_backward", x_NF, d_NF, again_NF, sums_BF, *x_NF.shape)
    exact_NF = x_NF.double().requires_grad_()
    value_NF = torch.nn.functional.gelu(exact_NF)
    value_NF.sum().backward()
    assert exact_NF.grad is not None
    assert torch.equal(active_NF, again_NF)
    rounding = 2**-8 if loaded.dtype == HALF else 2**-22  # one rounding in bfloat16, a few in float32
    assert bool(((active_NF - value_NF.detach()).abs() <= 2e-6 + rounding * value_NF.abs()).all())
    if loaded.dtype == torch.float32:
        assert bool(((active_NF - value_NF.detach()).abs() <= 2e-7 + rounding * value_NF.abs()).all())
        assert float((d_NF - exact_NF.grad).abs().max()) <= 5e-7
        assert torch.equal(sums_BF, d_NF)
        return
    # With a gradient of 1, the result is the rounded derivative; the sum over the single row is not rounded.
    assert beyond_the_nearest(active_NF, value_NF.detach()) <= 1e-5
    assert beyond_the_nearest(d_NF, exact_NF.grad) <= 6e-5
    assert float((sums_BF - exact_NF.grad).abs().max()) <= 8e-5
    torch.testing.assert_close(sums_BF[0].to(HALF), d_NF[0])


# ---- Weight gradients, threads


@pytest.mark.parametrize(("num_rows", "outputs", "inputs"), [(1, 32, 32), (77, 416, 96), (600, 64, 1536), (0, 64, 32)])
def test_weight_gradient(loaded: loading.Kernels, num_rows: int, outputs: int, inputs: int) -> None:
    d_y_NO, x_NK = random(num_rows, outputs).to(loaded.dtype), random(num_rows, inputs).to(loaded.dtype)
    found = unwritten(outputs, inputs)
    loaded.call("weight_gradient", d_y_NO, x_NK, found, num_rows, outputs, inputs)
    exact = d_y_NO.double().T @ x_NK.double()
    assert float((found - exact).norm()) <= 1e-5 * float(exact.norm())


@pytest.mark.parametrize(
    ("num_rows", "inputs", "outputs"), [(1, 8, 5), (100, 384, 1152), (53, 100, 300), (7, 1200, 312)]
)
def test_linear_layer_and_gradients(loaded: loading.Kernels, num_rows: int, inputs: int, outputs: int) -> None:
    """Concatenate the weights of two layers. Some sizes are not multiples of the kernels' block sizes."""
    all_rows = products.padded_rows(num_rows, loaded.dtype)
    x_NK, d_y_NO = torch.zeros(all_rows, inputs, dtype=loaded.dtype), torch.zeros(all_rows, outputs, dtype=loaded.dtype)
    x_NK[:num_rows], d_y_NO[:num_rows] = random(num_rows, inputs), random(num_rows, outputs)
    weight_OK, bias_O = random(outputs, inputs).float(), random(outputs).float()
    prepared = products.prepare(loaded, weight_OK[:3], weight_OK[3:])
    y_NO = products.linear(loaded, x_NK, prepared, bias_O)
    assert distance(y_NO.double(), x_NK.double() @ weight_OK.double().T + bias_O) < limit(loaded, 0.004)
    d_x_NK = products.linear_backward(loaded, d_y_NO, prepared)
    assert distance(d_x_NK.double(), d_y_NO.double() @ weight_OK.double()) < limit(loaded, 0.004)
    d_weight_OK = products.weight_gradient(loaded, d_y_NO, x_NK, num_rows)
    assert distance(d_weight_OK.double(), d_y_NO.double().T @ x_NK.double()) < limit(loaded, 0.004)


def test_float32_product_of_a_row_does_not_depend_on_other_rows() -> None:
    """The vectors of a document must not depend on its batch. In bfloat16 with oneDNN, they depend on it slightly."""
    loaded, _ = loading.find_or_build(torch.float32)
    x_NK, weight_OK, bias_O = torch.randn(211, 500), torch.randn(70, 500), torch.randn(70)
    prepared = products.prepare(loaded, weight_OK)
    together_NO = products.linear(loaded, x_NK, prepared, bias_O)
    for first, end in ((0, 1), (5, 12), (100, 211), (3, 200)):
        assert torch.equal(products.linear(loaded, x_NK[first:end], prepared, bias_O), together_NO[first:end])


def test_number_of_threads_does_not_change_bits(loaded: loading.Kernels) -> None:
    def all_results() -> list[Tensor]:
        lengths, num_rows = (100, 3, 257), 360
        qkv_N3H, x_NH = random(num_rows, 288).to(loaded.dtype), random(num_rows, 96).to(loaded.dtype)
        context_NH, out_NH = torch.empty_like(x_NH), torch.empty_like(x_NH)
        sums_AN, scale_AN, d_qkv_N3H, d_B3H = (
            torch.empty(3, num_rows),
            torch.empty(3, num_rows),
            torch.empty_like(qkv_N3H),
            torch.empty(3, 288),
        )
        loaded.call("attention", qkv_N3H, cu_seqlens_of(lengths), context_NH, sums_AN, scale_AN, 3, 3, 32)
        loaded.call(
            "attention_backward",
            qkv_N3H,
            context_NH,
            x_NH,
            sums_AN,
            scale_AN,
            cu_seqlens_of(lengths),
            d_qkv_N3H,
            d_B3H,
            3,
            3,
            32,
        )
        weight_H, mean_N, rstd_N = torch.ones(96), torch.empty(num_rows), torch.empty(num_rows)
        kept_NW, sum_NH = torch.empty((num_rows, 6), dtype=torch.int16), torch.empty_like(x_NH)
        loaded.call(
            "add_and_normalise",
            x_NH,
            context_NH,
            weight_H,
            weight_H,
            sum_NH,
            out_NH,
            mean_N,
            rstd_N,
            kept_NW,
            num_rows,
            96,
            1e-5,
            9,
            1,
            2**31,
            2.0,
        )
        d_sum_NH, d_update_NH, partial_B3H = (
            torch.empty_like(x_NH),
            torch.empty_like(x_NH),
            torch.empty(loaded.blocks_of(num_rows), 3, 96),
        )
        loaded.call(
            "add_and_normalise_backward",
            x_NH,
            None,
            sum_NH,
            mean_N,
            rstd_N,
            weight_H,
            kept_NW,
            d_sum_NH,
            d_update_NH,
            partial_B3H,
            num_rows,
            96,
            2.0,
        )
        weight_OK = torch.empty(288, 96)
        loaded.call("weight_gradient", qkv_N3H, x_NH, weight_OK, num_rows, 288, 96)
        prepared, bias_O = products.prepare(loaded, weight_OK), torch.ones(288)
        y_NO = products.linear(loaded, x_NH, prepared, bias_O)
        return [
            context_NH, d_qkv_N3H, d_B3H[0], out_NH, d_sum_NH, d_update_NH, partial_B3H[0], weight_OK, y_NO,
            products.linear_backward(loaded, y_NO, prepared),
        ]  # fmt: skip

    one_thread, three_threads = with_one_and_three_threads(all_results)
    assert all(torch.equal(one, other) for one, other in zip(one_thread, three_threads, strict=True))


# ---- In the encoder


@pytest.mark.parametrize("bf16", IN_USE)
def test_training_and_evaluation_give_the_same_hidden_states(bf16: bool) -> None:
    model = make("bert")
    accelerate(model)
    ids_BT, mask_BT = make_batch(model)
    with torch.autocast("cpu", HALF, enabled=bf16):
        kept_BTH = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        with torch.inference_mode():
            scored_BTH = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    assert kept_BTH.requires_grad and torch.equal(kept_BTH, scored_BTH)
    assert not scored_BTH[~mask_BT.bool()].any()


@pytest.mark.parametrize("bf16", IN_USE)
def test_encoder_dropout_has_the_distribution_of_pytorchs_operations(
    bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the mean and standard deviation over many masks with the values of PyTorch's operations in fp32."""
    model = make("bert", num_hidden_layers=1, hidden_dropout_prob=0.3).train()
    accelerate(model)
    ids_BT, mask_BT = make_batch(model, (6,) * 500)
    ids_BT[:] = ids_BT[0]

    def moments(bf16: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        with torch.no_grad(), torch.autocast("cpu", HALF, enabled=bf16):
            passes = [model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float() for _ in range(10)]
        hidden_BTH = torch.cat(passes)
        return hidden_BTH.mean(0), hidden_BTH.std(0)

    mean_TH, std_TH = moments(bf16)
    monkeypatch.setattr("imdbcls.kernels.encoder.kernels_for", lambda *_: None)
    exact_mean_TH, exact_std_TH = moments(False)
    assert float(((mean_TH - exact_mean_TH) / exact_std_TH).abs().max()) < 5 * (2 / 5000) ** 0.5 + 0.01
    assert float((std_TH / exact_std_TH).log().abs().max()) < 0.08


def test_bf16_weights_use_the_librarys_layers() -> None:
    """The kernels need norms and biases in fp32."""
    model = make("bert")
    accelerate(model)
    batch = make_batch(model)
    exact, _ = run(model, *batch, bf16=False)
    found, gradients = run(model.to(HALF), *batch, bf16=False)
    assert distance(found, exact) < 0.03 and all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("bf16", IN_USE)
def test_frozen_layers_do_not_change_gradients_above(bf16: bool) -> None:
    model = make("bert", hidden_dropout_prob=0.1).train()
    accelerate(model)
    batch = make_batch(model)
    torch.manual_seed(1)
    hidden, gradients = run(model, *batch, bf16=bf16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer.2" in name)
    torch.manual_seed(1)
    again, few = run(model, *batch, bf16=bf16)
    assert torch.equal(again, hidden) and 0 < len(few) < len(gradients)
    assert all("layer.2" in name and torch.equal(gradients[name], gradient) for name, gradient in few.items())


@pytest.mark.parametrize("bf16", IN_USE)
def test_document_is_the_same_in_any_batch(bf16: bool) -> None:
    """Extra padding changes no bit. If a document is alone in a batch, oneDNN may round differently, by under 1 %."""
    model = make("roberta")
    accelerate(model)
    ids_BT, mask_BT = make_batch(model)
    hidden_BTH, _ = run(model, ids_BT, mask_BT, bf16=bf16)
    wider_ids_BT = torch.nn.functional.pad(ids_BT, (0, 40), value=model.config.pad_token_id)
    wider_mask_BT = torch.nn.functional.pad(mask_BT, (0, 40))
    assert torch.equal(run(model, wider_ids_BT, wider_mask_BT, bf16=bf16)[0], hidden_BTH)
    for row, length in enumerate(LENGTHS):
        alone_LH, _ = run(model, ids_BT[row : row + 1, :length], mask_BT[row : row + 1, :length], bf16=bf16)
        start = sum(LENGTHS[:row])
        assert distance(alone_LH, hidden_BTH[start : start + length]) <= (0.01 if bf16 else 0)


def test_products_use_few_different_numbers_of_rows() -> None:
    rounded = [products.padded_rows(number) for number in range(1, 16_385)]
    assert all(0 <= rows - number < max(32, number / 4) for number, rows in enumerate(rounded, start=1))
    assert len(set(rounded)) < 100
