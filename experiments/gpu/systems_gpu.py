"""The compared systems on a GPU: `imdbcls`, and the Hugging Face Trainer with its fastest options.

Both extend classes in `experiments/throughput/systems.py`, and train the same weights on the same documents. Each has
`first_loss`, `flops` and `seconds`.
"""

import os
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import islice
from typing import Any

import torch
from machine import forward_flops
from systems import Baseline, EpochClock, ImdbclsTraining, LossModel, synchronise
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerControl, TrainingArguments

PROFILED_STEPS = 4
NUM_WORKERS = 4  # processes that collate the Trainer's batches


def has_flash_attention() -> bool:
    """Return whether flash-attn is installed. transformers then offers `flash_attention_2`."""
    return find_spec("flash_attn") is not None


def head_flops(head: nn.Module, lengths: list[int]) -> int:
    """Return the operations of the LSTM layers of a head in a forward pass over all documents.

    The operations of cls and weight_avg are not counted, because they are few.
    """
    weights = sum(
        weight.numel()
        for module in head.modules()
        if isinstance(module, nn.LSTM)
        for weight in module.parameters()
        if weight.dim() == 2
    )
    return 2 * weights * sum(lengths)


class Imdbcls(ImdbclsTraining):
    """Training with the code and the defaults of `imdbcls.train`."""

    def __init__(self, settings: Mapping[str, Any], compiled: bool) -> None:
        super().__init__({**settings, "choices": (*settings["choices"], f"compile={str(compiled).lower()}")})

    def flops(self) -> int:
        """Return the operations of a round, counted as three forward passes over the real tokens."""
        return 3 * (self.forward_flops() + head_flops(self.trainer.model.head, self.lengths()))

    def seconds(self, rounds: int, may_go_on: Callable[[], bool]) -> list[float]:
        """Warm up with one round. Return the seconds of each of the next rounds."""
        self.warm_up()
        found: list[float] = []
        while len(found) < rounds and (not found or may_go_on()):
            found.append(self.round())
        return found

    def kernels(self) -> dict[str, Any]:
        """Return the GPU's computing time in a step, the number of kernels, and the ten most expensive kernels.

        If a step takes much longer than its kernels, the GPU waits for the host.
        """
        batches = list(islice(self.batches(), PROFILED_STEPS))
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        on_cuda = self.hardware.device.type == "cuda"
        started = time.perf_counter()
        for batch in batches:
            self.trainer.step(batch)
        synchronise(self.hardware)
        seconds = (time.perf_counter() - started) / len(batches)
        with profile(activities=activities if on_cuda else activities[:1]) as recorded:
            for batch in batches:
                self.trainer.step(batch)
            synchronise(self.hardware)
        self.trainer.fetch_metrics()
        # Leave out annotations, such as the optimizer's: the kernels inside them are already counted.
        events = [
            event
            for event in recorded.key_averages()
            if str(event.device_type).endswith("CUDA") and not event.is_user_annotation
        ]
        events.sort(key=lambda event: -event.self_device_time_total)
        return {
            "step_ms": 1000 * seconds,
            "kernels_ms": sum(event.self_device_time_total for event in events) / 1000 / len(batches),
            "num_kernels": sum(event.count for event in events) / len(batches),
            "longest": [
                {"name": event.key[:120], "ms": event.self_device_time_total / 1000 / len(batches)}
                for event in events[:10]
            ],
        }


class TrainerAtItsBest(Baseline):
    """The Trainer with bf16, batches grouped by length, no attention dropout, fused AdamW and parallel collation.

    With `flash`, attention is `flash_attention_2`, else PyTorch's `scaled_dot_product_attention`.
    """

    def __init__(self, settings: Mapping[str, Any], *, compiled: bool = False, flash: bool = False) -> None:
        super().__init__(settings, attention_dropout="0.0")
        if flash:
            self.encoder.set_attn_implementation("flash_attention_2")
        on_cuda = self.hardware.device.type == "cuda"
        self.clock = RoundClock(self.hardware)
        os.environ["ACCELERATE_DYNAMO_USE_DYNAMIC"] = "1"  # compile once for all lengths
        arguments = TrainingArguments(
            output_dir=self.config.runs_dir,  # required, but nothing is written to it
            use_cpu=not on_cuda,
            bf16=self.hardware.precision == "bf16",
            train_sampling_strategy="group_by_length",
            per_device_train_batch_size=self.config.batch_size,
            num_train_epochs=1 + settings["rounds"],
            torch_compile=compiled,
            dataloader_num_workers=NUM_WORKERS if on_cuda else 0,
            dataloader_persistent_workers=on_cuda,
            logging_strategy="no",
            logging_nan_inf_filter=False,  # the filter would wait for the GPU in each step
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        self.trainer = Trainer(
            model=LossModel(self.model),
            args=arguments,
            train_dataset=self.train_examples,
            processing_class=self.tokenizer,
            data_collator=DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=8),
            callbacks=[self.clock],
        )
        self.trainer.remove_callback(PrinterCallback)

    @torch.no_grad()
    def first_loss(self) -> float:
        first = self.trainer.data_collator(self.train_examples[: self.config.batch_size])
        self.model.eval()
        with self.hardware.forward_pass():
            output = self.trainer.model(**first.to(self.hardware.device))
        return output["loss"].item()

    def flops(self) -> int:
        lengths = self.lengths()
        encoder = forward_flops(self.encoder, lengths, first_token_only=False)
        return 3 * (encoder + head_flops(self.model.head, lengths))

    def seconds(self, rounds: int, may_go_on: Callable[[], bool]) -> list[float]:
        """Warm up with one epoch, which contains all tensor shapes. Return the seconds of each of the next epochs."""
        self.clock.may_go_on = may_go_on
        self.trainer.train()
        return self.clock.all_seconds[1 : 1 + rounds]


class RoundClock(EpochClock):
    """A callback that measures the seconds of each epoch, and ends training if there is no time for another epoch."""

    may_go_on: Callable[[], bool]

    def __init__(self, hardware: Any) -> None:
        super().__init__(hardware)
        self.all_seconds: list[float] = []

    def on_epoch_end(self, arguments: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        super().on_epoch_end()
        self.all_seconds.append(self.seconds)
        control.should_training_stop = len(self.all_seconds) > 1 and not self.may_go_on()
