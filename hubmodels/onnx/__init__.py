"""Detectors as ONNX files: export, the graph, and the runtime, which needs no torch."""
