"""Evaluates models on datasets, on one or several GPUs; also measures speed and segments photographs."""
