"""What `loadtest/endurance.py` measures and how it judges it."""
