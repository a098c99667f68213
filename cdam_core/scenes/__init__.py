"""The scenes model: drawings, composed scenes with exact masks, training and quality."""
