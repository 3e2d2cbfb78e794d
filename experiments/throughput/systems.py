"""The compared systems: baselines and imdbcls, on the same documents and with the same initial weights.

Each system is built in its own process (`benchmark.py`). In addition to the methods of `System`, every system has these
methods:

- `precision()` returns the name of the precision.
- `first_loss()` returns the mean loss of the first batch, without dropout.
- `warm_up()` uses every tensor shape at least once.
- `round()` trains on every document once, or predicts every document once, and returns the seconds.
- `padding_share()` returns the fraction of padding in the tokens of the last round.
"""

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import forward_flops, matrix_peak_gflops
from torch import Tensor, nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import imdbcls
from imdbcls import build, construction, sections
from imdbcls.data.batch import Batch
from imdbcls.data.batches import Prefetcher
from imdbcls.data.documents import Documents
from imdbcls.data.tokens import tokenize
from imdbcls.models.classifier import Classifier
from imdbcls.models.inference import predict_probabilities
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.device import Hardware, computes_bf16, peak_memory_mb
from imdbcls.runtime.signals import StopRequest
from imdbcls.runtime.versions import versions
from imdbcls.tracking import Trackers

# `choices` contains overrides for the config, as on the command line of `imdbcls.train`. `rounds` is the number of
# rounds.
Settings = Mapping[str, Any]


def original(settings: Settings) -> "OriginalTraining":
    return OriginalTraining(settings)


def trainer_default(settings: Settings) -> "TrainerTraining":
    return TrainerTraining(settings, attention_dropout="null", fast_options=False)


def trainer_best(settings: Settings) -> "TrainerTraining":
    return TrainerTraining(settings, attention_dropout="null", fast_options=True)


def trainer_tuned(settings: Settings) -> "TrainerTraining":
    return TrainerTraining(settings, attention_dropout="0.0", fast_options=True)


def imdbcls_training(settings: Settings) -> "ImdbclsTraining":
    return ImdbclsTraining(settings)


def trainer_predict(settings: Settings) -> "TrainerPredict":
    return TrainerPredict(settings, attention_dropout="null", fast_options=True)


def imdbcls_prediction(settings: Settings) -> "ImdbclsPrediction":
    return ImdbclsPrediction(settings)


def machine(settings: Settings) -> "Machine":
    return Machine(settings)


class System:
    """A compared system. Subclasses set the hardware and the encoder."""

    hardware: Hardware
    encoder: nn.Module

    def lengths(self) -> list[int]:
        """Return the number of real tokens of each document in a round, including special tokens."""
        raise NotImplementedError

    def num_documents(self) -> int:
        return len(self.lengths())

    def num_tokens(self) -> int:
        return sum(self.lengths())

    def forward_flops(self) -> int:
        return forward_flops(self.encoder, self.lengths(), first_token_only=False)

    def peak_memory_mb(self) -> float:
        return peak_memory_mb(self.hardware.device)


class Baseline(System):
    """A baseline: a Hugging Face encoder with a head of imdbcls, and the token ids of the documents."""

    def __init__(self, settings: Settings, attention_dropout: str) -> None:
        choices = ("backbone.fast=false", f"backbone.attention_dropout={attention_dropout}")
        self.config = imdbcls.compose(*settings["choices"], *choices)
        self.hardware = sections.build_hardware(self.config)
        corpus = construction.build_corpus(self.config.data)
        backbone = sections.build_backbone(self.config)
        self.model = sections.build_model(self.config, backbone, len(corpus.label_names)).to(self.hardware.device)
        self.encoder, self.tokenizer = backbone.encoder, backbone.tokenizer
        self.train_examples = self.examples_of(corpus.train)
        self.test_examples = self.examples_of(corpus.test)

    def examples_of(self, documents: Documents) -> list[dict[str, Any]]:
        length = self.config.max_length
        ids = self.tokenizer(list(documents.texts), truncation=True, max_length=length)["input_ids"]
        labels = documents.labels.tolist()
        return [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]

    def lengths(self) -> list[int]:
        return [len(example["input_ids"]) for example in self.train_examples]


