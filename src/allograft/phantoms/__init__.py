"""Phantoms: small synthetic cohorts whose shift between sites is known. Tests, the documentation
and the demo run on them.

Each phantom is a module with a ``write_*`` function; it needs NumPy, SciPy and the image writers,
and no torch.
"""
