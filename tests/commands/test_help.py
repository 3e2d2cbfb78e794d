"""The help is complete and read from conf/. A command reports all mistakes together, and suggests similar keys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.imports import heavy_imports
from support.limits import HANG_SECONDS
from support.runs import ROOT

from imdbcls.config import options
from imdbcls.config.other_names import OTHER_NAMES
from imdbcls.config.overrides import compose, examine
from imdbcls.errors import UserError

SAMPLE, OTHER = (f"imdbcls/data/sample/{split}.jsonl" for split in ("train", "test"))
HEADS = ", ".join(options.groups()["head"])


def command(*arguments: str, module: str = "train") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"imdbcls.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "HYDRA_FULL_ERROR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )


def mistakes(*texts: str) -> list[str]:
    """Return the mistakes that the command `imdbcls.train` reports."""
    with pytest.raises(UserError) as caught:
        raise UserError(*examine(texts, "run").mistakes)
    return str(caught.value).splitlines()


def test_every_choice_describes_itself_in_one_line() -> None:
    found = sorted(path.relative_to(ROOT / "conf") for path in (ROOT / "conf").glob("*/*.yaml"))
    assert len(found) > 25
    for path in found:
        words = options.groups()[path.parent.name][path.stem]
        assert words.endswith(".") and 20 < len(words) <= 110, f"conf/{path} begins with {words!r}"


def test_every_config_key_has_a_description() -> None:
    keys = options.config_keys()
    assert {"lr", "data", "data.train_limit", "trainer.log_every", "plugins"} <= {each.key for each in keys}
    for each in keys:
        assert len(each.description) > 5, f"conf/config.yaml has no comment on {each.key}"
    (lr,) = (each for each in keys if each.key == "lr")
    assert lr.default == "${backbone.recommended_lr}" and lr.description.startswith("peak learning rate; ")


def test_help_shows_groups_choices_and_config_keys() -> None:
    answer = command("--help")
    assert answer.returncode == 0 and answer.stderr == ""
    for group, described in options.groups().items():
        assert f"\n{group}\n" in answer.stdout
        for choice, words in described.items():
            assert f" {choice} {words} " in " ".join(answer.stdout.split())
    assert "  lr=${backbone.recommended_lr} " in answer.stdout and "  data.train_limit=null " in answer.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["lrr=1"], ["--cfg", "job"]])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    _, found = heavy_imports("imdbcls.train", arguments, ROOT)
    assert found == "set()"


def test_the_defaults_tree_stays_readable() -> None:
    answer = command("--info", "defaults-tree")
    assert answer.returncode == 0
    assert "    head: cls\n" in answer.stdout and "    experiment: null\n" in answer.stdout


def test_all_mistakes_are_reported_together() -> None:
    answer = command(
        "lrr=3", "head=lstmm", "epochs=abc", "backbone.fast=yep", "trainer=3", "head", "--lr", "data=files"
    )
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.removeprefix("imdbcls: ").splitlines() == [
        "--lr is not an option; write choices and keys without dashes: lr=3e-5.",
        "head does not have the form key=value, such as lr=3e-5.",
        f"head=lstmm is not one of {HEADS}; closest: lstm, bilstm, last.",
        "lrr: there is no such key; closest: lr.",
        "trainer=3: trainer is a section; set one of its keys: trainer.micro_batch_size, trainer.max_grad_norm, "
        "trainer.log_every, trainer.patience, trainer.ema_decay, trainer.head_first_epochs, "
        "trainer.head_first_lr, trainer.swa_start, trainer.greedy_soup, trainer.score_test_each_epoch, "
        "trainer.profile_steps.",
        "data.train has no value: set data.train=...",
        "epochs=abc is not a whole number of at least 1.",
        "backbone.fast=yep is not true or false.",
    ]


def test_other_projects_names_lead_to_keys_that_exist() -> None:
    groups = options.groups()
    ours = {*groups, *(each.key for each in options.config_keys())}
    for group, names in groups.items():
        ours |= {f"{group}.{key}" for name in names for key in options.choice_keys(group, name)}
    assert {name.split()[0] for name in OTHER_NAMES.values()} <= ours
    assert not OTHER_NAMES.keys() & ours


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tracker.finish_seconds=3", "tracker.finish_seconds: there is no such key; closest: tracker.wandb.finish"),
        ("+tracker.key=1", "tracker.key=1: there is no such key; closest: tracker."),
        (
            "tracker=none tracker.wandb.finish_seconds=3",
            "tracker.wandb.finish_seconds: tracker=none has no key wandb; only tracker=wandb has it.",
        ),
        ("tracker=[wandb,nothing]", "tracker=nothing is not one of mlflow, none, "),
        (
            "tracker=[none] tracker.wandb.finish_seconds=3",
            "tracker.wandb.finish_seconds: the chosen tracker has no key wandb; only tracker=wandb has it.",
        ),
        ("tracker=nothing,wandb", "tracker=nothing is not one of mlflow, none, tensorboard, wandb."),
        ("headd=lstm", "headd: there is no such key; closest: head."),
        ("head_name=lstm", "head_name: there is no such key; closest: head."),
        ("total_epochs=3", "total_epochs: there is no such key; closest: epochs."),
        ("learning_rate=1e-5", "learning_rate: there is no such key; use lr."),
        ("dropout=0.3", "dropout: there is no such key; closest: backbone.dropout, head.dropout."),
        ("data.trainlimit=4", "data.trainlimit: there is no such key; closest: data.train_limit"),
        ("quux=1", "quux: there is no such key; python -m imdbcls.train --help lists them."),
        ("head.bidirectional=true", "head.bidirectional: head=cls has no key bidirectional; only head=lstm has it."),
        ("head.dropout.x=1", "head.dropout.x: there is no such key; closest: head.dropout"),
        ("head=null", "head=null: every run needs a choice for head: attention, bilstm"),
        (
            "experiment=null",
            "experiment=null: leave out experiment, or choose one of heads, original, quickstart, quickstart_study, "
            "stable.",
        ),
        ("~tracker", "~tracker: every run needs a choice for tracker: mlflow, none, tensorboard, wandb."),
        ("~batch_size", "~batch_size: batch_size cannot be removed, because every run needs it."),
        (
            "lr=1e-5,2e-5",
            "lr=1e-5,2e-5 has several values: add --multirun to train a run for each, or write lr=[...] for a list.",
        ),
        ("head=cls,mean", "head=cls,mean has several values: add --multirun to train a run for each."),
        ("lr=[1,", "lr=[1, is not readable as key=value"),
        ("lr=fast", "lr=fast is not a number above 0."),
        ("batch_size=1.5", "batch_size=1.5 is not a whole number of at least 1 (documents)."),
        ("metric=acc", "metric=acc is not one of accuracy, f1, auroc, loss, brier; closest: accuracy."),
        ("monitor=val/loss", "monitor: there is no such key; use metric."),
        ("precision=null", "precision=null is not one of auto, fp32, bf16."),
        (
            "optimizer.weight_decay=no",
            "optimizer.weight_decay=no: optimizer.weight_decay must be a number (default: 0.01).",
        ),
        (
            "optimizer.betas=0.9",
            "optimizer.betas=0.9: optimizer.betas must be a list such as [a,b] (default: [0.9, 0.999]).",
        ),
        ("data.path=[a,b]", "data.path=[a,b] is not the path of a file or folder, or a hub id."),
        ("plugins=mine", "plugins=mine is not a list such as [a,b]."),
        ("optimizer.lr=${nope}", "optimizer.lr has no usable value: "),
        ("experiment=nope", "experiment=nope is not one of heads, original, quickstart, quickstart_study, stable."),
        ("head._target_=os.system", "head._target_=os.system is refused: this section may only use"),
        ("warmup=1.5", "warmup=1.5 is not a number from 0 to below 1."),
        ("max_length=9999", "max_length=9999 is more than the 512 tokens that backbone=roberta-base accepts."),
        ("max_length=600 backbone=tiny", "max_length=600 is more than the 512 tokens that backbone=tiny accepts."),
        (
            "max_length=9000 backbone=modernbert-base",
            "max_length=9000 is more than the 8192 tokens that backbone=modernbert-base accepts",
        ),
        ("backbone=tiny backbone.pretrained=true", "backbone=tiny has no pretrained weights"),
        ("backbone.path=./nothing", "backbone.path=./nothing is not a folder. Use a local folder"),
        ("backbone.path=5", "backbone.path=5 is not a folder. Use a local folder"),
        ("backbone.path=[5]", "backbone.path=[5] is not a folder, package:NAME/FOLDER or a hub id."),
        ("backbone.path=package:nope/x", "backbone.path=package:nope/x needs the Python package nope"),
        ("data.path=./nothing", "data.path=./nothing does not exist. Set it to a folder of Parquet"),
        ("data=files data.train=nofile.csv", "data.train=nofile.csv does not exist or is not a regular file."),
        ("data=files data.train=5", "data.train=5 has no supported extension (.csv,"),
        ("data=files data.train=tests", "data.train=tests is a folder; choose a file in it (.csv, .tsv"),
        ("data=files data.train=[a.csv,b.csv]", "data.train=a.csv does not exist or is not a regular file."),
        (
            f"data=files data.train={SAMPLE} data.test={SAMPLE}",
            f"data.test={SAMPLE} is the same file as data.train: use different documents for each split.",
        ),
        (
            f"data=files data.train={SAMPLE} data.label_column=[label,stars]",
            "data.label_column=[label,stars]: a document has exactly one label; for several labels, train one",
        ),
        (
            f"data=files data.train={SAMPLE} data.text_column=[text,movie,text]",
            "data.text_column names the column 'text' twice.",
        ),
        (
            f"data=files data.train={SAMPLE} data.text_column=review data.id_column=nr",
            f"{SAMPLE} has no columns 'review' (data.text_column) and 'nr' (data.id_column); it has 'id', ",
        ),
        (f"data=files data.train={SAMPLE} data.quoting=all", "data.quoting=all is not one of auto, standard, none."),
        (
            f"data=files data.train={SAMPLE} data.delimiter=dot",
            "data.delimiter=dot is not one of auto, comma, semicolon, ",
        ),
        ("tracker.mode=on", "tracker.mode=on is not one of auto, online, offline, disabled."),
        (
            "optimizer=lion optimizer.betas=[0.9,1]",
            "optimizer.betas=[0.9,1] is not a list such as [a,b] in which each item is a number from 0 to",
        ),
        ("optimizer=lion optimizer.weight_decay=-1", "optimizer.weight_decay=-1 is not a number of at least 0."),
        (f"data=files data.train={SAMPLE} data.skip_empty=2", "data.skip_empty=2 is not true or false."),
        ("+trainer.foo=1", "trainer.foo: there is no such key"),
        ("+foo=1", "foo: there is no such key; python -m imdbcls.train --help lists them."),
        ("++data.limit=1", "data.limit: there is no such key; closest: data.t"),
        ("data.max_windows=3", "data.max_windows=3 has no effect with data.truncation=head; leave one of them out."),
        (
            f"data=files data.train={SAMPLE} data.test={OTHER} data.test_fraction=0.1",
            f"data.test_fraction=0.1 has no effect with data.test={OTHER}; leave one of them out.",
        ),
        ("study=1e5", "study=100000.0 is not a folder name"),
    ],
)
def test_each_mistake_gives_one_sentence(text: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = mistakes(*text.split())
    assert len(found) == 1 and found[0].startswith(sentence), found


@pytest.mark.parametrize(
    ("texts", "sentences"),
    [
        (["+head.widht=3"], ["head.widht: imdbcls.heads.cls.ClsHead has no argument widht; it takes dropout."]),
        (["+optimizer.beta=2"], ["optimizer.beta: torch.optim.AdamW has no argument beta; it takes lr, betas, eps, "]),
        (["optimizer.betas=[2,3]"], ["torch.optim.AdamW rejects its settings (optimizer.*): Invalid beta parameter"]),
        (
            ["+tracker.wandb.key=1"],
            ["tracker.wandb.key: imdbcls.tracking.wandb.WandbTracker has no argument key; it takes connect_seconds, "],
        ),
        (
            ["lr=0", "head.dropout=2"],
            ["lr=0 is not a number above 0.", "head.dropout=2 is not a number from 0 to below 1."],
        ),
        (["~head.dropout"], ["head.dropout is missing: imdbcls.heads.cls.ClsHead requires it. Add +head.dropout=..."]),
        (["plugins=[nope]", "head._target_=nope.Head"], ["head._target_=nope.Head cannot be imported: No module"]),
        (
            [
                "plugins=[plugins]",
                "head._target_=plugins.wide.WideHead",
                "+head.widht=3",
                "head.dropout=no",
                "+optimizer.k=1",
            ],
            [
                "head.dropout=no is not a number from 0 to 1.",
                "head.widht: plugins.wide.WideHead has no argument widht; it takes width, dropout; closest: width.",
                "optimizer.k: torch.optim.AdamW has no argument k; it takes lr, betas, eps, ",
            ],
        ),
    ],
)
def test_unknown_arguments_are_reported_before_loading(
    texts: list[str], sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imdbcls.sections import require_buildable

    (tmp_path / "plugins").mkdir()
    head = (
        "from typing import Annotated\nfrom annotated_types import Interval\n"
        "Share = Annotated[float, Interval(ge=0, le=1)]\n"
        "class WideHead:\n"
        "    def __init__(self, *, hidden_size, num_labels, width=2, dropout: Share = 0.0): pass\n"
    )
    (tmp_path / "plugins" / "wide.py").write_text(head)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        require_buildable(compose(texts))
    found = str(caught.value).splitlines()
    assert len(found) == len(sentences)
    for line, sentence in zip(found, sentences, strict=True):
        assert line.startswith(sentence), line


def test_missing_files_are_reported_with_other_mistakes() -> None:
    assert [line[:30] for line in mistakes("epochs=0", "data.path=./nothing", "backbone.path=./x", "max_length=z")] == [
        "epochs=0 is not a whole number",
        "max_length=z is not a whole nu",
        "backbone.path=./x is not a fol",
        "data.path=./nothing does not e",
    ]


def test_each_file_without_its_columns_gets_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = mistakes("data=files", f"data.train={SAMPLE}", f"data.test={OTHER}", "data.text_column=review")
    assert [line.partition(" has no column 'review'")[0] for line in found] == [SAMPLE, OTHER]


def test_number_can_be_a_name(tmp_path: Path) -> None:
    assert compose(["study=2024"]).study == "2024"
    path = tmp_path / "d.csv"
    path.write_text("2024,label\n" + "".join(f"text {row},{row % 2}\n" for row in range(20)))
    config = compose(["backbone=tiny", "data=files", f"data.train={path}", "data.text_column=2024"])
    assert config.data.source.arguments["text_column"] == "2024"


def test_existing_key_is_accepted_in_every_form() -> None:
    config = compose(["head=lstm", "head.bidirectional=true", "+optimizer.amsgrad=true", "~optimizer.eps"])
    assert config.head.arguments["bidirectional"] is True
    assert "eps" not in config.optimizer.arguments and config.optimizer.arguments["amsgrad"] is True
    config = compose(["data.test_limit=5", "tracker.entity='a, b'", "optimizer.betas=[0.8,0.9]"])
    assert config.tracker.entity == "a, b"


def test_key_with_several_types_accepts_each_type() -> None:
    tiny = ("backbone=tiny", "data=sample")
    assert compose([*tiny, "backbone.freeze=1"]).backbone.freeze == 1
    assert compose([*tiny, "backbone.freeze=true"]).backbone.freeze is True
    for wanted in ("[1,5]", "{negative: 1, positive: 5}", "auto", "null"):
        compose([*tiny, f"loss.class_weights={wanted}"])
    assert mistakes(*tiny, "backbone.freeze=often", "loss.class_weights=often") == [
        "backbone.freeze=often is not false, true (the entire encoder) or a whole number of layers, counted from the "
        "lowest.",
        "loss.class_weights=often is not null, auto, or one number above 0 per class, such as [1,5] or "
        "{neg: 1, pos: 5}.",
    ]


def test_a_sweep_is_checked_before_its_first_job() -> None:
    answer = command("--multirun", "head=lstm,clss,cls", "head.bidirectional=true", "lr=1e-5,abc", "runs_dir=nowhere")
    assert answer.returncode == 2
    assert answer.stderr.removeprefix("imdbcls: ").splitlines() == [
        f"head=clss is not one of {HEADS}; closest: cls.",
        "head.bidirectional: head=cls has no key bidirectional; only head=lstm has it.",
        "lr=abc is not a number above 0.",
    ]
    answer = command("experiment=heads", "head.normalize=false", "seed=0,-1", "runs_dir=nowhere")
    assert answer.returncode == 2
    assert (
        "head.normalize: head=cls has no key normalize; only head=weight_avg or head=weight_avg_plain has it."
        in answer.stderr
    )
    assert "seed=-1 is not a whole number of at least 0." in answer.stderr
    assert not (ROOT / "nowhere").exists()


def test_choices_in_the_users_own_folder(tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "mine.yaml").write_text("_target_: imdbcls.heads.mean.MeanHead\nname: mine\n")
    answer = command("--config-dir", str(tmp_path), "head=mine", "--cfg", "job", "--package", "head.name")
    assert answer.stdout == "mine\n", answer.stderr
