"""What a run is made of and leaves: its settings, its folder, its data and model, its processes."""