class OriginalTraining(Baseline):
    """The original project's loop: float32, all documents padded to `max_length`, Adam and a one-cycle schedule."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, attention_dropout="null")
        self.batch_size = self.config.batch_size
        padded = self.tokenizer.pad(
            self.train_examples, padding="max_length", max_length=self.config.max_length, return_tensors="pt"
        )
        self.input_ids_NT, self.mask_NT = padded["input_ids"], padded["attention_mask"].bool()
        self.labels_N = padded["labels"]
        num_steps = -(-len(self.labels_N) // self.batch_size) * (settings["rounds"] + 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-5)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=3e-5, total_steps=num_steps)

    def loss(self, rows: Tensor) -> Tensor:
        device = self.hardware.device
        logits_BC = self.model(self.input_ids_NT[rows].to(device), self.mask_NT[rows].to(device))
        return F.cross_entropy(logits_BC, self.labels_N[rows].to(device))

    @torch.no_grad()
    def first_loss(self) -> float:
        self.model.eval()
        return self.loss(torch.arange(min(self.batch_size, len(self.labels_N)))).item()

    def warm_up(self) -> None:
        self.train_on(torch.arange(min(self.batch_size, len(self.labels_N))))

    def round(self) -> float:
        return self.train_on(torch.randperm(len(self.labels_N)))

    def train_on(self, order_N: Tensor) -> float:
        self.model.train()
        started = time.perf_counter()
        for rows in order_N.split(self.batch_size):
            self.optimizer.zero_grad()
            self.loss(rows).backward()
            self.optimizer.step()
            self.schedule.step()
        synchronise(self.hardware)
        return time.perf_counter() - started

    def padding_share(self) -> float:
        return 1 - self.mask_NT.sum().item() / self.mask_NT.numel()

    def precision(self) -> str:
        return "fp32"


class TrainerTraining(Baseline):
    """The Hugging Face Trainer. `fast_options` enables bf16, if the hardware supports it, and grouping by length."""

    def __init__(self, settings: Settings, *, attention_dropout: str, fast_options: bool) -> None:
        super().__init__(settings, attention_dropout)
        self.fast_options = fast_options
        bf16 = self.precision() == "bf16"
        options = {"bf16": bf16, "train_sampling_strategy": "group_by_length"} if fast_options else {}
        self.collator = CountingCollator(self.tokenizer)
        self.clock = EpochClock(self.hardware)
        self.trainer = self.make_trainer(per_device_train_batch_size=self.config.batch_size, **options)

    def make_trainer(self, **options: Any) -> Trainer:
        arguments = TrainingArguments(
            output_dir=tempfile.gettempdir(),  # required, but nothing is written to it
            use_cpu=self.hardware.device.type == "cpu",
            num_train_epochs=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        trainer = Trainer(
            model=LossModel(self.model),
            args=arguments,
            train_dataset=self.train_examples,
            processing_class=self.tokenizer,
            data_collator=self.collator,
            callbacks=[self.clock],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def first_loss(self) -> float:
        first = self.train_examples[: self.config.batch_size]
        self.trainer.args.per_device_eval_batch_size = len(first)
        return self.trainer.evaluate(first)["eval_loss"]

    def warm_up(self) -> None:
        # Without grouping, nearly all batches have the same width, so one batch is enough.
        # With grouping, only a complete round has all widths.
        self.trainer.train_dataset = self.train_examples[: None if self.fast_options else self.config.batch_size]
        self.trainer.train()
        self.trainer.train_dataset = self.train_examples

    def round(self) -> float:
        self.collator.start()
        self.trainer.train()
        return self.clock.seconds

    def padding_share(self) -> float:
        return self.collator.padding_share()

    def precision(self) -> str:
        return self.hardware.precision if self.fast_options else "fp32"


class TrainerPredict(TrainerTraining):
    """`Trainer.predict` with fast options: the weights are cast to bf16 once, and documents are grouped by length."""

    BATCH_SIZE = 8  # the fastest batch size on a CPU, among 8, 16, 32, 64 and 128 documents

    def make_trainer(self, **options: Any) -> Trainer:
        bf16 = options.pop("bf16")
        return super().make_trainer(**options, bf16_full_eval=bf16)

    def first_loss(self) -> float:
        loss = super().first_loss()
        self.trainer.args.per_device_eval_batch_size = self.BATCH_SIZE
        return loss

    def lengths(self) -> list[int]:
        return [len(example["input_ids"]) for example in self.test_examples]

    def warm_up(self) -> None:
        self.round()

    def round(self) -> float:
        self.collator.start()
        started = time.perf_counter()
        self.trainer.predict(self.test_examples)
        return time.perf_counter() - started


class LossModel(nn.Module):
    """An adapter that gives a classifier the interface that the Trainer expects."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits_BC = self.classifier(input_ids, attention_mask.bool())
        return {"loss": F.cross_entropy(logits_BC, labels), "logits": logits_BC}


