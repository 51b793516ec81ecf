"""One paper, one file, read from top to bottom. The table of names is
``allograft.table.METHODS``."""
