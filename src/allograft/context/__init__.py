"""What a recipe runs in: settings, the journal of a run, the store of finished units, and
``Context`` itself."""

from allograft.context.context import Context
from allograft.context.journal import Journal, NoJournal
from allograft.context.meter import Meter
from allograft.context.nodes import Node, units_of
from allograft.context.settings import Budget, Settings
from allograft.context.store import Store

__all__ = ["Budget", "Context", "Journal", "Meter", "NoJournal", "Node", "Settings", "Store", "units_of"]
