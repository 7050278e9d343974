"""The parts of a run: its settings, its folder, its data and model, its processes."""
