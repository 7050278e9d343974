"""`dapt serve`: models of several adapters behind HTTP, clouds of all of them in one batch.

shelf.py       the adapters that are served, loaded and unloaded while others run
intake.py      from the bytes of a request to clouds, with bounds
batching.py    clouds that wait go through the network together
work.py        what is done to a cloud before and after that
answers.py     from labels to JSON, npz, ply, las
metrics.py     what Prometheus reads
app.py         the routes
running.py     the process: its socket, slow clients, how it stops
"""
