"""`python -m panbench`, as torchrun starts it."""

from panbench.cli import main

main()