class CountingCollator:
    """A collator that pads to the longest document of a batch, as the Trainer does by default, and counts padding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.pad = DataCollatorWithPadding(tokenizer)
        self.start()

    def start(self) -> None:
        self.num_real, self.num_padded = 0, 0  # tokens without and with padding

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Mapping[str, Tensor]:
        batch = self.pad(examples)
        self.num_real += sum(len(example["input_ids"]) for example in examples)
        self.num_padded += batch["input_ids"].numel()
        return batch

    def padding_share(self) -> float:
        return 1 - self.num_real / self.num_padded


class EpochClock(TrainerCallback):
    """A callback that measures the seconds of an epoch, without the Trainer's work before and after the epoch."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.seconds = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        synchronise(self.hardware)
        self.seconds = time.perf_counter() - self.started


class ImdbclsTraining(System):
    """Train as `imdbcls.train` does, but without validation and checkpoints."""

    def __init__(self, settings: Settings) -> None:
        config = imdbcls.compose(*settings["choices"], f"epochs={settings['rounds'] + 1}")
        run = build.build_run(config, RunFolder(Path(config.runs_dir) / "imdbcls"), StopRequest())
        self.hardware, self.encoder, self.trainer = run.hardware, run.backbone.encoder, run.trainer
        documents = run.corpus.train.take(range(min(config.batch_size, len(run.corpus.train))))
        tokens = tokenize(documents, run.backbone.tokenizer, cache_dir=run.pipeline.cache_dir)
        self.first_batches = run.pipeline.eval_batches(tokens, documents.labels)

    def first_loss(self) -> float:
        probabilities_NC = predict_probabilities(self.trainer.model, self.first_batches, self.hardware)
        log_probabilities_NC = torch.from_numpy(probabilities_NC).log()
        return F.nll_loss(log_probabilities_NC, torch.from_numpy(self.first_batches.labels)).item()

    def warm_up(self) -> None:
        self.round()

    def round(self) -> float:
        trainer, tracker = self.trainer, Trackers()
        trainer.model.train()
        batches = Prefetcher(trainer.batches.train.epoch(0))
        started = time.perf_counter()
        for batch in batches:
            trainer.step(batch)
            batches.prefetch()
            trainer.count(batch)
            if trainer.log_is_due:
                trainer.fetch_metrics()
            trainer.count_time(time.perf_counter() - started)
            trainer.log(tracker, trainer.pop_train_metrics())
        trainer.fetch_metrics()
        synchronise(self.hardware)
        return time.perf_counter() - started

    def forward_flops(self) -> int:
        batch = next(iter(self.batches())).to(self.hardware.device)
        with torch.inference_mode(), self.hardware.forward_pass():
            hidden_BTD = self.trainer.model.encode(batch.input_ids_BT, batch.mask_BT, batch.token_indices_N)
        return forward_flops(self.encoder, self.lengths(), first_token_only=hidden_BTD.shape[1] == 1)

    def precision(self) -> str:
        return self.hardware.precision

    def batches(self) -> Iterable[Batch]:
        return self.trainer.batches.train.epoch(0)

    def padding_share(self) -> float:
        batches = list(self.batches())
        return 1 - sum(batch.num_tokens for batch in batches) / sum(batch.input_ids_BT.numel() for batch in batches)

    def lengths(self) -> list[int]:
        return [length for batch in self.batches() for length in batch.mask_BT.sum(dim=1).tolist()]


class ImdbclsPrediction(ImdbclsTraining):
    """Prediction of the test split by imdbcls."""

    def round(self) -> float:
        started = time.perf_counter()
        predict_probabilities(self.trainer.model, self.trainer.batches.test, self.hardware)
        return time.perf_counter() - started

    def batches(self) -> Iterable[Batch]:
        return self.trainer.batches.test


class Machine:
    """The hardware on which all systems run."""

    def __init__(self, settings: Settings) -> None:
        self.hardware = sections.build_hardware(imdbcls.compose(*settings["choices"]))

    def describe(self) -> dict[str, str]:
        return {"device": self.hardware.describe(), "precision": self.hardware.precision, **versions()}

    def peaks_gflops(self) -> dict[str, float]:
        """Return the peak GFLOP/s of matrix products in each precision: fp32, and bf16 if the hardware supports it."""
        precisions = {"bf16": torch.bfloat16, "fp32": torch.float32}
        device = self.hardware.device
        return {
            precision: matrix_peak_gflops(device, dtype)
            for precision, dtype in precisions.items()
            if precision == "fp32" or computes_bf16(device.type)
        }


def synchronise(hardware: Hardware) -> None:
    """Wait until the device has finished all queued work."""
    if hardware.device.type == "cuda":
        torch.cuda.synchronize(hardware.device)
