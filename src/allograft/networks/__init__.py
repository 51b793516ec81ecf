"""Networks: encoder, decoder and heads behind one interface, built from a spec that a model folder
can hold."""

from allograft.networks.load import LoadReport
from allograft.networks.network import AnyNetwork, Network, Wrapped, build, copied, count_parameters, own_spec, rebuilt
from allograft.networks.rebuildable import rebuildable, remade
from allograft.networks.rehead import reheaded, transfer
from allograft.networks.scopes import SCOPES, scope_parameters, trainable

__all__ = [
    "SCOPES",
    "AnyNetwork",
    "LoadReport",
    "Network",
    "Wrapped",
    "build",
    "copied",
    "count_parameters",
    "own_spec",
    "rebuildable",
    "rebuilt",
    "reheaded",
    "remade",
    "scope_parameters",
    "trainable",
    "transfer",
]
