"""What makes up a run: its settings, its folder, its data and model, its processes."""
