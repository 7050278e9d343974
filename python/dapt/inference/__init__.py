"""Apply a trained model: score a dataset; label files, objects and scenes; export; serve."""
