"""iPhones and Macs: devicectl, the runner app's jobs, Core ML."""
