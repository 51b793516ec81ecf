"""Changes of an image as pure functions on tensors, usable without the rest of Allograft."""
