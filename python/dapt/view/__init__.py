"""Pictures and charts of clouds, models and runs."""
