"""Predictors: from images to predictions, saved and loaded as one folder whatever the method."""

from allograft.predictor.direct import Direct, Prediction, Predictor, Weights, evaluation_mode
from allograft.predictor.folder import load_predictor, save_predictor

__all__ = ["Direct", "Prediction", "Predictor", "Weights", "evaluation_mode", "load_predictor", "save_predictor"]
