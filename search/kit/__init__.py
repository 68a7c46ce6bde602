"""Kits: folders of small ONNX files, and a script that measures them on the device where networks are deployed."""
