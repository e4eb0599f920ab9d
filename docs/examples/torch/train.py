"""Trains a small network, exports it beside this file, and writes the settings that serve it.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from sklearn.datasets import load_iris

FOLDER = Path(__file__).resolve().parent
SETTINGS = {
    "name": "iris",
    "implementation": "mlserve_torch.TorchModel",
    "max_batch_size": 32,
    "max_batch_time": 0.005,
    "parameters": {"uri": "./model.pt2", "version": "v1"},
}


class Net(torch.nn.Module):
    """Two layers; gives the species and the probability of each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def forward(self, flowers: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.layers(flowers)
        return {"species": scores.argmax(1), "probabilities": scores.softmax(1)}


def trained(features: torch.Tensor, species: torch.Tensor) -> Net:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net.layers(features), species).backward()
        optimizer.step()
    return net.eval()


def main() -> None:
    features, species = (torch.tensor(one) for one in load_iris(return_X_y=True))
    features = features.float()
    net = trained(features, species)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (features[:2],), dynamic_shapes={"flowers": {0: batch}})
    torch.export.save(program, FOLDER / "model.pt2")
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    right = (net(features)["species"] == species).float().mean()
    print(f"{FOLDER / 'model.pt2'}: {right:.1%} right on its own training data")


if __name__ == "__main__":
    main()
