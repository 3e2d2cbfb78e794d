"""Tests that need a GPU; skipped without one."""

from pathlib import Path

import pytest
import torch
from support.encoders import distance, make_batch
from support.encoders import make as make_encoder
from support.hardware import needs_cuda
from support.heads import MAKERS
from support.trainers import make

from imdbcls import kernels
from imdbcls.kernels import unpadded
from imdbcls.models.classifier import Classifier

pytestmark = needs_cuda

BF16 = ("device=cuda", "precision=bf16", "backbone.dropout=0.1")


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_unpadded_rows_are_as_close_to_float32_as_padded_rows(model_type: str) -> None:
    model = make_encoder(model_type).cuda()
    ids_BT, mask_BT = (tensor.cuda() for tensor in make_batch(model))
    mask_BT = mask_BT.bool()

    def run(bf16: bool, compact: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            assert not compact or unpadded.applies(ids_BT.device)
            model.is_unpadded = compact
            hidden_BTH = kernels.encode(model, ids_BT, mask_BT)
        hidden_RH = hidden_BTH[mask_BT].float()
        torch.manual_seed(2)
        (hidden_RH * torch.randn_like(hidden_RH)).mean().backward()
        return hidden_RH.detach(), model.embeddings.word_embeddings.weight.grad.clone()

    exact, padded, compact = run(False, False), run(True, False), run(True, True)
    for ours, theirs, truth in zip(compact, padded, exact, strict=True):
        assert distance(ours, truth) < 2 * distance(theirs, truth) + 1e-3


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_first_token_only_is_as_close_to_float32_as_all_tokens(model_type: str) -> None:
    model = make_encoder(model_type).cuda()
    head = MAKERS["cls"](model.config.hidden_size).cuda().eval()
    ids_BT, mask_BT = (tensor.cuda() for tensor in make_batch(model))
    unpadded.enable(model)
    all_tokens = Classifier(model, head)
    first_only = Classifier(model, head, first_token_only=True)
    with torch.no_grad():
        exact_BC = all_tokens(ids_BT, mask_BT.bool())
        with torch.autocast("cuda", torch.bfloat16):
            assert first_only.encode(ids_BT, mask_BT.bool(), None).shape[1] == 1
            of_all_BC, of_first_BC = all_tokens(ids_BT, mask_BT.bool()), first_only(ids_BT, mask_BT.bool())
    assert distance(of_first_BC, exact_BC) < 2 * distance(of_all_BC, exact_BC) + 1e-3


@pytest.mark.parametrize("name", MAKERS)
def test_step_does_not_synchronize(name: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, *BF16)
    trainer.model.head = MAKERS[name](trainer.model.encoder.config.hidden_size).cuda()
    trainer.model.train()
    first, second = list(trainer.batches.train.epoch(0))[:2]
    trainer.step(first)  # loads libraries and allocates memory
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.fetch_metrics()
    assert len(trainer.meter.losses) == 2


@pytest.mark.parametrize("head", ["cls", "lstm", "transformer"])
def test_deterministic_gives_the_same_bits(head: str, tmp_path: Path) -> None:
    losses = []
    try:
        for number in range(2):
            trainer = make(tmp_path / str(number), *BF16, f"head={head}", "deterministic=true")
            trainer.model.train()
            losses.append([trainer.step(batch)[0].item() for batch in trainer.batches.train.epoch(0)])
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses[0] == losses[1]
