"""The estimates for several GPUs: the README has the script's tables, which follow from the formulas."""

import pytest
import torch
from support.runs import ROOT
from transformers import RobertaConfig, RobertaModel

from imdbcls.heads.cls import ClsHead
from imdbcls.models.classifier import count_parameters

SCALE = ROOT / "experiments" / "scale"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCALE))


def test_readme_has_the_tables_that_the_script_prints() -> None:
    import estimate

    readme = (SCALE / "README.md").read_text(encoding="utf-8")
    assert estimate.speed_table() in readme and estimate.cost_table() in readme


def test_estimates_follow_from_the_model() -> None:
    import estimate

    with torch.device("meta"):
        config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        model = RobertaModel(config, add_pooling_layer=False)
        head = ClsHead(hidden_size=768, num_labels=2, dropout=0.1)
    assert count_parameters(model) + count_parameters(head) == estimate.NUM_PARAMETERS
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert linear == estimate.LAYER_WEIGHTS
    # Before truncation, the mean length of all reviews is 302 tokens. Truncation shortens 13.6 % of them.
    assert 250 < estimate.mean_of_power(1) < 302 and estimate.mean_of_power(2) > estimate.mean_of_power(1) ** 2
    assert estimate.all_reduce_bytes(1) == 0
    assert estimate.all_reduce_bytes(2) == 4 * estimate.NUM_PARAMETERS
    assert estimate.step_seconds(16, 8) == estimate.step_seconds(16, 2) == estimate.LAUNCH_SECONDS
    assert estimate.step_seconds(64, 16) > estimate.step_seconds(64, 1)  # the network between the machines dominates
