"""Scores as pure functions on tensors, usable without the rest of Allograft."""
