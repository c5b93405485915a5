"""Tools around the evaluation: benchmark, photographs, live logs, the machine's check-up."""
