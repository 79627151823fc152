"""Any browser as a device: a local page that runs the bundle's ONNX artifacts."""
