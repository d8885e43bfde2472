"""A network of mer_fast under Hugging Face's Trainer: python examples/hf_trainer.py

Needs transformers and accelerate. The Trainer asks for a module that takes the batch by names and gives {"loss", "logits"}.
"""

import tempfile

import torch
from synthetic_clips import gray_clips
from torch import nn
from transformers import Trainer, TrainingArguments

from mer_fast import models


class WithLoss(nn.Module):
    """Any network of clips; `labels` may be missing, as in prediction."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, clips, labels=None):
        logits = self.network(clips)
        return {"logits": logits} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main(epochs=5):
    torch.manual_seed(0)
    clips, labels = gray_clips()
    dataset = [{"clips": clip, "labels": label} for clip, label in zip(clips, labels, strict=True)]
    model = WithLoss(models.create("microexpstcnn", 3, frames=18, dropout=0.2))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=4, learning_rate=3e-4, logging_steps=1,
            save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
            seed=0,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=dataset)
        trainer.train()
        found = trainer.predict(dataset)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print("losses", [round(loss, 3) for loss in losses])
    print(f"right on the clips that it was trained on: {(found.predictions.argmax(1) == labels.numpy()).mean():.0%}")
    return losses


if __name__ == "__main__":
    main()
