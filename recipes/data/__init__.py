"""Where training and validation samples come from."""
