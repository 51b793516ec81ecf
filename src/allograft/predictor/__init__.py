"""Predictors: from images to predictions, saved and loaded as one folder whatever the method."""

from allograft.predictor.direct import Direct, Prediction, Predictor, quiet
from allograft.predictor.folder import load_predictor, save_predictor

__all__ = ["Direct", "Prediction", "Predictor", "load_predictor", "quiet", "save_predictor"]
