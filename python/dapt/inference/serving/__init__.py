"""`dapt serve`: several adapters behind HTTP, with their clouds batched together.

shelf.py       the served adapters, loaded and unloaded while others run
intake.py      from the bytes of a request to clouds, within limits
batching.py    batches of waiting clouds
work.py        preparation of a cloud, and its labels from the logits
answers.py     from labels to JSON, npz, ply, las
metrics.py     metrics for Prometheus
limits.py      the limits of a request, and how it is refused
service.py     a request from its first byte to its answer
app.py         the routes
running.py     the process: its socket, slow clients, how it stops
"""
