"""Layers that import only torch, usable in anybody's network."""
