"""A network of mer_fast in a LightningModule: python examples/lightning_module.py

Needs pytorch-lightning. `import lightning` has the same classes, if that is what you have installed.
"""

import pytorch_lightning as lightning
import torch
from synthetic_clips import frame_pairs
from torch.utils.data import DataLoader, TensorDataset

from mer_fast import losses, models, ops


class FlowClassifier(lightning.LightningModule):
    """STRCN-G on optical flow; its recurrent convolutions run in mer_fast's kernels, forward and backward."""

    def __init__(self, classes=3, width=16, rate=0.02):
        super().__init__()
        self.save_hyperparameters()
        self.network = models.create("strcn-g", classes, width=width)
        self.loss = losses.BalancedFocalLoss(torch.ones(classes))
        self.history = []

    def forward(self, flow):
        return self.network(flow)

    def training_step(self, batch, index):
        flow, labels = batch
        loss = self.loss(self(flow), labels)
        self.history.append(loss.item())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate, momentum=0.9, weight_decay=5e-4)


def main(epochs=5):
    lightning.seed_everything(0)
    onset, apex, labels = frame_pairs()
    flow = ops.tvl1_flow(onset, apex)  # once, before training: (N, 2, 64, 64)
    module = FlowClassifier()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="auto", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(TensorDataset(flow, labels), batch_size=6, shuffle=True))
    print("losses", [round(loss, 3) for loss in module.history])
    return module.history


if __name__ == "__main__":
    main()
