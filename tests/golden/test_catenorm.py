"""Categorical normalisation against arrays made with the released layer (reduction 2)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from allograft.nn.catenorm import CategoricalNorm2d
from allograft.tasks.segmentation import squared_dice_loss

NAMES = {"mlp_shared__0__": "shared.", "mlp_gamma__": "gamma.", "mlp_beta__": "beta.", "running_": "norm.running_"}
"""The released layer's names -> ours."""


@pytest.fixture(scope="module")
def arrays(vectors_root: Path):
    with np.load(vectors_root / "catenorm_layer_r2.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


def layer(arrays, **options) -> CategoricalNorm2d:
    made = CategoricalNorm2d(16, 3, **options)
    state = {"norm.num_batches_tracked": torch.tensor(0)}
    for theirs, ours in NAMES.items():
        state |= {name.replace(theirs, ours): value for name, value in arrays.items() if name.startswith(theirs)}
    made.load_state_dict(state)
    return made


def test_evaluation_uses_the_running_statistics(arrays):
    made = layer(arrays).eval()
    torch.testing.assert_close(made(arrays["x"], arrays["seg"]), arrays["y_eval_soft"], rtol=0, atol=1e-4)
    assert torch.equal(made.norm.running_mean, arrays["running_mean"])


def test_training_uses_the_batch(arrays):
    made = layer(arrays).train()
    torch.testing.assert_close(made(arrays["x"], arrays["seg"]), arrays["y_train_soft"], rtol=0, atol=1e-4)
    mean = 0.9 * arrays["running_mean"] + 0.1 * arrays["x"].mean((0, 2, 3))
    torch.testing.assert_close(made.norm.running_mean, mean)


def test_nearest_resizing(arrays):
    made = layer(arrays, resize="nearest").eval()
    torch.testing.assert_close(made(arrays["x"], arrays["seg"]), arrays["y_eval_hard"], rtol=0, atol=1e-4)


def test_the_dice_loss_of_several_classes(vectors_root: Path):
    """The released code takes the batch as one image, so it is made one here."""
    with np.load(vectors_root / "catenorm_losses.npz") as stored:
        logits, target, expected = (torch.from_numpy(stored[name]) for name in ("logits4", "target4", "dice4"))
    one, truth = torch.cat([*logits], dim=1)[None], torch.cat([*target])[None]
    torch.testing.assert_close(squared_dice_loss(one, truth, truth >= 0)[0], expected, rtol=0, atol=1e-4)
