"""What every other package uses: errors, files, downloads, text, provenance."""
