"""Generative adversarial networks in PyTorch Lightning, measured against known truth."""
