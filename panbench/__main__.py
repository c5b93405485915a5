"""Runs the command line as `python -m panbench`."""

from panbench.cli.app import main

main()
