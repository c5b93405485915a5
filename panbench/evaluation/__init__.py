"""Models run on data: one evaluation, several, on several GPUs, timed, or on photographs."""
