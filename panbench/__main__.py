"""`python -m panbench`."""

from panbench.cli.app import main

main()
