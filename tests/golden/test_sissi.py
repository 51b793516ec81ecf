"""The start of SISSI's correction against the released code: its fits of the curve, and the epoch
that they name."""

from pathlib import Path

import numpy as np
import pytest

from allograft.methods.sissi import early_learning_ended, fit_early_learning


@pytest.mark.parametrize("curve", ["0", "1", "2"])
def test_the_curve_is_fitted_as_released(vectors_root: Path, curve: str) -> None:
    with np.load(vectors_root / "sissi_adele.npz") as stored:
        ap50, epochs, fits = (stored[name + curve] for name in ("iou", "update_epoch", "fit_abc"))
    for count in range(3, 16):
        assert fit_early_learning(ap50[:count].tolist()) == pytest.approx(fits[count - 3].tolist(), abs=2e-3)
        # the released code counts the epochs whose slope has not fallen by 90 %, and adds one
        assert early_learning_ended(ap50[:count].tolist()) == (count >= epochs[count - 3])
