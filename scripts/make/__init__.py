"""Programs that make files: of this repository, and the data sets that benchmarks and tests run on."""
