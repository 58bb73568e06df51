"""What a candidate is worth: its data, its cost on a device, and its score."""
