"""Domain-specific batch normalisation: a batch normalisation for each site, the image's own chooses
(Chang et al. 2019)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from allograft.errors import SpecError
from allograft.nn.batchnorm import batch_norm


class DomainBatchNorm(nn.Module):
    """For an image x of domain d ``gamma_d (x - mu_d) / sigma_d + beta_d``; mu_d and sigma_d are
    those of the batch's images of d.

    Each domain has running statistics and parameters of its own. The domains of a batch are told by
    ``at_domains``.

    Args:
        norm: what each domain begins with a copy of.
        domains: how many there are.

    Example:
        >>> layer = DomainBatchNorm(nn.BatchNorm2d(4), 2)
        >>> with at_domains(layer, torch.tensor([0, 1, 0])):
        ...     layer(torch.randn(3, 4, 5, 5)).shape
        torch.Size([3, 4, 5, 5])
    """

    def __init__(self, norm: _BatchNorm, domains: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(copy.deepcopy(norm) for _ in range(domains))
        self.domain: Tensor | None = None
        self.present: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C, *spatial).

        Raises:
            SpecError: nobody has said which domains the images are of.
        """
        if self.domain is None:
            raise SpecError(
                "domain-specific batch normalisation: the images' domains are unknown here; call it inside at_domains"
            )
        normal = torch.empty_like(x)
        for domain_index in self.present:
            rows = self.domain == domain_index
            normal[rows] = batch_norm(x[rows], self.branches[domain_index]).to(x.dtype)  # type: ignore[arg-type]
        return normal


@contextmanager
def at_domains(module: nn.Module, domain: Tensor) -> Iterator[None]:
    """Inside, every ``DomainBatchNorm`` of the module takes the images to be of these domains: (B,)
    int64.

    Raises:
        SpecError: a number that is no domain's.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, DomainBatchNorm)]
    count = min((len(layer.branches) for layer in layers), default=0)
    if layers and len(domain) and not (int(domain.min()) >= 0 and int(domain.max()) < count):
        raise SpecError(f"domains {sorted(set(domain.tolist()))}; this normalisation knows 0 to {count - 1}")
    present = everywhere(domain, count) if module.training else sorted(set(domain.tolist()))
    for layer in layers:
        layer.domain, layer.present = domain, present
    try:
        yield
    finally:
        for layer in layers:
            layer.domain, layer.present = None, []


def everywhere(domain: Tensor, count: int) -> list[int]:
    """The domains in the batches of all processes: statistics are taken together, so each process
    must come by each of them."""
    present = torch.zeros(count, dtype=torch.int64, device=domain.device).index_fill_(0, domain, 1)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(present, dist.ReduceOp.MAX)
    return present.nonzero()[:, 0].tolist()
