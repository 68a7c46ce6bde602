"""Outcomes of candidates: batch norm measured anew, a short fine-tune, accuracy on held-out images."""
