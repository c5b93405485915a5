"""`python -m panbench`, as torchrun starts it."""

from panbench.cli.app import main

main()
