"""Adapting one 256 x 256 slice with seven donors, against the bare cost of one forward and seven
inverse real FFTs."""

from __future__ import annotations

import torch
from ratio import compare

from allograft.transforms.fourier import low_amplitude, swap_kept_amplitude, swap_low_amplitude


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    image, donors = torch.rand(1, 256, 256, generator=rng), torch.rand(7, 1, 256, 256, generator=rng)

    def bare() -> None:
        for _ in range(10):
            spectrum = torch.fft.rfft2(image)
            for _ in range(7):
                torch.fft.irfft2(spectrum, s=(256, 256))

    for beta, limit in ((0.01, 0.8), (0.05, 0.8), (0.1, 1.5), (0.2, 1.5)):
        kept = low_amplitude(donors, beta)

        def ours(kept: torch.Tensor = kept, beta: float = beta) -> None:
            for _ in range(10):
                swap_low_amplitude(image, kept, beta)

        compare(f"fourier_beta_{beta}".replace(".", "p"), ours, bare, limit=limit, rounds=21)

    kept = low_amplitude(donors, 0.01)

    def to_the_bit() -> None:
        for _ in range(10):
            swap_kept_amplitude(image, kept, 0.01)

    def batched() -> None:
        for _ in range(10):
            torch.fft.irfft2(torch.fft.rfft2(image).expand(7, 1, -1, -1), s=(256, 256))

    compare("fourier_kept_amplitude", to_the_bit, batched, limit=2.2, rounds=21)


if __name__ == "__main__":
    main()
