"""``python -m allograft`` is the command ``allograft``."""

from allograft.cli import main

if __name__ == "__main__":
    main()
