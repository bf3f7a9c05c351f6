"""3BPA and the embedded sample in its format."""
