"""`python -m platen` is `platen`."""

from platen.cli.main import main

main()
